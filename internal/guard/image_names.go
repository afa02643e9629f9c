package guard

import (
	"context"
	"fmt"
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

// ownPath reports whether a name is at or below the own path of the job's project.
func (p Policy) ownPath(n reference.Named) bool {
	if p.ImagePath == "" {
		return false
	}
	name := n.Name()
	return name == p.ImagePath || strings.HasPrefix(name, p.ImagePath+"/")
}

// candidate is a name of the Engine's that a job's name may stand for.
type candidate struct {
	stored  string
	written string // canonical
}

// candidates are what a name may stand for, the first one that there is wins: names of the own path are kept, other
// names are first the scope's own and then everybody's.
func (g *Guard) candidates(n reference.Named) []candidate {
	if digested, ok := n.(reference.Digested); ok {
		// A tag beside a digest counts for nothing.
		at := "@" + digested.Digest().String()
		n = reference.TrimNamed(n)
		out := []candidate{{n.Name() + at, n.Name() + at}}
		if tagged, err := reference.WithTag(n, "x"); err == nil && !g.policy.ownPath(n) {
			repo, _ := splitTag(ledger.OwnName(g.policy.Scope, tagged))
			out = append([]candidate{{repo + at, n.Name() + at}}, out...)
		}
		return out
	}
	tagged, ok := reference.TagNameOnly(n).(reference.NamedTagged)
	if !ok {
		return nil
	}
	global := candidate{tagged.String(), tagged.String()}
	if g.policy.ownPath(n) {
		return []candidate{global}
	}
	return []candidate{{ledger.OwnName(g.policy.Scope, tagged), tagged.String()}, global}
}

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
		for _, cand := range g.candidates(named) {
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

// errBusy is the answer when others change a name faster than it can be read.
var errBusy = &apiError{http.StatusServiceUnavailable, "slipway: the image's name is being changed; try again"}

func (g *Guard) imageByName(ctx context.Context, cand candidate) (image, imageDoc, bool, error) {
	for range tries {
		m, err := g.meaning(cand.stored)
		if err != nil || !m.Visible {
			return image{}, imageDoc{}, false, err
		}
		ask := cand.stored
		if m.ID != "" {
			ask = m.ID
		}
		doc, found, err := g.inspectImage(ctx, ask)
		if err != nil {
			return image{}, doc, false, err
		}
		if found && !m.Known && strings.Contains(cand.stored, "@") && !strings.HasPrefix(cand.stored, ledger.Host+"/") {
			if found, err = g.digestVisible(cand.stored, doc); err != nil {
				return image{}, doc, false, err
			}
		}
		after, err := g.meaning(cand.stored)
		if err != nil {
			return image{}, doc, false, err
		}
		if after.Version != m.Version {
			continue
		}
		if !found {
			return image{}, doc, false, nil
		}
		if err := g.images.Use(cand.stored, time.Now()); err != nil {
			return image{}, doc, false, err
		}
		return newImage(doc, cand), doc, true, nil
	}
	return image{}, imageDoc{}, false, errBusy
}

func newImage(doc imageDoc, cand candidate) image {
	img := image{ID: doc.ID, Stored: cand.stored, OnBuild: doc.Config.OnBuild}
	if cand.written != "" {
		img.Written = familiar(cand.written)
	}
	for v := range doc.Config.Volumes {
		img.Volumes = append(img.Volumes, v)
	}
	slices.Sort(img.Volumes)
	return img
}

// meaning is what a name of the Engine's means for the job.
func (g *Guard) meaning(stored string) (ledger.Meaning, error) {
	m, err := g.images.Meaning(stored, g.policy.Scope)
	if err == nil && !m.Known && strings.Contains(stored, "@") && g.inScope(stored) {
		m.Visible = true // the Engine keeps digests of the scope's own names; they are not in the ledger
	}
	return m, err
}

// inScope reports whether a name is kept for the job's scope.
func (g *Guard) inScope(stored string) bool {
	return strings.HasPrefix(stored, ledger.Host+"/"+g.policy.Scope+"/") && !strings.HasPrefix(stored, g.aliasPrefix())
}

// digestVisible decides on a name with a digest that is not in the ledger: it is as visible as the image's tags in that
// repository. Without any it is the operator's.
func (g *Guard) digestVisible(name string, doc imageDoc) (bool, error) {
	repo, _, _ := strings.Cut(name, "@")
	alone := true
	for _, t := range doc.RepoTags {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil || named.Name() != repo {
			continue
		}
		alone = false
		m, err := g.meaning(named.String())
		if err != nil {
			return false, err
		}
		if m.Visible && (m.ID == "" || m.ID == doc.ID) {
			return true, nil
		}
	}
	return alone, nil
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
		names, err := g.namesOf(doc)
		if err != nil {
			return image{}, doc, err
		}
		after, err := g.images.Version()
		if err != nil {
			return image{}, doc, err
		}
		if g.objects.ownsImage(doc.ID) || names.visible && before == after {
			return newImage(doc, candidate{}), doc, nil
		}
		if before == after {
			return image{}, doc, noImage(ref)
		}
	}
	return image{}, imageDoc{}, errBusy
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
	visible       bool // some name leads to it, be it one that the scope's own name hides
}

// namesOf finds out what an image is called as far as the job may know.
func (g *Guard) namesOf(doc imageDoc) (imageNames, error) {
	own, err := g.images.Names(g.policy.Scope)
	if err != nil {
		return imageNames{}, err
	}
	return g.namesWith(own, doc)
}

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
		name := named.String()
		if written, ok := own.Own[name]; ok {
			n.tags, n.visible = append(n.tags, familiar(written)), true
			continue
		}
		m, err := g.meaning(name)
		if err != nil {
			return n, err
		}
		if !m.Visible || m.ID != "" && m.ID != doc.ID {
			continue
		}
		n.visible = true
		if tagged, ok := named.(reference.NamedTagged); ok && own.Own[ledger.OwnName(g.policy.Scope, tagged)] != "" {
			continue // the scope has another image of that name
		}
		n.tags = append(n.tags, familiar(name))
	}
	for _, d := range doc.RepoDigests {
		named, err := reference.ParseNormalizedNamed(d)
		if err != nil || own.Private[named.String()] != "" {
			continue
		}
		if g.inScope(named.String()) {
			if w := own.WrittenRepository(named.Name()); w != "" {
				n.digests = append(n.digests, familiar(w+named.String()[len(named.Name()):]))
			}
			continue
		}
		m, err := g.meaning(named.String())
		if err != nil {
			return n, err
		}
		visible := m.Visible && (m.ID == "" || m.ID == doc.ID)
		if visible && !m.Known {
			if visible, err = g.digestVisible(named.String(), doc); err != nil {
				return n, err
			}
		}
		if visible {
			n.digests, n.visible = append(n.digests, familiar(named.String())), true
		}
	}
	slices.Sort(n.tags)
	slices.Sort(n.digests)
	n.tags, n.digests = slices.Compact(n.tags), slices.Compact(n.digests)
	return n, nil
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

// writeName is the Engine's name for an image that the job names so, and records it before it is written. done must be
// called with the image's ID, "" if it was not written after all. stored is "" for names at the own path of the job's
// project: then the image must be made without a name, and done names it, so that no other job comes in between.
func (c *call) writeName(ctx context.Context, ref string) (stored string, done func(id string) error, err error) {
	named, err := parseName(ref)
	if err != nil {
		return "", nil, err
	}
	if _, ok := named.(reference.Digested); ok {
		return "", nil, badRequest("refusing to create a tag with a digest reference")
	}
	if fullID.MatchString(ref) || reference.FamiliarName(named) == "sha256" {
		return "", nil, badRequest("refusing to create an ambiguous tag using digest algorithm as name")
	}
	tagged, ok := reference.TagNameOnly(named).(reference.NamedTagged)
	if !ok {
		return "", nil, badRequest("invalid reference format")
	}
	if c.policy.ownPath(named) {
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
			return nil
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

// aliasPrefix begins the names that alias gives.
func (g *Guard) aliasPrefix() string {
	return fmt.Sprintf("%s/%s/from/", ledger.Host, g.policy.Scope)
}

// alias gives an image a name for its ID, by which a Dockerfile can name exactly this image; it ends with the job. It is
// the job's alone, because jobs of the scope end at different times.
func (c *call) alias(ctx context.Context, img image) (string, error) {
	name := c.aliasPrefix() + c.policy.Token + ":" + strings.TrimPrefix(img.ID, "sha256:")
	if c.objects.hasAlias(name) {
		return name, nil
	}
	if err := c.images.Borrow(name, c.policy.Scope, time.Now()); err != nil {
		return "", err
	}
	c.objects.addAlias(name)
	ctx, cancel := detached(ctx)
	defer cancel()
	return name, imageCalls{c.Guard}.Tag(ctx, img.ID, name)
}

// dropAliases ends the names that alias gave.
func (g *Guard) dropAliases(ctx context.Context) error {
	names := g.objects.allAliases()
	for _, name := range names {
		if err := (imageCalls{g}).Untag(ctx, name); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	return g.images.Forget(names...)
}
