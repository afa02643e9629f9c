package guard

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/slipway-ci/slipway/internal/wire"
)

// imageLoader reads an archive of images while it goes to the Engine.
type imageLoader struct {
	c        *call
	digests  map[string]bool   // of the contents of files, as they are and decompressed
	inner    map[string]string // of a compressed file's content: what it holds
	unpacked int64             // bytes that compressed files held so far
	kinds    map[string]byte   // of all entries and the folders that they lie in: tar.TypeReg, TypeDir, TypeSymlink
	names    int               // bytes of all entries' names
	small    map[string][]byte // files that may be a configuration or a manifest
	kept     int               // bytes of them
	manifest []byte
	index    []byte
	checked  map[string]int // manifests and indexes: how many ways there are from one
	images   []loadedImage  // in the order of the Engine's answer
}

func newImageLoader(c *call) *imageLoader {
	return &imageLoader{
		c: c, digests: map[string]bool{}, inner: map[string]string{}, kinds: map[string]byte{}, small: map[string][]byte{}, checked: map[string]int{},
	}
}

// rewrite writes the archive anew, without names. The files that would have them come last, so that nothing in the archive
// can take their place.
func (l *imageLoader) rewrite(w io.Writer, in io.Reader) error {
	out := tar.NewWriter(&plainWriter{Writer: w})
	err := eachEntry(in, "the archive", func(r *tar.Reader, h *tar.Header, buf []byte) error {
		if err := l.c.ctx.Err(); err != nil {
			return err
		}
		return l.entry(out, r, h, buf)
	})
	if err != nil {
		return err
	}
	if err := l.writeNames(out); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return copyError(err)
	}
	readRest(in)
	return nil
}

func (l *imageLoader) entry(out *tar.Writer, r io.Reader, h *tar.Header, buf []byte) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if len(h.Name) > maxEntryName || len(h.Linkname) > maxEntryName {
		return badArchive("has a name of more than %d bytes", maxEntryName)
	}
	name := path.Clean("/" + h.Name)[1:]
	if name == "" {
		return nil // the archive's own folder
	}
	if err := l.checkEntry(h, name); err != nil {
		return err
	}
	if isNamesFile(name) {
		return l.takeNames(r, name)
	}
	h.Name = name
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if err := out.WriteHeader(h); err != nil {
		return badRequest("slipway: the archive's entry %q cannot be kept: %v", printable(h.Name), err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	return l.content(out, r, name, h.Size, buf)
}

// content copies a file, and takes its digests on the way.
func (l *imageLoader) content(out io.Writer, r io.Reader, name string, size int64, buf []byte) error {
	d := newDigester(l.c.ctx, maxUnpacked-l.unpacked)
	var keep *bytes.Buffer
	to := io.MultiWriter(out, d)
	if size > 0 && size <= maxSmallFile && l.kept+int(size) <= maxSmallFiles {
		keep = bytes.NewBuffer(make([]byte, 0, size))
		to = io.MultiWriter(out, d, keep)
		l.kept += int(size)
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, r, buf)
	plain, inner := d.end()
	if err != nil {
		return copyError(err)
	}
	if l.unpacked += inner.size; l.unpacked > maxUnpacked {
		return badArchive("holds more than %d GiB, decompressed", maxUnpacked>>30)
	}
	l.digests[plain] = true
	if inner.digest != "" {
		l.digests[inner.digest], l.inner[plain] = true, inner.digest
	}
	if keep != nil {
		l.small[name] = keep.Bytes()
	}
	return nil
}

// checkEntry refuses what would let the Engine read other files than those that were looked at.
func (l *imageLoader) checkEntry(h *tar.Header, name string) error {
	if strings.Contains(h.Name, "\x00") || !utf8.ValidString(h.Name) || strings.HasPrefix(path.Base(name), ".wh.") {
		return badArchive("has the name %q", printable(h.Name))
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeSymlink: // docker save had them for layers that several images share
	default:
		return badArchive("has %s, which is neither a file nor a folder", printable(name))
	}
	if isNamesFile(name) && h.Typeflag != tar.TypeReg {
		return badArchive("has %s, which is no file", printable(name))
	}
	if sparse(h) {
		return deny("archive-sparse", "pack it without --sparse", "the archive has the sparse file %s", printable(name))
	}
	if err := l.place(name, h.Typeflag); err != nil {
		return err
	}
	dropTrusted(h)
	return nil
}

// place records what lies at a path, and that what it lies in are folders and stay so.
func (l *imageLoader) place(name string, kind byte) error {
	if l.names += len(name); l.names > maxEntryNames {
		return badArchive("has names of more than %d bytes together", maxEntryNames)
	}
	if was, ok := l.kinds[name]; ok && !(was == tar.TypeDir && kind == tar.TypeDir) {
		return badArchive("has two entries of the name %s", printable(name))
	}
	l.kinds[name] = kind
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		was, ok := l.kinds[dir]
		if ok && was == tar.TypeDir {
			break // and so are those above
		}
		if ok || isNamesFile(dir) {
			return badArchive("has %s below what is no folder", printable(name))
		}
		l.kinds[dir] = tar.TypeDir
	}
	if len(l.kinds) > maxArchiveFiles {
		return badArchive("has more than %d entries", maxArchiveFiles)
	}
	return nil
}

// takeNames keeps a file with names. The oldest form is left out: no Engine needs it beside the others.
func (l *imageLoader) takeNames(r io.Reader, name string) error {
	data, err := io.ReadAll(io.LimitReader(r, maxNamesFile+1))
	if err != nil {
		return badRequest("slipway: the archive cannot be read: %v", err)
	}
	if len(data) > maxNamesFile {
		return badArchive("has a %s of more than %d bytes", name, maxNamesFile)
	}
	switch name {
	case archiveManifest:
		l.manifest = data
	case archiveIndex:
		l.index = data
	}
	return nil
}

// writeNames checks what the archive says of its images, and writes it without their names.
func (l *imageLoader) writeNames(out *tar.Writer) error {
	switch {
	case l.index != nil && l.c.usesIndex():
		return l.writeIndex(out)
	case l.manifest != nil:
		return l.writeManifest(out)
	case l.index != nil:
		return badRequest("slipway: this Docker Engine loads archives of docker save only: the archive has no %s", archiveManifest)
	}
	return badRequest("slipway: the archive holds no images that this Engine can load: it has no %s", archiveManifest)
}

// writeManifest writes also the configurations anew, under names that nothing in the archive can have: so the Engine reads what
// was checked, and no other file.
func (l *imageLoader) writeManifest(out *tar.Writer) error {
	entries, err := decodeManifest(l.manifest)
	if err != nil {
		return err
	}
	if len(entries) > maxArchiveImages {
		return badArchive("has more than %d images", maxArchiveImages)
	}
	prefix := "slipway-" + rand.Text() + "-"
	for i, e := range entries {
		config, ok := l.small[path.Clean("/" + e.Config)[1:]]
		if !ok {
			return badArchive("lacks the configuration %s, or it is larger than %d bytes", printable(e.Config), maxSmallFile)
		}
		layers, err := l.checkConfig(config)
		if err != nil {
			return err
		}
		img := loadedImage{layers: layers}
		if !l.c.engine.containerd { // which makes a manifest of its own
			sum := sha256.Sum256(config)
			img.id = "sha256:" + hex.EncodeToString(sum[:])
		}
		if err := img.addNames(e.RepoTags...); err != nil {
			return err
		}
		l.images = append(l.images, img)
		entries[i].Config, entries[i].RepoTags = prefix+strconv.Itoa(i)+".json", nil
		if err := writeFile(out, entries[i].Config, config); err != nil {
			return err
		}
	}
	return writeJSON(out, archiveManifest, entries)
}

// addNames refuses a name that cannot be given, before the Engine is asked for anything.
func (img *loadedImage) addNames(names ...string) error {
	for _, name := range names {
		if _, err := newName(name); err != nil {
			return err
		}
		img.names = append(img.names, name)
	}
	return nil
}

// checkConfig makes sure that all layers of an image are in the archive, and returns them.
func (l *imageLoader) checkConfig(data []byte) (layers []string, err error) {
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := wire.Decode(data, &config); err != nil {
		return nil, err
	}
	for _, id := range config.RootFS.DiffIDs {
		if !l.digests[id] {
			return nil, badArchive("lacks the layer %s", printable(id))
		}
	}
	return config.RootFS.DiffIDs, nil
}

func writeJSON(out *tar.Writer, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(out, name, data)
}

func writeFile(out *tar.Writer, name string, data []byte) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		return copyError(err)
	}
	if _, err := out.Write(data); err != nil {
		return copyError(err)
	}
	return nil
}
