package guard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
)

func archiveGet(c *call) error  { return c.archiveRead(http.MethodGet) }
func archiveHead(c *call) error { return c.archiveRead(http.MethodHead) }

func (c *call) archiveRead(method string) error {
	rec, path, err := c.ownPath("/archive")
	if err != nil {
		return err
	}
	release, err := c.beginCopy(rec)
	if err != nil {
		return err
	}
	defer release()
	return c.forward(method, path, c.pick("path"), nil)
}

// archivePut unpacks a tar archive in an own container. The Engine gets an archive that the guard wrote itself, entry by
// entry while it streams: before 29.5.1 an Engine that is given a compressed one runs the decompressor that it finds in
// the container, as root on the machine.
func archivePut(c *call) error {
	rec, path, err := c.ownPath("/archive")
	if err != nil {
		return err
	}
	if err := c.wantType("application/x-tar", "text/plain", "application/octet-stream", "application/tar", "application/gzip", "application/x-gzip"); err != nil {
		return err
	}
	in, err := c.plainTar(c.r.Body)
	if err != nil {
		return err
	}
	release, err := c.beginCopy(rec)
	if err != nil {
		return err
	}
	defer release()
	body, end := streamed(func(w io.Writer) error { return rewriteTar(w, in, false) })
	err = c.forwardBody(http.MethodPut, path, c.pick("path", "noOverwriteDirNonDir", "copyUIDGID"), body)
	if werr := end(); werr != nil && err != nil {
		return werr
	}
	return err
}

// streamed is what write writes, as a body of a request. end must be called when the Engine has answered, which it may do before
// it has read all; it returns what was wrong with the writing itself.
func streamed(write func(w io.Writer) error) (body io.Reader, end func() error) {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err)
		written <- err
	}()
	return r, func() error {
		r.CloseWithError(errCopied)
		if err := <-written; !errors.Is(err, errCopied) {
			return err
		}
		return nil
	}
}

var errCopied = errors.New("the Engine has answered")

// forwardBody is forward for a stream: the answer is relayed when the Engine has read it.
func (c *call) forwardBody(method, path string, q map[string][]string, body io.Reader) error {
	resp, err := c.engine.do(c.ctx, method, path, q, nil, body)
	if err != nil {
		return err
	}
	return c.relay(resp)
}

// compressions are the beginnings of archives that the Engine would decompress with programs.
var compressions = map[string][]byte{
	"bzip2": []byte("BZh"), "xz": {0xfd, '7', 'z', 'X', 'Z', 0}, "zstd": {0x28, 0xb5, 0x2f, 0xfd},
}

// looksCompressed is how the Engine would take what begins so, "" for a plain archive.
func looksCompressed(head []byte) string {
	for name, magic := range compressions {
		if bytes.HasPrefix(head, magic) {
			return name
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return "gzip"
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // a frame to skip
		return "zstd"
	}
	return ""
}

// plainWriter refuses an archive that is plain, but begins as if it were compressed: with the name of its first entry.
type plainWriter struct {
	io.Writer
	begun bool
}

func (w *plainWriter) Write(p []byte) (int, error) {
	if name := looksCompressed(p); !w.begun && name != "" {
		return 0, deny("archive-compression", "rename the archive's first file", "the archive begins as if it were compressed with %s", name)
	}
	w.begun = true
	return w.Writer.Write(p)
}

// plainTar is the uncompressed archive in a body.
func (c *call) plainTar(body io.Reader) (io.Reader, error) {
	r := bufio.NewReaderSize(body, streamBuffer)
	head, _ := r.Peek(6) // less is no archive: the reader will say so
	switch name := looksCompressed(head); name {
	case "":
		return r, nil
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, badRequest("slipway: the archive cannot be decompressed: %v", err)
		}
		return z, nil
	default:
		return nil, deny("archive-compression", "send a plain or gzip archive", "an archive compressed with %s", name)
	}
}

// eachEntry reads an archive entry by entry. what names it in the error of one that cannot be read.
func eachEntry(in io.Reader, what string, do func(r *tar.Reader, h *tar.Header, buf []byte) error) error {
	r := tar.NewReader(in)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return badRequest("slipway: %s cannot be read: %v", what, err)
		}
		if err := do(r, h, *buf); err != nil {
			return err
		}
	}
}

// readRest reads what follows an archive's end, so that the client can write it.
func readRest(in io.Reader) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, in, *buf) // it means nothing
}

// rewriteTar copies an archive entry by entry. devices says whether there may be devices in it.
func rewriteTar(w io.Writer, in io.Reader, devices bool) error {
	buffered := bufio.NewWriterSize(&plainWriter{Writer: w}, streamBuffer)
	out := tar.NewWriter(buffered)
	err := eachEntry(in, "the archive", func(r *tar.Reader, h *tar.Header, buf []byte) error {
		if h.Typeflag == tar.TypeXGlobalHeader {
			return nil // of git archive; the Engine leaves it out too
		}
		if err := cleanHeader(h, devices); err != nil {
			return err
		}
		if err := out.WriteHeader(h); err != nil {
			return badRequest("slipway: the archive's entry %q cannot be kept: %v", printable(h.Name), err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{out}, r, buf); err != nil {
			return copyError(err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return copyError(err)
	}
	if err := buffered.Flush(); err != nil {
		return copyError(err)
	}
	readRest(in)
	return nil
}

func copyError(err error) error {
	if d := (*Denial)(nil); errors.As(err, &d) {
		return d
	}
	if a := (*apiError)(nil); errors.As(err, &a) {
		return a
	}
	if errors.Is(err, errCopied) || errors.Is(err, io.ErrClosedPipe) {
		return errCopied
	}
	return badRequest("slipway: the archive cannot be copied: %v", err)
}

// cleanHeader takes out what only the Engine's root could set, and what the writer cannot write.
func cleanHeader(h *tar.Header, devices bool) error {
	switch h.Typeflag {
	case tar.TypeChar, tar.TypeBlock:
		if devices {
			break
		}
		return deny("archive-device", "leave /dev out of the archive", "the archive has the device %s", printable(h.Name))
	}
	// A few bytes stand for any size there, which would be written out.
	if sparse(h) {
		return deny("archive-sparse", "pack it without --sparse", "the archive has the sparse file %s", printable(h.Name))
	}
	dropTrusted(h)
	if h.Format == tar.FormatUSTAR {
		h.Format = tar.FormatUnknown // a long name may need another
	}
	return nil
}

// sparse reports a file with holes.
func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// dropTrusted takes out the attributes of file systems (overlay's) that a container cannot set itself.
func dropTrusted(h *tar.Header) {
	maps.DeleteFunc(h.PAXRecords, func(k, _ string) bool { return strings.HasPrefix(k, "SCHILY.xattr."+trustedAttributes) })
	h.Xattrs = nil //lint:ignore SA1019 the reader fills it, and the writer would take the dropped ones from it
}

// trustedAttributes begin the names of what only the machine's root can set.
const trustedAttributes = "trusted."

// patchedCopy is the first Engine whose copies cannot be led astray by what runs in the container.
const patchedCopy = "29.5.1"

// copyCure is what to do where copying would not be safe.
var copyCure = fmt.Sprintf("copy through the workspace, which is mounted with -v, or ask for a Docker Engine of at least %s", patchedCopy)
