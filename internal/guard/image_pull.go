package guard

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"

	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/wire"
)

// pullOptions say how an image is pulled.
type pullOptions struct {
	Platform string
	Auth     string                  // X-Registry-Auth, as the client sent it; "" = none
	Progress func(line []byte) error // each line of the Engine's answer but an error; may be nil
}

// imageCreate pulls. Imports, the other thing that the call can do, would bring a URL that the Engine asks.
func imageCreate(c *call) error {
	if c.query.Get("fromSrc") == "-" {
		return importImage(c)
	}
	if c.query.Get("fromSrc") != "" {
		if err := c.refuse(deny("image-import", "fetch it in the job and import the file", "the Engine would fetch %s itself, from a place that the job may not reach", shownURL(c.query.Get("fromSrc")))); err != nil {
			return err
		}
		return c.forward(http.MethodPost, "/images/create", c.pick("fromSrc", "repo", "tag", "message", "changes", "platform"), c.r.Body)
	}
	if err := c.noBody(); err != nil {
		return err
	}
	ref, err := pullName(c.query.Get("fromImage"), c.query.Get("tag"))
	if err != nil {
		return err
	}
	out := &lineAnswer{c: c}
	_, _, err = c.pull(c.ctx, ref, pullOptions{
		Platform: c.query.Get("platform"), Auth: c.r.Header.Get("X-Registry-Auth"), Progress: out.line,
	})
	if err != nil {
		return out.fail(err)
	}
	return nil
}

// streamError is an error that the Engine told in a line of its answer.
type streamError struct{ message string }

func (e *streamError) Error() string { return e.message }

// Unwrap gives the error a status, for calls that have sent none.
func (e *streamError) Unwrap() error { return &apiError{http.StatusInternalServerError, e.message} }

// pullName joins the API's two parts of a name.
func pullName(from, tag string) (string, error) {
	switch {
	case from == "":
		return "", badRequest("slipway: fromImage is missing")
	case strings.HasPrefix(tag, "sha256:"):
		named, err := parseName(from)
		if err != nil {
			return "", err
		}
		return named.Name() + "@" + tag, nil
	case tag != "":
		return repoAndTag(from, tag)
	}
	named, err := parseName(from)
	if err != nil {
		return "", err
	}
	if reference.IsNameOnly(named) {
		return "", deny("pull-all-tags", "name a tag, such as "+reference.FamiliarName(named)+":latest", "all tags of a repository cannot be pulled at once")
	}
	return from, nil
}

// pull fetches an image from its registry for the job, records that, and returns it. It obeys the rule for registries.
func (c *call) pull(ctx context.Context, ref string, o pullOptions) (image, imageDoc, error) {
	named, err := parseName(ref)
	if err != nil {
		return image{}, imageDoc{}, err
	}
	if err := c.allowHost(ctx, reference.Domain(named)); err != nil {
		return image{}, imageDoc{}, err
	}
	auth, private, err := registryAuth(o.Auth)
	if err != nil {
		return image{}, imageDoc{}, err
	}
	p, err := ledger.PullOf(c.policy.scope(), ref, private)
	if err != nil {
		return image{}, imageDoc{}, badRequest("%v", err)
	}
	if o.Platform != "" {
		p.Platform = !slices.Equal(platformParts(o.Platform)[:2], platformParts(c.engine.platform)[:2])
	}
	query := url.Values{"fromImage": {named.Name()}, "tag": {strings.TrimLeft(strings.TrimPrefix(p.Name, named.Name()), ":@")}}
	if o.Platform != "" {
		query.Set("platform", o.Platform)
	}
	stored, id, err := c.images.Pull(ctx, imageCalls{c.Guard}, p, func(ctx context.Context) error {
		return c.streamLines(ctx, "/images/create", query, auth, o.Progress)
	})
	if err != nil {
		return image{}, imageDoc{}, err
	}
	if p.Shadow != "" && stored != p.Shadow {
		// What the scope called so itself gives way, as it would on an Engine of its own.
		if err := c.dropOwn(ctx, p.Shadow); err != nil {
			return image{}, imageDoc{}, err
		}
	}
	doc, found, err := c.inspectImage(ctx, id)
	if err != nil || !found {
		return image{}, imageDoc{}, errors.Join(err, noImage(ref))
	}
	return newImage(doc, ledger.Candidate{Stored: stored, Written: p.Name}), doc, nil
}

// dropOwn removes a name of the scope's own, if there is one.
func (g *Guard) dropOwn(ctx context.Context, stored string) error {
	m, err := g.meaning(stored)
	if err != nil || !m.Visible {
		return err
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := (imageCalls{g}).Untag(ctx, stored); err != nil {
		return err
	}
	return g.images.Forget(stored)
}

// streamLines posts and passes on the lines of the answer, but for the error that a line tells, which is returned: it may not be the
// last word.
func (g *Guard) streamLines(ctx context.Context, path string, query url.Values, auth string, each func([]byte) error) error {
	header := http.Header{"X-Registry-Auth": {auth}}
	resp, err := g.engine.do(ctx, http.MethodPost, path, query, header, nil)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	if resp.StatusCode >= http.StatusBadRequest {
		return readError(resp)
	}
	var failed error
	r := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		var m struct{ Error string }
		switch {
		case json.Unmarshal(line, &m) == nil && m.Error != "":
			failed = &streamError{m.Error}
		case len(line) > 0 && each != nil:
			if err := each(line); err != nil {
				resp.Body.Close() // there is no waiting for the rest
				return err
			}
		}
		if err == io.EOF {
			return failed
		}
		if err != nil {
			return fmt.Errorf("read the Engine's answer: %w", err)
		}
	}
}

// registryAuth reads a client's X-Registry-Auth and writes it anew. private says that there are credentials in it.
func registryAuth(header string) (encoded string, private bool, err error) {
	a, err := readAuth(header)
	if err != nil {
		return "", false, err
	}
	data, err := json.Marshal(a)
	if err != nil {
		return "", false, err
	}
	return base64.URLEncoding.EncodeToString(data), a != (registry.AuthConfig{}), nil
}

// readAuth decodes a client's credentials for one registry, without their server address: which registry is asked
// follows from the image's name. Its errors do not tell what they hold.
func readAuth(header string) (registry.AuthConfig, error) {
	var a registry.AuthConfig
	if header == "" {
		return a, nil
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(header, "="))
	if err != nil { // some clients use the other alphabet
		data, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(header, "="))
	}
	if err != nil {
		return a, badRequest("slipway: X-Registry-Auth is not base64url")
	}
	if text := string(bytes.TrimSpace(data)); text == "" || text == "null" {
		return a, nil
	}
	if err := wire.Decode(data, &a); err != nil {
		return registry.AuthConfig{}, badRequest("slipway: X-Registry-Auth holds no credentials that can be read")
	}
	a.ServerAddress = ""
	return a, nil
}
