package guard

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/progress"
)

// removed is one row of the answer to a removal.
type removed struct {
	Untagged string `json:",omitempty"`
	Deleted  string `json:",omitempty"`
}

// imageRemove takes names away that are the scope's own or the project's. What is only shared with the job stays, and
// that is a success, so that scripts which tidy up go on.
func imageRemove(c *call) error {
	if err := c.noBody(); err != nil {
		return err
	}
	ref := c.vars["name"]
	img, doc, err := c.findImage(c.ctx, ref)
	if err != nil {
		return err
	}
	ctx, cancel := detached(c.ctx)
	defer cancel()
	var out []removed
	if img.Stored != "" {
		out, err = c.untag(ctx, img)
	} else {
		out, err = c.removeByID(ctx, doc, c.flag("force"))
	}
	if err != nil {
		return err
	}
	if len(out) == 0 {
		c.once("image-shared", "slipway: images that are shared with other jobs stay on the machine: "+printable(ref))
	}
	c.json(http.StatusOK, out)
	return nil
}

// untag takes one name away from the job.
func (c *call) untag(ctx context.Context, img image) ([]removed, error) {
	untagged := []removed{{Untagged: img.Written}}
	m, err := c.meaning(img.Stored)
	if err != nil {
		return nil, err
	}
	switch {
	case strings.HasPrefix(img.Stored, ledger.Host+"/"):
		err = c.dropOwn(ctx, img.Stored)
	case m.ID != "" && m.Known && c.reads(img.Stored):
		err = c.images.Remove(ctx, imageCalls{c.Guard}, img.Stored, c.policy.Scope)
	default:
		return []removed{}, nil
	}
	if err != nil {
		return nil, err
	}
	return c.withDeleted(ctx, untagged, img.ID)
}

// reads reports whether a name is the scope's to read by itself.
func (g *Guard) reads(stored string) bool {
	own, err := g.images.Names(g.policy.Scope)
	return err == nil && own.Private[stored] != ""
}

// withDeleted lets an image go of which the job took the last name, and adds that it is gone.
func (c *call) withDeleted(ctx context.Context, rows []removed, id string) ([]removed, error) {
	doc, found, err := c.inspectImage(ctx, id)
	if err != nil {
		return nil, err
	}
	if found && c.objects.ownsImage(id) {
		names, err := c.namesOf(doc)
		if err != nil {
			return nil, err
		}
		if len(names.tags) > 0 {
			return rows, nil
		}
		gone, err := c.removeNameless(ctx, id)
		if err != nil {
			return nil, err
		}
		found = !gone
	}
	if !found {
		rows = append(rows, removed{Deleted: id})
	}
	return rows, nil
}

// removeByID takes all own names of an image away, and removes it if it is the job's and nobody has a name for it.
func (c *call) removeByID(ctx context.Context, doc imageDoc, force bool) ([]removed, error) {
	own, err := c.images.Names(c.policy.Scope)
	if err != nil {
		return nil, err
	}
	var names []image
	repos := map[string]bool{}
	add := func(stored, written string) {
		names = append(names, image{ID: doc.ID, Stored: stored, Written: familiar(written)})
		repo, _ := splitTag(written)
		repos[repo] = true
	}
	for _, t := range doc.RepoTags {
		if named, err := reference.ParseNormalizedNamed(t); err == nil && own.Own[named.String()] != "" {
			add(named.String(), own.Own[named.String()])
		}
	}
	for name, id := range own.Private {
		if id == doc.ID && !strings.Contains(name, "@") {
			add(name, name)
		}
	}
	if len(repos) > 1 && !force {
		return nil, &apiError{http.StatusConflict, fmt.Sprintf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", progress.ShortID(doc.ID))}
	}
	out := []removed{}
	for _, n := range names {
		rows, err := c.untag(ctx, n)
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	if len(names) > 0 || !c.objects.ownsImage(doc.ID) {
		return out, nil
	}
	// Another job may hold the very same image: then it is gone for this one.
	if _, err := c.removeNameless(ctx, doc.ID); err != nil {
		return nil, err
	}
	return append(out, removed{Deleted: doc.ID}), nil
}

// removeNameless lets an image go that the job made. gone says that nobody else holds it or has a name for it: the Engine
// sees that for itself when the name goes that held it.
func (g *Guard) removeNameless(ctx context.Context, id string) (gone bool, err error) {
	name, err := g.hold(ctx, id)
	if isStatus(err, http.StatusNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := g.letGo(ctx, name); err != nil {
		return false, err
	}
	doc, found, err := g.inspectImage(ctx, id)
	if err != nil {
		return false, err
	}
	if !found || len(doc.RepoTags) > 0 {
		g.objects.dropImage(id)
	} // else a container is made of it: it goes with the job
	return !found, nil
}

// imagePrune removes nameless images that the job made. Names are left: other jobs of the scope may use them, and they
// go by themselves when nobody does.
func imagePrune(c *call) error {
	if err := c.noBody(); err != nil {
		return err
	}
	f, err := c.readFilters("dangling", "label", "label!", "until")
	if err != nil {
		return err
	}
	f.Take("dangling") // or all that nobody uses: it is the same here
	keep, err := c.imageFilter(f)
	if err != nil {
		return err
	}
	ctx, cancel := detached(c.ctx)
	defer cancel()
	rows, err := c.visibleImages(ctx)
	if err != nil {
		return err
	}
	report := struct {
		ImagesDeleted  []removed
		SpaceReclaimed int64
	}{ImagesDeleted: []removed{}}
	for _, row := range rows {
		if len(row.tags)+len(row.digests) > 0 || !c.objects.ownsImage(row.id) || !keep(&row) {
			continue
		}
		gone, err := c.removeNameless(ctx, row.id)
		if err != nil {
			return err
		}
		if gone {
			report.ImagesDeleted = append(report.ImagesDeleted, removed{Deleted: row.id})
		}
	}
	c.json(http.StatusOK, report)
	return nil
}
