package guard

import "context"

func imageList(c *call) error         { return c.notYet() }
func imageSearch(c *call) error       { return c.notYet() }
func imageCreate(c *call) error       { return c.notYet() }
func imageLoad(c *call) error         { return c.notYet() }
func imageSave(c *call) error         { return c.notYet() }
func imagePrune(c *call) error        { return c.notYet() }
func imageSaveOne(c *call) error      { return c.notYet() }
func imageInspect(c *call) error      { return c.notYet() }
func imageHistory(c *call) error      { return c.notYet() }
func imageAttestations(c *call) error { return c.notYet() }
func imagePush(c *call) error         { return c.notYet() }
func imageTag(c *call) error          { return c.notYet() }
func imageRemove(c *call) error       { return c.notYet() }
func distribution(c *call) error      { return c.notYet() }

// image is one image of the Engine that the job may use.
type image struct {
	ID      string   // of the Engine
	Stored  string   // the Engine's name for it, "" if it was named by ID
	Written string   // the name as the job knows it
	Volumes []string // that its configuration declares
	OnBuild []string // triggers in its configuration
}

// readImage finds an image that the job may use by name, ID or beginning of an ID. What it may not use does not exist.
func (c *call) readImage(ctx context.Context, ref string) (image, error) { return image{}, errNotYet }

// writeName is the Engine's name for an image that the job names so, and records it before it is written. done must be
// called with the image's ID, "" if it was not written after all.
func (c *call) writeName(ctx context.Context, ref string) (stored string, done func(id string), err error) {
	return "", nil, errNotYet
}

// pullOptions say how an image is pulled.
type pullOptions struct {
	Platform string
	Auth     string                  // X-Registry-Auth, as the client sent it; "" = none
	Progress func(line []byte) error // each line of the Engine's answer; may be nil
}

// pull fetches an image from its registry for the job, records that, and returns it. It obeys the rule for registries.
func (c *call) pull(ctx context.Context, ref string, o pullOptions) (image, error) {
	return image{}, errNotYet
}

// alias gives an image a name for its ID, by which a Dockerfile can name exactly this image; it ends with the job.
func (c *call) alias(ctx context.Context, img image) (string, error) { return "", errNotYet }

// allowHost refuses a registry that the Engine must not be sent to for a job: the Engine reaches what the job cannot.
func (c *call) allowHost(ctx context.Context, host string) error { return errNotYet }

// writtenName is the name as the job knows it of a name of the Engine's, "" if the job must not see it.
func (g *Guard) writtenName(stored string) string { return "" }
