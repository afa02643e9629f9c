package guard

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"unicode/utf8"
)

// imageLoad takes images from an archive. Each piece of each image must be in it: the Engine would take what it has
// already, and so give the job an image of which it knows no more than the digest.
func imageLoad(c *call) error {
	if err := c.wantType("application/x-tar", "application/tar", "application/octet-stream", "application/gzip", "application/x-gzip"); err != nil {
		return err
	}
	if err := c.waitPlace(); err != nil {
		return err
	}
	in, err := c.plainTar(c.r.Body)
	if err != nil {
		return err
	}
	out, w := io.Pipe()
	l := &imageLoader{c: c, digests: map[string]bool{}, paths: map[string]bool{}, links: map[string]bool{}, small: map[string][]byte{}}
	written := make(chan error, 1)
	go func() {
		err := l.rewrite(w, in)
		w.CloseWithError(err)
		written <- err
	}()
	q := url.Values{}
	if p := c.query["platform"]; len(p) > 0 && c.engine.version.atLeast("1.48") {
		q["platform"] = p
	}
	resp, err := c.engine.do(c.ctx, http.MethodPost, "/images/load", q, nil, out)
	if err != nil {
		out.CloseWithError(errCopied)
		if werr := <-written; werr != nil && !errors.Is(werr, errCopied) {
			return werr
		}
		return err
	}
	defer resp.Body.Close()
	ids, err := loadedIDs(resp)
	out.CloseWithError(errCopied)
	if werr := <-written; werr != nil && !errors.Is(werr, errCopied) {
		return werr
	}
	if err != nil {
		return err
	}
	return l.finish(ids)
}

// imageLoader reads an archive of images while it goes to the Engine.
type imageLoader struct {
	c        *call
	digests  map[string]bool   // of the contents of files, as they are and decompressed
	paths    map[string]bool   // of all entries
	links    map[string]bool   // that are symlinks
	small    map[string][]byte // files that may be a configuration or a manifest
	kept     int               // bytes of them
	manifest []byte
	index    []byte
	names    [][]string // of each image, in the order in which the Engine tells of them
}

// rewrite writes the archive anew, without names. The files that would have them come last, so that nothing in the archive
// can take their place.
func (l *imageLoader) rewrite(w io.Writer, in io.Reader) error {
	out := tar.NewWriter(&plainWriter{Writer: w})
	err := eachEntry(in, "the archive", func(r *tar.Reader, h *tar.Header, buf []byte) error { return l.entry(out, r, h, buf) })
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
	d := newDigester()
	keep := &bytes.Buffer{}
	to := io.MultiWriter(out, d)
	if h.Size <= maxSmallFile && l.kept+int(h.Size) <= maxSmallFiles {
		to = io.MultiWriter(out, d, keep)
		l.kept += int(h.Size)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, r, buf); err != nil {
		d.end()
		return copyError(err)
	}
	for _, digest := range d.end() {
		l.digests[digest] = true
	}
	if keep.Len() > 0 {
		l.small[name] = keep.Bytes()
	}
	return nil
}

// checkEntry refuses what would let the Engine read other files than those that were looked at.
func (l *imageLoader) checkEntry(h *tar.Header, name string) error {
	if strings.Contains(h.Name, "\x00") || !utf8.ValidString(h.Name) || strings.HasPrefix(path.Base(name), ".wh.") {
		return badArchive("has the name %q", printable(h.Name))
	}
	if l.paths[name] && h.Typeflag != tar.TypeDir {
		return badArchive("has two entries of the name %s", printable(name))
	}
	if l.paths[name] = true; len(l.paths) > maxArchiveFiles {
		return badArchive("has more than %d entries", maxArchiveFiles)
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if l.links[dir] || isNamesFile(dir) {
			return badArchive("has %s below a link", printable(name))
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir:
		if h.Typeflag == tar.TypeDir && isNamesFile(name) {
			return badArchive("has the folder %s", printable(name))
		}
	case tar.TypeSymlink: // docker save had them for layers that several images share
		l.links[name] = true
		if isNamesFile(name) {
			return badArchive("has the link %s", printable(name))
		}
	default:
		return badArchive("has %s, which is neither a file nor a folder", printable(name))
	}
	if sparse(h) {
		return deny("archive-sparse", "pack it without --sparse", "the archive has the sparse file %s", printable(name))
	}
	dropTrusted(h)
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

func (l *imageLoader) writeManifest(out *tar.Writer) error {
	entries, err := decodeManifest(l.manifest)
	if err != nil {
		return err
	}
	if len(entries) > maxArchiveImages {
		return badArchive("has more than %d images", maxArchiveImages)
	}
	for i, e := range entries {
		config, ok := l.small[path.Clean("/" + e.Config)[1:]]
		if !ok {
			return badArchive("lacks the configuration %s, or it is larger than %d bytes", printable(e.Config), maxSmallFile)
		}
		if err := l.checkConfig(config); err != nil {
			return err
		}
		l.names = append(l.names, e.RepoTags)
		entries[i].RepoTags = nil
	}
	return writeJSON(out, archiveManifest, entries)
}

// checkConfig makes sure that all layers of an image are in the archive.
func (l *imageLoader) checkConfig(data []byte) error {
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := decodeStrict(data, &config); err != nil {
		return err
	}
	for _, id := range config.RootFS.DiffIDs {
		if !l.digests[id] {
			return badArchive("lacks the layer %s", printable(id))
		}
	}
	return nil
}

func (l *imageLoader) writeIndex(out *tar.Writer) error {
	index, err := decodeIndex(l.index)
	if err != nil {
		return err
	}
	if len(index.Manifests) > maxArchiveImages {
		return badArchive("has more than %d images", maxArchiveImages)
	}
	for i, d := range index.Manifests {
		if err := l.checkDescriptor(d, 0); err != nil {
			return err
		}
		var names []string
		if n := d.name(); n != "" {
			names = append(names, n)
		}
		l.names = append(l.names, names)
		index.Manifests[i] = d.named("")
	}
	return writeJSON(out, archiveIndex, ociIndex{SchemaVersion: 2, MediaType: index.MediaType, Manifests: index.Manifests})
}

// maxNesting bounds how deep indexes may be in each other.
const maxNesting = 4

// checkDescriptor makes sure that what a descriptor leads to is in the archive.
func (l *imageLoader) checkDescriptor(d descriptor, depth int) error {
	if !l.digests[d.Digest] {
		return badArchive("lacks %s, which it names", printable(d.Digest))
	}
	data, ok := l.small["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
	sum := sha256.Sum256(data)
	if !ok || d.Digest != "sha256:"+hex.EncodeToString(sum[:]) || depth > maxNesting {
		return badArchive("has the manifest %s not where it should be", printable(d.Digest))
	}
	var m struct {
		Manifests []descriptor `json:"manifests"`
		Config    *descriptor  `json:"config"`
		Layers    []descriptor `json:"layers"`
	}
	if err := decodeStrict(data, &m); err != nil {
		return err
	}
	for _, child := range m.Manifests {
		if err := l.checkDescriptor(child, depth+1); err != nil {
			return err
		}
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, part := range m.Layers {
		if !l.digests[part.Digest] {
			return badArchive("lacks %s, which the image %s needs", printable(part.Digest), printable(d.Digest))
		}
	}
	return nil
}

func writeJSON(out *tar.Writer, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		return copyError(err)
	}
	_, err = out.Write(data)
	if err != nil {
		return copyError(err)
	}
	return nil
}

// loadedIDs reads the Engine's answer: the images that were in the archive, in its order.
func loadedIDs(resp *http.Response) (ids []string, err error) {
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, readError(resp)
	}
	dec := json.NewDecoder(resp.Body)
	for {
		var m struct{ Stream, Error string }
		if err := dec.Decode(&m); err == io.EOF {
			return ids, nil
		} else if err != nil {
			return nil, fmt.Errorf("read the Engine's answer: %w", err)
		}
		if m.Error != "" {
			return nil, &apiError{http.StatusInternalServerError, m.Error}
		}
		for line := range strings.Lines(m.Stream) {
			if _, id, ok := strings.Cut(strings.TrimSpace(line), "sha256:"); ok && fullID.MatchString(id) {
				ids = append(ids, "sha256:"+id)
			}
		}
	}
}

// finish names what was loaded, and tells of it.
func (l *imageLoader) finish(ids []string) error {
	c := l.c
	if len(ids) != len(l.names) {
		return fmt.Errorf("the archive has %d images, and the Engine told of %d", len(l.names), len(ids))
	}
	ctx, cancel := detached(c.ctx)
	defer cancel()
	var told bytes.Buffer
	enc := json.NewEncoder(&told)
	for i, id := range ids {
		if err := c.ownImage(ctx, id); err != nil {
			return err
		}
		for _, name := range l.names[i] {
			if err := c.nameImage(id, name); err != nil {
				return err
			}
			_ = enc.Encode(map[string]string{"stream": "Loaded image: " + familiar(name) + "\n"}) // a buffer takes it
		}
		if len(l.names[i]) == 0 {
			_ = enc.Encode(map[string]string{"stream": "Loaded image ID: " + id + "\n"}) // a buffer takes it
		}
	}
	c.setHeaders()
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(told.Bytes()) // the client may have gone
	return nil
}
