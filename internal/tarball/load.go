package tarball

import (
	"archive/tar"
	"bytes"
	"context"
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

// Image is an image of an archive.
type Image struct {
	ID     string   // at the Engine; "" = only the Engine knows
	Names  []string // that the archive gives it
	Layers []string // digests, unpacked, if only the Engine knows its ID
}

// Load says for whom an archive of images is read.
type Load struct {
	// Containerd says that the Engine keeps images in containerd: it takes the names and images of an archive from index.json where
	// there is one, and has manifests of its own for others.
	Containerd bool
	// CheckName refuses a name that no image can be given.
	CheckName func(name string) error
}

// Copy writes an archive of images anew, without their names, and returns what is in it, in the order in which the Engine will tell
// of it. Each piece of each image must be in it: the Engine would take what it has already. The images are returned with an
// error, too: what was written is with the Engine.
func (o Load) Copy(ctx context.Context, w io.Writer, in io.Reader) ([]Image, error) {
	l := newImageLoader(ctx, o)
	err := l.rewrite(w, in)
	return l.images, err
}

// imageLoader reads an archive of images while it goes to the Engine.
type imageLoader struct {
	Load
	ctx      context.Context   // of who waits for it
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
	images   []Image        // in the order of the Engine's answer
}

func newImageLoader(ctx context.Context, o Load) *imageLoader {
	return &imageLoader{
		Load: o, ctx: ctx, digests: map[string]bool{}, inner: map[string]string{}, kinds: map[string]byte{}, small: map[string][]byte{}, checked: map[string]int{},
	}
}

// rewrite writes the archive anew, without names. The files that would have them come last, so that nothing in the archive
// can take their place.
func (l *imageLoader) rewrite(w io.Writer, in io.Reader) error {
	out := tar.NewWriter(&plainWriter{Writer: w})
	err := Each(in, "the archive", func(r *tar.Reader, h *tar.Header, buf []byte) error {
		if err := l.ctx.Err(); err != nil {
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
		return bad("slipway: the archive's entry %q cannot be kept: %v", wire.Printable(h.Name), err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	return l.content(out, r, name, h.Size, buf)
}

// content copies a file, and takes its digests on the way.
func (l *imageLoader) content(out io.Writer, r io.Reader, name string, size int64, buf []byte) error {
	d := newDigester(l.ctx, maxUnpacked-l.unpacked)
	var keep *bytes.Buffer
	to := io.MultiWriter(out, d)
	if size > 0 && size <= maxSmallFile && l.kept+int(size) <= maxSmallFiles {
		keep = bytes.NewBuffer(make([]byte, 0, size))
		to = io.MultiWriter(out, d, keep)
		l.kept += int(size)
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, r, buf)
	plain, inner := d.end()
	if err == nil {
		err = inner.err
	}
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
		return badArchive("has the name %q", wire.Printable(h.Name))
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeSymlink: // docker save had them for layers that several images share
	default:
		return badArchive("has %s, which is neither a file nor a folder", wire.Printable(name))
	}
	if isNamesFile(name) && h.Typeflag != tar.TypeReg {
		return badArchive("has %s, which is no file", wire.Printable(name))
	}
	if Sparse(h) {
		return deny("archive-sparse", "pack it without --sparse", "the archive has the sparse file %s", wire.Printable(name))
	}
	if err := l.place(name, h.Typeflag); err != nil {
		return err
	}
	DropTrusted(h)
	return nil
}

// place records what lies at a path, and that what it lies in are folders and stay so.
func (l *imageLoader) place(name string, kind byte) error {
	if l.names += len(name); l.names > maxEntryNames {
		return badArchive("has names of more than %d bytes together", maxEntryNames)
	}
	if was, ok := l.kinds[name]; ok && !(was == tar.TypeDir && kind == tar.TypeDir) {
		return badArchive("has two entries of the name %s", wire.Printable(name))
	}
	l.kinds[name] = kind
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		was, ok := l.kinds[dir]
		if ok && was == tar.TypeDir {
			break // and so are those above
		}
		if ok || isNamesFile(dir) {
			return badArchive("has %s below what is no folder", wire.Printable(name))
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
		return bad("slipway: the archive cannot be read: %v", err)
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
	case l.index != nil && l.Containerd:
		return l.writeIndex(out)
	case l.manifest != nil:
		return l.writeManifest(out)
	case l.index != nil:
		return bad("slipway: this Docker Engine loads archives of docker save only: the archive has no %s", archiveManifest)
	}
	return bad("slipway: the archive holds no images that this Engine can load: it has no %s", archiveManifest)
}

// writeManifest writes also the configurations anew, under names that nothing in the archive can have: so the Engine reads what
// was checked, and no other file.
func (l *imageLoader) writeManifest(out *tar.Writer) error {
	entries, err := decodeManifest(l.manifest)
	if err != nil {
		return err
	}
	if len(entries) > MaxImages {
		return badArchive("has more than %d images", MaxImages)
	}
	prefix := "slipway-" + rand.Text() + "-"
	for i, e := range entries {
		config, ok := l.small[path.Clean("/" + e.Config)[1:]]
		if !ok {
			return badArchive("lacks the configuration %s, or it is larger than %d bytes", wire.Printable(e.Config), maxSmallFile)
		}
		layers, err := l.checkConfig(config)
		if err != nil {
			return err
		}
		img := Image{Layers: layers}
		if !l.Containerd { // which makes a manifest of its own
			sum := sha256.Sum256(config)
			img.ID = "sha256:" + hex.EncodeToString(sum[:])
		}
		if err := l.addNames(&img, e.RepoTags...); err != nil {
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
func (l *imageLoader) addNames(img *Image, names ...string) error {
	for _, name := range names {
		if err := l.CheckName(name); err != nil {
			return err
		}
		img.Names = append(img.Names, name)
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
			return nil, badArchive("lacks the layer %s", wire.Printable(id))
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
