package guard

import (
	"context"
	"net/http"
	"net/url"

	"github.com/slipway-ci/slipway/internal/ledger"
)

// image is one image of the Engine that the job may use.
type image struct {
	ID      string   // of the Engine
	Stored  string   // the Engine's name for it, "" if it was named by ID
	Written string   // the name as the job knows it
	Volumes []string // that its configuration declares
	OnBuild []string // triggers in its configuration
}

// imageDoc is what the guard reads of the Engine's description of an image.
type imageDoc struct {
	ID          string `json:"Id"`
	RepoTags    []string
	RepoDigests []string
	Config      struct {
		Volumes map[string]struct{}
		OnBuild []string
	}
}

// inspectImage asks the Engine. found is false if it has no such image.
func (g *Guard) inspectImage(ctx context.Context, ref string) (doc imageDoc, found bool, err error) {
	err = g.engine.getJSON(ctx, "/images/"+ref+"/json", nil, &doc)
	if isStatus(err, http.StatusNotFound) {
		return doc, false, nil
	}
	return doc, err == nil, err
}

// imageCalls are the Engine's calls that the ledger makes.
type imageCalls struct{ g *Guard }

func (i imageCalls) Image(ctx context.Context, ref string) (ledger.Image, error) {
	doc, found, err := i.g.inspectImage(ctx, ref)
	if err != nil || !found {
		return ledger.Image{}, err
	}
	return ledger.Image{ID: doc.ID, RepoDigests: doc.RepoDigests}, nil
}

func (i imageCalls) Tag(ctx context.Context, id, name string) error {
	repo, tag := splitTag(name)
	return i.g.engine.callJSON(ctx, http.MethodPost, "/images/"+id+"/tag", url.Values{"repo": {repo}, "tag": {tag}}, nil, nil)
}

func (i imageCalls) Untag(ctx context.Context, name string) error {
	// Forced, because a container may use the image; its parents are left alone, because they may be another job's.
	err := i.g.engine.callJSON(ctx, http.MethodDelete, "/images/"+name, url.Values{"force": {"1"}, "noprune": {"1"}}, nil, nil)
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

func imageLoad(c *call) error    { return c.noArchive() }
func imageSave(c *call) error    { return c.noArchive() }
func imageSaveOne(c *call) error { return c.noArchive() }

func (c *call) noArchive() error {
	// There is nothing that audit mode could let pass: an archive brings names of its own.
	return deny("image-archive", "build the image in the job, or push it to a registry and pull it; archives come with the next version",
		"images cannot be loaded from archives or saved to them yet")
}
