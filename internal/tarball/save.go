package tarball

import (
	"archive/tar"
	"bufio"
	"io"
	"path"
	"strings"

	"github.com/distribution/reference"
)

// Save are images in an archive that the Engine sends, without names.
type Save struct {
	IDs   []string
	Names map[string][]string // that they are to have in the archive, by ID, as people write them
}

// Copy copies an archive of the Engine's with the names in it.
func (s Save) Copy(w io.Writer, in io.Reader) error {
	buffered := bufio.NewWriterSize(w, BufferSize)
	out := tar.NewWriter(buffered)
	err := Each(in, "the archive", func(r *tar.Reader, h *tar.Header, buf []byte) error {
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

// writeNames writes a file of the Engine's anew, with the names.
func (s Save) writeNames(out *tar.Writer, r io.Reader, name string) error {
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
			names := s.Names[d.Digest]
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
		entries[i].RepoTags = s.Names[id]
		if entries[i].RepoTags == nil && len(s.IDs) == 1 {
			entries[i].RepoTags = s.Names[s.IDs[0]] // an Engine whose IDs are not those of configurations
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
