package guard

import (
	"io"
	"net/http"

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
// the container, as root on the machine.
func archivePut(c *call) error {
	rec, path, err := c.ownPath("/archive")
	if err != nil {
		return err
	}
	if err := c.wantType("application/x-tar", "text/plain", "application/octet-stream", "application/tar", "application/gzip", "application/x-gzip"); err != nil {
		return err
	}
	in, err := tarball.Plain(c.r.Body)
	if err != nil {
		return archiveError(err)
	}
	release, err := c.beginCopy(rec)
	if err != nil {
		return err
	}
	defer release()
	body, end := streamed(func(w io.Writer) error { return tarball.Rewrite(w, in, false) })
	err = c.forward(http.MethodPut, path, c.pick("path", "noOverwriteDirNonDir", "copyUIDGID"), body)
	if werr := end(); werr != nil && err != nil {
		return werr
	}
	return err
}
