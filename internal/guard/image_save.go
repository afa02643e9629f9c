package guard

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/tarball"
)

func imageSave(c *call) error    { return c.save(c.query["names"]) }
func imageSaveOne(c *call) error { return c.save([]string{c.vars["name"]}) }

// save sends images as an archive. The Engine is asked by IDs, so that it knows no names; those that the job asked for are
// written into the archive while it passes.
func (c *call) save(refs []string) error {
	if len(refs) == 0 {
		return badRequest("slipway: no image is named")
	}
	s := &imageSaver{c: c, saved: tarball.Save{Names: map[string][]string{}}}
	for _, ref := range refs {
		if err := s.add(ref); err != nil {
			return err
		}
	}
	if len(s.saved.IDs) > tarball.MaxImages {
		return badRequest("slipway: an archive has at most %d images", tarball.MaxImages)
	}
	q := url.Values{"names": s.saved.IDs}
	if p := c.query["platform"]; len(p) > 0 && c.engine.version.atLeast("1.48") {
		q["platform"] = p
	}
	resp, err := c.engine.do(c.ctx, http.MethodGet, "/images/get", q, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return readError(resp)
	}
	c.setHeaders()
	c.w.Header().Set("Content-Type", "application/x-tar")
	c.w.WriteHeader(http.StatusOK)
	if err := s.saved.Copy(c.w, resp.Body); err != nil {
		// The head is out: only a cut connection tells that the archive is not whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// imageSaver finds the images that are to be saved.
type imageSaver struct {
	c     *call
	saved tarball.Save
}

// add finds an image. Without a tag, a name stands for all of its repository.
func (s *imageSaver) add(ref string) error {
	img, err := s.c.readImage(s.c.ctx, ref)
	named, nameErr := reference.ParseNormalizedNamed(ref)
	all := nameErr == nil && reference.IsNameOnly(named) && !fullID.MatchString(ref)
	if err != nil && !(all && isStatus(err, http.StatusNotFound)) {
		return err
	}
	if err == nil && img.Written == "" {
		s.take(img.ID, "") // by ID, which names nothing
		return nil
	}
	if !all {
		s.take(img.ID, img.Written)
		return nil
	}
	tagged, err := s.c.pushNames(named, "")
	if err != nil {
		return err
	}
	for _, t := range tagged {
		img, err := s.c.readImage(s.c.ctx, t.String())
		if err != nil {
			return err
		}
		s.take(img.ID, reference.FamiliarString(t))
	}
	return nil
}

func (s *imageSaver) take(id, name string) {
	if !slices.Contains(s.saved.IDs, id) {
		s.saved.IDs = append(s.saved.IDs, id)
	}
	if name != "" && !strings.Contains(name, "@") && !slices.Contains(s.saved.Names[id], name) {
		s.saved.Names[id] = append(s.saved.Names[id], name)
	}
}
