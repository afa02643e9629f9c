package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"

	"github.com/slipway-ci/slipway/internal/tarball"
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
	images, told, failed, err := c.loadInTurn()
	if err != nil {
		return err
	}
	return c.finishLoad(images, told, failed)
}

// loadInTurn lets the Engine load an archive: the images that are in it, and what the Engine tells of it. An error of the
// archive's own is err; then nothing was loaded, because the files with names come last.
func (c *call) loadInTurn() (images []tarball.Image, told []string, failed, err error) {
	for _, places := range []chan struct{}{c.load, loads} {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-c.ctx.Done():
			return nil, nil, nil, c.ctx.Err()
		}
	}
	in, err := tarball.Plain(c.pacedBody()) // an Engine of today takes in one after the other, whoever sends them
	if err != nil {
		return nil, nil, nil, archiveError(err)
	}
	body, end := c.streamed(func(w io.Writer) (err error) {
		images, err = tarball.Load{Containerd: c.engine.containerd, CheckName: checkName}.Copy(c.ctx, w, in)
		return err
	})
	q := url.Values{}
	if p := c.query["platform"]; len(p) > 0 && c.engine.version.atLeast("1.48") {
		q["platform"] = p
	}
	resp, failed := c.engine.do(c.ctx, http.MethodPost, "/images/load", q, nil, body)
	if failed == nil {
		told, failed = loadedIDs(resp)
		resp.Body.Close()
	}
	err = end()
	return images, told, failed, err
}

// loads are the places for archives that are read at once, in this process: each may keep 32 MiB of small files in memory. A guard has
// one of its own besides (Guard.load), so that one job cannot take them all.
var loads = make(chan struct{}, 2)

// checkName refuses a name that no image can be given.
func checkName(name string) error {
	_, err := newName(name)
	return err
}

// loadedID is all of what the Engine says of an image without a name. What else it says may be in the words of whoever made the
// archive.
var loadedID = regexp.MustCompile(`^Loaded image ID: (sha256:[0-9a-f]{64})\n$`)

// loadedIDs reads the Engine's answer: the images that it says were in the archive, in its order.
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
			return ids, fmt.Errorf("read the Engine's answer: %w", err)
		}
		if m.Error != "" {
			return ids, &apiError{http.StatusInternalServerError, m.Error}
		}
		if id := loadedID.FindStringSubmatch(m.Stream); id != nil {
			ids = append(ids, id[1])
		}
	}
}

// finishLoad records what was loaded, names it and tells of it. Whatever went wrong, what is there is the job's, so that it goes with
// the job.
func (c *call) finishLoad(archived []tarball.Image, told []string, failed error) error {
	ctx, cancel := detached(c.ctx)
	defer cancel()
	images, err := c.loaded(ctx, archived, told)
	if failed = errors.Join(failed, err); failed != nil {
		for _, img := range images {
			failed = errors.Join(failed, c.ownImage(ctx, img.ID))
		}
		return failed
	}
	var answer bytes.Buffer
	enc := json.NewEncoder(&answer)
	for _, img := range images {
		if err := c.ownImage(ctx, img.ID); err != nil {
			return err
		}
	}
	for _, img := range images {
		for _, name := range img.Names {
			if err := c.nameImage(img.ID, name); err != nil {
				return err
			}
			_ = enc.Encode(map[string]string{"stream": "Loaded image: " + familiar(name) + "\n"}) // a buffer takes it
		}
		if len(img.Names) == 0 {
			_ = enc.Encode(map[string]string{"stream": "Loaded image ID: " + img.ID + "\n"}) // a buffer takes it
		}
	}
	c.setHeaders()
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(answer.Bytes()) // the client may have gone
	return nil
}

// isLoaded makes sure that an image whose ID only the Engine knew is made of what was checked.
func (c *call) isLoaded(ctx context.Context, img tarball.Image) error {
	doc, found, err := c.inspectImage(ctx, img.ID)
	if err == nil && (!found || !slices.Equal(doc.RootFS.Layers, img.Layers)) {
		err = fmt.Errorf("the Engine tells of the image %s, which is not the archive's", img.ID)
	}
	return err
}

// loaded are the images of the archive that the Engine has now. One that was to be loaded for another platform is not among
// them.
func (c *call) loaded(ctx context.Context, archived []tarball.Image, told []string) (images []tarball.Image, err error) {
	known := true
	for _, img := range archived {
		known = known && img.ID != ""
	}
	if !known {
		if len(told) != len(archived) {
			return nil, fmt.Errorf("the archive has %d images, and the Engine told of %d", len(archived), len(told))
		}
		for i, img := range archived {
			img.ID = told[i]
			if err := c.isLoaded(ctx, img); err != nil {
				return images, err
			}
			images = append(images, img)
		}
		return images, nil
	}
	for _, img := range archived {
		_, found, err := c.inspectImage(ctx, img.ID)
		switch {
		case err != nil:
			return images, err
		case found:
			images = append(images, img)
		case len(c.query["platform"]) == 0:
			return images, fmt.Errorf("the Engine has not loaded the image %s", img.ID)
		}
	}
	return images, nil
}
