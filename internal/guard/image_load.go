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
	for _, places := range []chan struct{}{c.load, loads} {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
	}
	in, err := c.plainTar(c.paced())
	if err != nil {
		return err
	}
	l := newImageLoader(c)
	body, end := streamed(func(w io.Writer) error { return l.rewrite(w, in) })
	q := url.Values{}
	if p := c.query["platform"]; len(p) > 0 && c.engine.version.atLeast("1.48") {
		q["platform"] = p
	}
	resp, err := c.engine.do(c.ctx, http.MethodPost, "/images/load", q, nil, body)
	var told []string
	if err == nil {
		told, err = loadedIDs(resp)
		resp.Body.Close()
	}
	if werr := end(); werr != nil {
		return werr // and nothing was loaded: the files with names come last
	}
	return l.finish(told, err)
}

// loadedImage is an image of an archive.
type loadedImage struct {
	id     string   // at the Engine; "" = only the Engine knows
	names  []string // that the archive gives it
	layers []string // digests, unpacked, if only the Engine knows its ID
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

// finish records what was loaded, names it and tells of it. Whatever went wrong, what is there is the job's, so that it goes with
// the job.
func (l *imageLoader) finish(told []string, failed error) error {
	c := l.c
	ctx, cancel := detached(c.ctx)
	defer cancel()
	images, err := l.loaded(ctx, told)
	if failed = errors.Join(failed, err); failed != nil {
		for _, img := range images {
			failed = errors.Join(failed, c.ownImage(ctx, img.id))
		}
		return failed
	}
	var answer bytes.Buffer
	enc := json.NewEncoder(&answer)
	for _, img := range images {
		if err := c.ownImage(ctx, img.id); err != nil {
			return err
		}
	}
	for _, img := range images {
		for _, name := range img.names {
			if err := c.nameImage(img.id, name); err != nil {
				return err
			}
			_ = enc.Encode(map[string]string{"stream": "Loaded image: " + familiar(name) + "\n"}) // a buffer takes it
		}
		if len(img.names) == 0 {
			_ = enc.Encode(map[string]string{"stream": "Loaded image ID: " + img.id + "\n"}) // a buffer takes it
		}
	}
	c.setHeaders()
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(answer.Bytes()) // the client may have gone
	return nil
}

// isLoaded makes sure that an image whose ID only the Engine knew is made of what was checked.
func (l *imageLoader) isLoaded(ctx context.Context, img loadedImage) error {
	doc, found, err := l.c.inspectImage(ctx, img.id)
	if err == nil && (!found || !slices.Equal(doc.RootFS.Layers, img.layers)) {
		err = fmt.Errorf("the Engine tells of the image %s, which is not the archive's", img.id)
	}
	return err
}

// loaded are the images of the archive that the Engine has now. One that was to be loaded for another platform is not among
// them.
func (l *imageLoader) loaded(ctx context.Context, told []string) (images []loadedImage, err error) {
	known := true
	for _, img := range l.images {
		known = known && img.id != ""
	}
	if !known {
		if len(told) != len(l.images) {
			return nil, fmt.Errorf("the archive has %d images, and the Engine told of %d", len(l.images), len(told))
		}
		for i, img := range l.images {
			img.id = told[i]
			if err := l.isLoaded(ctx, img); err != nil {
				return images, err
			}
			images = append(images, img)
		}
		return images, nil
	}
	for _, img := range l.images {
		_, found, err := l.c.inspectImage(ctx, img.id)
		switch {
		case err != nil:
			return images, err
		case found:
			images = append(images, img)
		case len(l.c.query["platform"]) == 0:
			return images, fmt.Errorf("the Engine has not loaded the image %s", img.id)
		}
	}
	return images, nil
}
