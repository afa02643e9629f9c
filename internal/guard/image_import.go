package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/slipway-ci/slipway/internal/tarball"
)

// importImage makes an image of the files of an archive: docker import.
func importImage(c *call) error {
	if err := c.wantType("application/x-tar", "text/plain", "application/octet-stream", "application/tar", "application/gzip", "application/x-gzip"); err != nil {
		return err
	}
	changes, err := commitChanges(c.query["changes"])
	if err != nil {
		return err
	}
	if err := c.checkChangeSecrets(changes); err != nil {
		return err
	}
	q := c.pick("message", "platform")
	q.Set("fromSrc", "-")
	if len(changes) > 0 {
		q["changes"] = changes
	}
	in, err := tarball.Plain(c.r.Body)
	if err != nil {
		return archiveError(err)
	}
	id, err := c.importTar(q, in)
	if err != nil {
		return err
	}
	made, stop := detached(c.ctx)
	defer stop()
	if err := c.ownImage(made, id); err != nil {
		return err
	}
	if repo := c.query.Get("repo"); repo != "" {
		ref, err := repoAndTag(repo, c.query.Get("tag"))
		if err != nil {
			return err
		}
		if err := c.nameImage(id, ref); err != nil {
			return err
		}
	}
	c.json(http.StatusOK, map[string]string{"status": id})
	return nil
}

// importTar gives the Engine an archive that the guard wrote itself: it would decompress one within the other.
func (c *call) importTar(q url.Values, in io.Reader) (id string, err error) {
	body, end := c.streamed(func(w io.Writer) error { return tarball.Rewrite(w, in, true) })
	resp, err := c.engine.do(c.ctx, http.MethodPost, "/images/create", q, nil, body)
	if err == nil {
		id, err = importedID(resp)
		resp.Body.Close()
	}
	if werr := end(); werr != nil {
		return "", werr
	}
	return id, err
}

// importedID reads the Engine's answer to an import.
func importedID(resp *http.Response) (id string, err error) {
	if resp.StatusCode >= http.StatusBadRequest {
		return "", readError(resp)
	}
	dec := json.NewDecoder(resp.Body)
	for {
		var m struct{ Status, Error string }
		if err := dec.Decode(&m); err == io.EOF {
			break
		} else if err != nil {
			return "", fmt.Errorf("read the Engine's answer: %w", err)
		}
		if m.Error != "" {
			return "", &apiError{http.StatusInternalServerError, m.Error}
		}
		if fullID.MatchString(m.Status) {
			id = m.Status
		}
	}
	if id == "" {
		return "", errors.New("the Engine told of no image")
	}
	return id, nil
}
