package guard

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/ledger"
)

var (
	fullID   = regexp.MustCompile(`^(sha256:)?[0-9a-f]{64}$`)
	idPrefix = regexp.MustCompile(`^(sha256:)?[0-9a-f]{1,63}$`)
)

// parseName reads a client's name of an image. The error is the Engine's.
func parseName(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, badRequest("%v", err)
	}
	return named, nil
}

// splitTag cuts the tag off a canonical name.
func splitTag(name string) (repo, tag string) {
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		return name[:i], name[i+1:]
	}
	return name, ""
}

// familiar is a canonical name as people write it.
func familiar(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

// scope is whose images the job may use.
func (p Policy) scope() ledger.Scope { return ledger.Scope{ID: p.Scope, Path: p.ImagePath} }

// readImage finds an image that the job may use by name, ID or beginning of an ID. What it may not use does not exist.
func (c *call) readImage(ctx context.Context, ref string) (image, error) {
	img, _, err := c.findImage(ctx, ref)
	return img, err
}

func (g *Guard) findImage(ctx context.Context, ref string) (image, imageDoc, error) {
	if fullID.MatchString(ref) {
		return g.imageByID(ctx, ref, ref)
	}
	named, err := parseName(ref)
	if err == nil {
		for _, cand := range g.policy.scope().Candidates(named) {
			img, doc, found, err := g.imageByName(ctx, cand)
			if err != nil || found {
				return img, doc, err
			}
		}
	}
	if idPrefix.MatchString(ref) {
		id, err := g.expandID(ctx, ref)
		if err != nil {
			return image{}, imageDoc{}, err
		}
		return g.imageByID(ctx, id, ref)
	}
	if err == nil {
		err = noImage(ref)
	}
	return image{}, imageDoc{}, err
}

// tries bounds how often a question is asked anew because the answer may have changed while it was asked.
const tries = 20

// imageByName finds what one candidate means, if anything.
func (g *Guard) imageByName(ctx context.Context, cand ledger.Candidate) (image, imageDoc, bool, error) {
	calls := &lookingCalls{imageCalls: imageCalls{g}}
	found, err := g.images.FindName(ctx, calls, g.policy.scope(), cand)
	if err != nil || found.ID == "" {
		return image{}, imageDoc{}, false, err
	}
	if err := g.images.Use(cand.Stored, time.Now()); err != nil {
		return image{}, imageDoc{}, false, err
	}
	return newImage(calls.doc, cand), calls.doc, true, nil
}

func newImage(doc imageDoc, cand ledger.Candidate) image {
	img := image{ID: doc.ID, Stored: cand.Stored}
	if cand.Written != "" {
		img.Written = familiar(cand.Written)
	}
	for v := range doc.Config.Volumes {
		img.Volumes = append(img.Volumes, v)
	}
	slices.Sort(img.Volumes)
	return img
}

// meaning is what a name of the Engine's means for the job.
func (g *Guard) meaning(stored string) (ledger.Meaning, error) {
	return g.images.Meaning(stored, g.policy.Scope)
}

// digestVisible decides on a name with a digest that is not in the ledger.
func (g *Guard) digestVisible(name string, doc imageDoc) (bool, error) {
	return g.images.DigestVisible(name, g.policy.Scope, doc.image())
}

// imageByID finds an image by its full ID, if a name that the job may read leads to it or the job made it. ref is what
// the client wrote.
func (g *Guard) imageByID(ctx context.Context, id, ref string) (image, imageDoc, error) {
	if !strings.HasPrefix(id, "sha256:") {
		id = "sha256:" + id
	}
	for range tries {
		before, err := g.images.Version()
		if err != nil {
			return image{}, imageDoc{}, err
		}
		doc, found, err := g.inspectImage(ctx, id)
		if err != nil {
			return image{}, doc, err
		}
		if !found {
			return image{}, doc, noImage(ref)
		}
		if g.objects.ownsImage(doc.ID) {
			return newImage(doc, ledger.Candidate{}), doc, nil
		}
		names, err := g.namesOf(doc)
		switch {
		case err != nil:
			return image{}, doc, err
		case names.version > before:
			continue // a name may have been lent while the Engine was asked
		case !names.visible:
			return image{}, doc, noImage(ref)
		}
		return newImage(doc, ledger.Candidate{}), doc, nil
	}
	return image{}, imageDoc{}, ledger.ErrBusy
}

// expandID finds the image whose ID begins so among those that the job may use.
func (g *Guard) expandID(ctx context.Context, ref string) (string, error) {
	all, err := g.visibleImages(ctx)
	if err != nil {
		return "", err
	}
	found := ""
	for _, img := range all {
		if !strings.HasPrefix(img.id, "sha256:"+strings.TrimPrefix(ref, "sha256:")) {
			continue
		}
		if found != "" && found != img.id {
			return "", &apiError{http.StatusNotFound, "ambiguous image ID prefix: " + ref}
		}
		found = img.id
	}
	if found == "" {
		return "", noImage(ref)
	}
	return found, nil
}

// imageNames are the names of an image that the job may see, in the form in which people write them.
type imageNames struct {
	tags, digests []string
	visible       bool   // some name leads to it, be it one that the scope's own name hides
	version       uint64 // of the ledger, when a name that counts was last changed
}

// namesOf finds out what an image is called as far as the job may know.
func (g *Guard) namesOf(doc imageDoc) (imageNames, error) {
	own, err := g.images.Names(g.policy.Scope)
	if err != nil {
		return imageNames{}, err
	}
	return g.namesWith(own, doc)
}

// namesWith is namesOf for who knows the scope's own names already.
func (g *Guard) namesWith(own ledger.Names, doc imageDoc) (imageNames, error) {
	n := imageNames{tags: []string{}, digests: []string{}}
	for name, id := range own.Private {
		if id == doc.ID {
			n.visible = true
			if strings.Contains(name, "@") {
				n.digests = append(n.digests, familiar(name))
			} else {
				n.tags = append(n.tags, familiar(name))
			}
		}
	}
	for _, t := range doc.RepoTags {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil || own.Private[named.String()] != "" {
			continue // not a name: dangling records of the Engine
		}
		if err := g.addTag(&n, own, doc, named); err != nil {
			return n, err
		}
	}
	for _, d := range doc.RepoDigests {
		named, err := reference.ParseNormalizedNamed(d)
		if err != nil || own.Private[named.String()] != "" {
			continue
		}
		if err := g.addDigest(&n, own, doc, named); err != nil {
			return n, err
		}
	}
	slices.Sort(n.tags)
	slices.Sort(n.digests)
	n.tags, n.digests = slices.Compact(n.tags), slices.Compact(n.digests)
	return n, nil
}

// addTag adds one of the Engine's names of an image, if the job may see it.
func (g *Guard) addTag(n *imageNames, own ledger.Names, doc imageDoc, named reference.Named) error {
	name := named.String()
	if written, ok := own.Own[name]; ok {
		n.tags, n.visible = append(n.tags, familiar(written)), true
		return nil
	}
	m, err := g.meaning(name)
	if err != nil {
		return err
	}
	n.version = max(n.version, m.Version)
	if !m.Visible || m.ID != "" && m.ID != doc.ID {
		return nil
	}
	n.visible = true
	if tagged, ok := named.(reference.NamedTagged); ok && own.Own[ledger.OwnName(g.policy.Scope, tagged)] != "" {
		return nil // the scope has another image of that name
	}
	n.tags = append(n.tags, familiar(name))
	return nil
}

// addDigest does the same for a name with a digest.
func (g *Guard) addDigest(n *imageNames, own ledger.Names, doc imageDoc, named reference.Named) error {
	name := named.String()
	if strings.HasPrefix(named.Name(), ledger.Host+"/") {
		if w := own.WrittenRepository(named.Name()); w != "" {
			n.digests = append(n.digests, familiar(w+name[len(named.Name()):]))
		}
		return nil
	}
	m, err := g.meaning(name)
	if err != nil {
		return err
	}
	n.version = max(n.version, m.Version)
	visible := m.Visible && (m.ID == "" || m.ID == doc.ID)
	if visible && !m.Known {
		if visible, err = g.digestVisible(name, doc); err != nil {
			return err
		}
	}
	if visible {
		n.digests, n.visible = append(n.digests, familiar(name)), true
	}
	return nil
}

// writtenName is the name as the job knows it of a name of the Engine's, "" if the job must not see it.
func (g *Guard) writtenName(stored string) string {
	named, err := reference.ParseNormalizedNamed(stored)
	if err != nil {
		return ""
	}
	name := reference.TagNameOnly(named).String()
	own, err := g.images.Names(g.policy.Scope)
	if err != nil {
		return ""
	}
	if written := own.Own[name]; written != "" {
		return familiar(written)
	}
	if m, err := g.meaning(name); err != nil || !m.Visible || strings.HasPrefix(name, ledger.Host+"/") {
		return ""
	}
	return familiar(name)
}

// newName reads a name that an image is to be given, and refuses what the Engine would.
func newName(ref string) (reference.NamedTagged, error) {
	named, err := parseName(ref)
	if err != nil {
		return nil, err
	}
	if _, ok := named.(reference.Digested); ok {
		return nil, badRequest("refusing to create a tag with a digest reference")
	}
	if fullID.MatchString(ref) || reference.FamiliarName(named) == "sha256" {
		return nil, badRequest("refusing to create an ambiguous tag using digest algorithm as name")
	}
	tagged, ok := reference.TagNameOnly(named).(reference.NamedTagged)
	if !ok {
		return nil, badRequest("invalid reference format")
	}
	return tagged, nil
}

// writeName is the Engine's name for an image that the job names so, and records it before it is written. done must be
// called with the image's ID, "" if it was not written after all. stored is "" for names at the own path of the job's
// project: then the image must be made without a name, and done names it, so that no other job comes in between.
func (c *call) writeName(ctx context.Context, ref string) (stored string, done func(id string) error, err error) {
	tagged, err := newName(ref)
	if err != nil {
		return "", nil, err
	}
	if !c.objects.countName(tagged.String(), c.policy.Limits.Names) {
		if err := c.refuse(deny("limit-names", "give one image fewer names", "this job has named %d images", c.policy.Limits.Names)); err != nil {
			return "", nil, err
		}
	}
	if c.policy.scope().Holds(tagged) {
		return "", func(id string) error {
			if id == "" {
				return nil
			}
			ctx, cancel := detached(ctx)
			defer cancel()
			return c.images.Write(ctx, imageCalls{c.Guard}, tagged.String(), c.policy.Scope, id)
		}, nil
	}
	stored = ledger.OwnName(c.policy.Scope, tagged)
	if err := c.images.Own(stored, c.policy.Scope, tagged.String(), time.Now()); err != nil {
		return "", nil, err
	}
	return stored, func(id string) error {
		if id != "" {
			// Another job of the scope that failed to make it may have found nothing of that name, and forgotten it.
			return c.images.Own(stored, c.policy.Scope, tagged.String(), time.Now())
		}
		ctx, cancel := detached(ctx)
		defer cancel()
		_, found, err := c.inspectImage(ctx, stored)
		if err != nil || found {
			return err // it is the scope's from before
		}
		return c.images.Forget(stored)
	}, nil
}

// alias gives an image a name for its ID, by which a Dockerfile can name exactly this image; it ends with the last job
// that uses it. All jobs of the scope have the same one: it stands in the Dockerfile, which COPY . . puts into a layer.
func (c *call) alias(ctx context.Context, img image) (string, error) {
	name := c.aliasPrefix() + strings.TrimPrefix(img.ID, "sha256:")
	if c.objects.hasAlias(name) {
		return name, nil
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	use, err := c.images.Share(ctx, name, c.policy.Scope, time.Now())
	if err != nil {
		return "", err
	}
	if err := (imageCalls{c.Guard}).Tag(ctx, img.ID, name); err != nil {
		return "", errors.Join(err, use.Release(ctx, imageCalls{c.Guard}))
	}
	c.objects.addAlias(name, use)
	return name, nil
}

// aliasPrefix begins all names that alias gives.
func (g *Guard) aliasPrefix() string { return ledger.TemporaryName(g.policy.Scope, "id", "") }

// ownImage records that the job made an image, and holds it.
func (g *Guard) ownImage(ctx context.Context, id string) error {
	g.objects.addImage(id)
	_, err := g.hold(ctx, id)
	return err
}

// holdName is the name by which the job holds an image.
func (g *Guard) holdName(id string) string {
	return ledger.TemporaryName(g.policy.Scope, g.policy.Token, strings.TrimPrefix(id, "sha256:"))
}

// hold keeps an image on the Engine until the job ends, by a name that no job sees: another job may have made the very
// same image from the same layers, and end sooner.
func (g *Guard) hold(ctx context.Context, id string) (string, error) {
	name := g.holdName(id)
	if g.objects.hasHold(name) {
		return name, nil
	}
	if err := g.images.Borrow(name, g.policy.Scope, time.Now()); err != nil {
		return "", err
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := (imageCalls{g}).Tag(ctx, id, name); err != nil {
		return "", err
	}
	g.objects.addHold(name)
	return name, nil
}

// letGo ends the hold of images. Those that nobody else holds or names are gone then.
func (g *Guard) letGo(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		if err := (imageCalls{g}).Untag(ctx, name); err != nil {
			return err
		}
		g.objects.dropHold(name)
	}
	return g.images.Forget(names...)
}

// dropAliases ends the names that alias and hold gave.
func (g *Guard) dropAliases(ctx context.Context) error {
	errs := []error{g.letGo(ctx, g.objects.allHolds()...)}
	for _, use := range g.objects.takeAliases() {
		errs = append(errs, use.Release(ctx, imageCalls{g}))
	}
	return errors.Join(errs...)
}
