package guard

import (
	"archive/tar"
	"bufio"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// save sends images as an archive. The Engine is asked by IDs, so that it knows no names; those that the job asked for are
// written into the archive while it passes.
func (c *call) save(refs []string) error {
	if len(refs) == 0 {
		return badRequest("slipway: no image is named")
	}
	s := &imageSaver{c: c, names: map[string][]string{}}
	for _, ref := range refs {
		if err := s.add(ref); err != nil {
			return err
		}
	}
	if len(s.ids) > maxArchiveImages {
		return badRequest("slipway: an archive has at most %d images", maxArchiveImages)
	}
	q := url.Values{"names": s.ids}
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
	if err := s.rewrite(c.w, resp.Body); err != nil {
		// The head is out: only a cut connection tells that the archive is not whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// imageSaver writes the names of images into an archive.
type imageSaver struct {
	c     *call
	ids   []string
	names map[string][]string // by ID
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
	if !slices.Contains(s.ids, id) {
		s.ids = append(s.ids, id)
	}
	if name != "" && !strings.Contains(name, "@") && !slices.Contains(s.names[id], name) {
		s.names[id] = append(s.names[id], name)
	}
}

// rewrite copies the archive with the names in it.
func (s *imageSaver) rewrite(w io.Writer, in io.Reader) error {
	buffered := bufio.NewWriterSize(w, streamBuffer)
	out := tar.NewWriter(buffered)
	err := eachEntry(in, "the archive", func(r *tar.Reader, h *tar.Header, buf []byte) error {
		if name := path.Clean("/" + h.Name)[1:]; isNamesFile(name) {
			return s.writeNames(out, r, name)
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.CopyBuffer(struct{ io.Writer }{out}, r, buf)
		return err
	})
	if err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// writeNames writes a file of the Engine's anew, with the job's names.
func (s *imageSaver) writeNames(out *tar.Writer, r io.Reader, name string) error {
	if name == archiveOldNames {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(r, maxNamesFile))
	if err != nil {
		return err
	}
	if name == archiveIndex {
		index, err := decodeIndex(data)
		if err != nil {
			return err
		}
		named := ociIndex{SchemaVersion: index.SchemaVersion, MediaType: index.MediaType, Annotations: index.Annotations}
		for _, d := range index.Manifests {
			names := s.names[d.Digest]
			if len(names) == 0 {
				named.Manifests = append(named.Manifests, d.named(""))
			}
			for _, n := range names {
				named.Manifests = append(named.Manifests, d.named(canonical(n)))
			}
		}
		return writeJSON(out, name, named)
	}
	entries, err := decodeManifest(data)
	if err != nil {
		return err
	}
	for i := range entries {
		id := "sha256:" + strings.TrimSuffix(path.Base(entries[i].Config), ".json")
		entries[i].RepoTags = s.names[id]
		if entries[i].RepoTags == nil && len(s.ids) == 1 {
			entries[i].RepoTags = s.names[s.ids[0]] // an Engine whose IDs are not those of configurations
		}
	}
	return writeJSON(out, name, entries)
}

// canonical is a name with its registry and tag.
func canonical(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.TagNameOnly(named).String()
}
