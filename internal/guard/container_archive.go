package guard

import (
	"bufio"
	"io"
	"net/http"
	"net/url"

	"github.com/slipway-ci/slipway/internal/tarball"
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
	return c.forwardCopy(method, path, c.pick("path"), nil, release)
}

// archivePut unpacks a tar archive in an own container. The Engine gets an archive that the guard wrote itself, entry by
// entry while it streams: before 29.5.1 an Engine that is given a compressed one runs the decompressor that it finds in
// the container, as root on the machine. While it copies, in or out, it locks the container, and who asks for the figures of
// any other (docker stats) may have to wait for those of this one: so its client is not waited for without end.
func archivePut(c *call) error {
	rec, path, err := c.ownPath("/archive")
	if err != nil {
		return err
	}
	if err := c.wantType("application/x-tar", "text/plain", "application/octet-stream", "application/tar", "application/gzip", "application/x-gzip"); err != nil {
		return err
	}
	in, err := tarball.Plain(c.pacedBody())
	if err != nil {
		return archiveError(err)
	}
	release, err := c.beginCopy(rec)
	if err != nil {
		return err
	}
	defer release()
	body, end := c.streamed(func(w io.Writer) error { return tarball.Rewrite(w, in, false) })
	err = c.forwardCopy(http.MethodPut, path, c.pick("path", "noOverwriteDirNonDir", "copyUIDGID"), body, release)
	if werr := end(); werr != nil && err != nil {
		return werr
	}
	return err
}

// forwardCopy is forward for a copy: the container goes on before the client hears that the copy is over, as it may use
// the container at once.
func (c *call) forwardCopy(method, path string, query url.Values, body any, release func()) error {
	resp, err := c.engine.do(c.ctx, method, path, query, nil, body)
	if err != nil {
		return err
	}
	if method == http.MethodGet {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{&heldBack{bufio.NewReaderSize(resp.Body, tarball.BufferSize), release}, resp.Body}
	} else {
		release()
	}
	return c.relay(resp)
}

// archiveEnd is how long the end of a tar archive is. Clients stop there and do not wait for the answer's end.
const archiveEnd = 1024

// heldBack reads an archive and calls whole once all of it has come, before it gives away its end.
type heldBack struct {
	in    *bufio.Reader
	whole func()
}

func (h *heldBack) Read(p []byte) (int, error) {
	if _, err := h.in.Peek(archiveEnd + 1); err == nil {
		return h.in.Read(p[:min(len(p), h.in.Buffered()-archiveEnd)])
	}
	h.whole()
	return h.in.Read(p)
}
