package guard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/readahead"

	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/tarball"
)

// maxDockerfile bounds the one entry of a context that is held in memory.
const maxDockerfile = 4 << 20

// buildContext is the archive of a build on its way to the Engine: each entry is read, checked and written anew, and the
// Dockerfile is replaced by its checked copy. The Engine is asked for the build only when all was checked, or when there is
// more than is held in memory.
type buildContext struct {
	c    *call
	b    *buildRequest
	from *archive
	in   *bufio.Reader // the client's bytes
	// ahead reads the client's bytes while those before them go to the Engine, which makes the guard nearly as fast as none. It alone
	// reads the archive.
	ahead  io.ReadCloser
	pooled []*[]byte // its buffers
	bare   bool      // they are a Dockerfile and no archive

	gate    gate
	err     error         // why it is not whole, once done is closed
	done    chan struct{} // closed when nothing more is read or written
	hurried chan struct{} // closed when the client has only so much time left, because the build is over

	check    func(src []byte) ([]byte, error) // the Dockerfile's checked copy
	source   string                           // the file's name: the Dockerfile's, or where a link of that name leads
	found    bool                             // it was checked
	fallback *member                          // an entry that is the Dockerfile if there is no other
	// dockerfile is the checked copy. It is written last: what comes after it could replace it, by its name or by another
	// way that leads to it, such as a symlink.
	dockerfile *member
	files      *layercache.Collector
}

// member is an entry that is held back.
type member struct {
	header *tar.Header
	data   []byte
}

func newBuildContext(c *call, b *buildRequest, from *archive, out *buildAnswer) *buildContext {
	check := func(src []byte) ([]byte, error) {
		checked, err := c.checkDockerfile(b.ctx, src, b, out.hold)
		if err != nil {
			return nil, err
		}
		out.file = checked
		return checked.copy, nil
	}
	return &buildContext{c: c, b: b, from: from, check: check, source: b.dockerfile, done: make(chan struct{}), hurried: make(chan struct{}), files: out.files}
}

// open looks at the first bytes.
func (t *buildContext) open() error {
	var bufs [][]byte
	for range aheadBuffers {
		b := tarball.Buffers.Get().(*[]byte)
		t.pooled, bufs = append(t.pooled, b), append(bufs, *b)
	}
	var err error
	if t.ahead, err = readahead.NewReaderBuffer(t.from.body, bufs); err != nil {
		return err
	}
	t.in = bufio.NewReaderSize(struct{ io.Reader }{t.ahead}, tarball.BufferSize) // its WriteTo calls the end an error
	head, err := t.in.Peek(512)
	if len(head) == 0 {
		return badRequest("slipway: the build's context is empty: %v", err)
	}
	switch name := tarball.Compression(head); {
	case name == "gzip":
		unzip, err := gzip.NewReader(t.in)
		if err != nil {
			return badRequest("slipway: the build's context cannot be decompressed: %v", err)
		}
		t.in = bufio.NewReaderSize(unzip, tarball.BufferSize)
		if head, err = t.in.Peek(512); len(head) == 0 {
			return badRequest("slipway: the build's context is empty: %v", err)
		}
	case name != "" && !isTar(head):
		return deny("build-compression", "send it as it is, or compressed by gzip", "the build's context is compressed with %s", name)
	}
	if t.bare = !isTar(head); t.bare {
		t.b.dockerfile = "Dockerfile"
		t.b.options.Set("dockerfile", t.b.dockerfile)
	}
	return nil
}

// aheadBuffers is how many buffers of the client's bytes are read ahead.
const aheadBuffers = 3

// isTar reports whether that is a header by its sum, or the zeros at the end of an archive.
func isTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	sum := int64(0)
	for i, b := range head[:512] {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int64(b)
	}
	written, err := strconv.ParseInt(strings.Trim(string(head[148:156]), " \x00"), 8, 64)
	return err == nil && written == sum || len(bytes.Trim(head, "\x00")) == 0
}

// start begins to read and to check. It returns when the Engine can be asked, or with the reason why not.
func (t *buildContext) start() error {
	context.AfterFunc(t.b.ctx, t.hurry)
	if err := t.open(); err != nil {
		close(t.done)
		return err
	}
	t.gate = gate{ctx: t.b.ctx, ready: make(chan struct{}), sinks: make(chan io.Writer)}
	go func() {
		defer close(t.done)
		defer mishap.Catch(t.c.log, "a build's context", &t.err)
		if t.err = t.write(tar.NewWriter(&t.gate)); t.err == nil {
			t.err = t.gate.pass(nil)
		}
	}()
	select {
	case <-t.gate.ready:
		return nil
	case <-t.done:
		return t.err
	}
}

// Read is never called: WriteTo needs no buffer in between.
func (t *buildContext) Read([]byte) (int, error) { return 0, errors.New("read a context by WriteTo") }

// Close is called by the one who sends the request, when it needs no more.
func (t *buildContext) Close() error { return nil }

// WriteTo lets the archive pass.
func (t *buildContext) WriteTo(w io.Writer) (int64, error) {
	select {
	case t.gate.sinks <- w:
		<-t.done
	case <-t.done:
	}
	return t.gate.passed, t.err
}

// maxAhead is how much of a context is held in memory before the Engine is asked.
const maxAhead = 4 << 20

// gate holds back what is written until there is somewhere to write it to.
type gate struct {
	ctx    context.Context
	held   []byte
	ready  chan struct{} // closed when it waits for a sink
	sinks  chan io.Writer
	sink   io.Writer
	passed int64 // bytes that the sink has
}

func (g *gate) Write(p []byte) (int, error) {
	if g.sink == nil && len(g.held)+len(p) <= maxAhead {
		g.held = append(g.held, p...)
		return len(p), nil
	}
	return len(p), g.pass(p)
}

// pass writes what was held, and p.
func (g *gate) pass(p []byte) error {
	if g.sink == nil {
		close(g.ready)
		select {
		case g.sink = <-g.sinks:
		case <-g.ctx.Done():
			return g.ctx.Err()
		}
		held := g.held
		g.held = nil
		if err := g.pass(held); err != nil {
			return err
		}
	}
	n, err := g.sink.Write(p)
	g.passed += int64(n)
	return err
}

// hurry bounds how long the client may go on sending what is not needed any more. For the connection's next call net/http lifts
// the bound.
func (t *buildContext) hurry() {
	_ = t.from.conn.SetReadDeadline(time.Now().Add(t.c.patience)) // it fails where nothing can be sent any more
	close(t.hurried)
}

// drain ends the build and reads the rest of what its client sends: without that it would see a broken connection, and not
// the reason.
func (t *buildContext) drain() {
	t.b.cancel()
	<-t.hurried
	<-t.done
	if t.ahead != nil {
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{t.ahead})
		_ = t.ahead.Close() // it has come to the end, or to the deadline
		for _, b := range t.pooled {
			tarball.Buffers.Put(b)
		}
	}
}

// firstEntry is how every archive begins. The Engine looks at the first bytes to tell archives from Dockerfiles and from
// what is compressed, and is wrong about some: it would read another context than the one that was checked. The entry
// itself it skips.
var firstEntry = tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, Format: tar.FormatUSTAR}

func (t *buildContext) write(w *tar.Writer) error {
	first := firstEntry
	if err := w.WriteHeader(&first); err != nil {
		return err
	}
	if t.bare {
		data, err := readLimited(t.in, "the Dockerfile")
		if err != nil {
			return err
		}
		if err := t.takeDockerfile(w, &tar.Header{Mode: 0o644, Typeflag: tar.TypeReg}, data); err != nil {
			return err
		}
		if err := t.dockerfile.write(w); err != nil {
			return err
		}
		return w.Close()
	}
	err := archiveError(tarball.Each(t.in, "the build's context", func(r *tar.Reader, h *tar.Header, buf []byte) error { return t.entry(w, r, h, buf) }))
	if err != nil {
		return err
	}
	if m := t.fallback; m != nil { // there was no other
		t.fallback = nil
		if err := t.takeDockerfile(w, m.header, m.data); err != nil {
			return err
		}
	}
	if !t.found && t.source != t.b.dockerfile {
		if err := t.dangerous("%s as a link to %s, which does not come after it", printable(t.b.dockerfile), printable(t.source)); err != nil {
			return err
		}
	}
	if !t.found {
		return badRequest("Cannot locate specified Dockerfile: %s", printable(t.b.dockerfile))
	}
	if err := t.dockerfile.write(w); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, t.in); err != nil {
		return badRequest("slipway: the build's context cannot be read: %v", err)
	}
	return w.Close()
}

// entry writes one entry anew.
func (t *buildContext) entry(w *tar.Writer, r *tar.Reader, h *tar.Header, buf []byte) error {
	name := path.Clean("/" + h.Name)[1:]
	if err := t.checkEntry(h, name); err != nil {
		return err
	}
	switch {
	case h.Typeflag == tar.TypeXGlobalHeader:
		return nil // it has nothing for the Engine
	case t.leads(h, name):
		to := h.Linkname
		if !path.IsAbs(to) {
			to = path.Join(path.Dir("/"+name), to)
		}
		t.source = path.Clean(to)[1:]
	case name == t.source && h.Typeflag == tar.TypeReg:
		data, err := readLimited(r, "the Dockerfile")
		if err != nil {
			return err
		}
		t.collect(h, name, crc32.Checksum(data, castagnoli))
		own := *h
		if err := t.takeDockerfile(w, &own, data); err != nil || name == t.b.dockerfile {
			return err
		}
		return (&member{h, data}).write(w)
	case name == lowerName(t.b.dockerfile) && h.Typeflag == tar.TypeReg && !t.found:
		// The Engine takes it if there is no other. That shows at the end only.
		data, err := readLimited(r, name)
		if err != nil {
			return err
		}
		t.fallback = &member{h, data}
		return nil
	}
	if err := writeHeader(w, h); err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	if h.Typeflag == tar.TypeReg {
		if _, err := io.CopyBuffer(io.MultiWriter(w, sum), struct{ io.Reader }{r}, buf); err != nil {
			return contextError(err)
		}
	}
	t.collect(h, name, sum.Sum32())
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// collect takes an entry in for what is told of the build.
func (t *buildContext) collect(h *tar.Header, name string, sum uint32) {
	f := layercache.File{Mode: uint32(h.FileInfo().Mode()), Size: h.Size, Time: h.ModTime.UnixNano(), Sum: sum, Summed: true}
	if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink { // of others it means nothing
		f.Link = h.Linkname
	}
	t.files.Add(name, f)
}

// leads reports whether an entry is the symlink that stands for the Dockerfile. It is followed if what it leads to comes
// later, as it often does in archives whose names are sorted. (docker's client follows it by itself.)
func (t *buildContext) leads(h *tar.Header, name string) bool {
	return name == t.source && h.Typeflag == tar.TypeSymlink && !t.found
}

// lowerName is the Engine's second choice for the name of a Dockerfile, "" if there is none.
func lowerName(dockerfile string) string {
	dir, base := path.Split(dockerfile)
	if base != "Dockerfile" {
		return ""
	}
	return dir + "dockerfile"
}

func (t *buildContext) dangerous(format string, args ...any) error {
	err := t.c.refuse(deny("build-context", "build from a folder where the Dockerfile is a plain file", "the build's context has "+format, args...))
	t.found = t.found || err == nil // audit mode: what the Engine reads is not known any more
	return err
}

// checkEntry refuses what would let the Engine read another Dockerfile than the one that was checked.
func (t *buildContext) checkEntry(h *tar.Header, name string) error {
	own := map[string]bool{t.b.dockerfile: true, t.b.dockerfile + ".dockerignore": true}
	if l := lowerName(t.b.dockerfile); l != "" {
		own[l] = true
	}
	base := path.Base(name)
	switch {
	case own[name] && h.Typeflag != tar.TypeReg && !t.leads(h, name):
		return t.dangerous("%s as something else than a plain file", printable(name))
	case h.Typeflag != tar.TypeDir && (name == "" || strings.HasPrefix(t.b.dockerfile, name+"/")):
		return t.dangerous("%s, the Dockerfile's folder, as something else than a folder", printable(name))
	case h.Typeflag == tar.TypeLink && own[path.Clean("/" + h.Linkname)[1:]]:
		return t.dangerous("%s as a hard link to the Dockerfile", printable(name))
	case strings.HasPrefix(base, ".wh.") && (strings.HasPrefix(base, ".wh..wh.") || own[path.Join(path.Dir(name), base[len(".wh."):])]):
		return t.dangerous("%s, which removes the Dockerfile", printable(name))
	case h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock:
		return t.dangerous("the device %s", printable(name))
	case tarball.Sparse(h):
		return t.dangerous("%s as a sparse file; write the archive without --sparse", printable(name))
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeFifo, tar.TypeXGlobalHeader:
		return nil
	}
	return t.dangerous("%s of the unknown type %q", printable(name), h.Typeflag)
}

// writeHeader writes a header in the format in which it came, so that times keep their fractions. Where that cannot hold
// it, one that can is taken.
func writeHeader(w *tar.Writer, h *tar.Header) error {
	tarball.DropTrusted(h)
	h.PAXRecords = maps.Clone(h.PAXRecords)
	err := w.WriteHeader(h)
	if err != nil && h.Format != tar.FormatPAX {
		h.Format = tar.FormatPAX
		err = w.WriteHeader(h)
	}
	return contextError(err)
}

func contextError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return badRequest("slipway: the build's context cannot be read: %v", err)
	}
	return err
}

// takeDockerfile checks a Dockerfile and keeps its copy.
func (t *buildContext) takeDockerfile(w *tar.Writer, h *tar.Header, data []byte) error {
	if t.found {
		if err := t.c.refuse(deny("build-context", "send one", "the build's context has two files of the name %s", printable(t.b.dockerfile))); err != nil {
			return err
		}
	}
	data, err := t.check(data)
	if err != nil {
		return err
	}
	t.found = true
	h.Name, h.Size = t.b.dockerfile, int64(len(data))
	t.dockerfile = &member{h, data}
	// What was held back is no Dockerfile.
	m := t.fallback
	t.fallback = nil
	return m.write(w)
}

// write writes an entry that was held back, if there is one.
func (m *member) write(w *tar.Writer) error {
	if m == nil {
		return nil
	}
	if err := writeHeader(w, m.header); err != nil {
		return err
	}
	_, err := w.Write(m.data)
	return err
}

func readLimited(r io.Reader, what string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err != nil {
		return nil, badRequest("slipway: the build's context cannot be read: %v", err)
	}
	if len(data) > maxDockerfile {
		return nil, badRequest("slipway: %s is larger than %s", what, fmt.Sprint(maxDockerfile))
	}
	return data, nil
}
