package guard

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/slipway-ci/slipway/internal/mishap"
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
	return c.forward(method, path, c.pick("path"), nil)
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
	in, err := tarball.Plain(c.paced())
	if err != nil {
		return archiveError(err)
	}
	release, err := c.beginCopy(rec)
	if err != nil {
		return err
	}
	defer release()
	body, end := c.streamed(func(w io.Writer) error { return tarball.Rewrite(w, in, false) })
	err = c.forwardBody(http.MethodPut, path, c.pick("path", "noOverwriteDirNonDir", "copyUIDGID"), body)
	if werr := end(); werr != nil && err != nil {
		return werr
	}
	return err
}

// streamed is what write writes, as a body of a request. end must be called when the Engine has answered, which it may do before
// it has read all; it returns what was wrong with the writing itself.
func (c *call) streamed(write func(w io.Writer) error) (body io.Reader, end func() error) {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		var err error
		defer func() {
			w.CloseWithError(err)
			written <- err
		}()
		defer mishap.Catch(c.log, c.row, &err)
		err = write(w)
	}()
	return r, func() error {
		r.CloseWithError(errCopied)
		err := <-written
		if errors.Is(err, errCopied) || errors.Is(err, io.ErrClosedPipe) {
			return nil
		}
		return archiveError(err)
	}
}

var errCopied = errors.New("the Engine has answered")

// archiveError is what is wrong with a client's archive, as a refusal where a rule is about it.
func archiveError(err error) error {
	var e *tarball.Error
	var a *apiError
	switch {
	case !errors.As(err, &e):
		return err
	case errors.As(err, &a): // of the client's body
		return a
	case e.Rule == "":
		return badRequest("%s", e.What)
	}
	return &Denial{Rule: e.Rule, What: e.What, Cure: e.Cure}
}

// forwardBody is forward for a stream: the answer is relayed when the Engine has read it.
func (c *call) forwardBody(method, path string, q map[string][]string, body io.Reader) error {
	resp, err := c.engine.do(c.ctx, method, path, q, nil, body)
	if err != nil {
		return err
	}
	return c.relay(resp)
}

// patchedCopy is the first Engine whose copies cannot be led astray by what runs in the container.
const patchedCopy = "29.5.1"

// copyCure is what to do where copying would not be safe.
var copyCure = fmt.Sprintf("copy through the workspace, which is mounted with -v, or ask for a Docker Engine of at least %s", patchedCopy)
