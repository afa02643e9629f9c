package guard

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// imagePush sends an image to its registry, with the client's credentials. The Engine pushes by name, so the name is
// lent to the job's image for that long; who else reads it sees what it meant before.
func imagePush(c *call) error {
	if err := c.noBody(); err != nil { // credentials in the body, as clients had them before 1.1
		return err
	}
	named, auth, err := c.atRegistry()
	if err != nil {
		return err
	}
	names, err := c.pushNames(named, c.query.Get("tag"))
	if err != nil {
		return err
	}
	out := &lineAnswer{c: c}
	for _, n := range names {
		if err := c.push(n, auth, c.query.Get("platform"), out.line); err != nil {
			return out.fail(err)
		}
	}
	return nil
}

// pushNames are the names that a push means: one, or without a tag all that the job has in the repository.
func (c *call) pushNames(named reference.Named, tag string) ([]reference.NamedTagged, error) {
	if tag == "" && reference.IsNameOnly(named) {
		rows, err := c.visibleImages(c.ctx)
		if err != nil {
			return nil, err
		}
		var out []reference.NamedTagged
		for _, row := range rows {
			for _, t := range row.tags {
				if n, ok := mustName(t).(reference.NamedTagged); ok && n.Name() == named.Name() {
					out = append(out, n)
				}
			}
		}
		slices.SortFunc(out, func(a, b reference.NamedTagged) int { return strings.Compare(a.String(), b.String()) })
		if len(out) > 0 {
			return out, nil
		}
	}
	if tag != "" {
		var err error
		if named, err = reference.WithTag(reference.TrimNamed(named), tag); err != nil {
			return nil, badRequest("%v", err)
		}
	}
	tagged, ok := reference.TagNameOnly(named).(reference.NamedTagged)
	if !ok {
		return nil, badRequest("cannot push a digest reference")
	}
	return []reference.NamedTagged{tagged}, nil
}

// push sends one image of the job's. each gets the Engine's lines.
func (c *call) push(name reference.NamedTagged, auth, platform string, each func(line []byte) error) error {
	img, err := c.readImage(c.ctx, name.String())
	if isStatus(err, http.StatusNotFound) {
		// As the Engine says it, in the stream.
		return &apiError{http.StatusNotFound, "An image does not exist locally with the tag: " + reference.FamiliarName(name)}
	}
	if err != nil {
		return err
	}
	if err := c.checkPushedSecrets(c.ctx, img.ID, reference.FamiliarString(name)); err != nil {
		return err
	}
	query := url.Values{"tag": {name.Tag()}}
	if platform != "" && c.engine.version.atLeast("1.46") {
		query.Set("platform", platform)
	}
	return c.images.Lend(c.ctx, imageCalls{c.Guard}, name.String(), c.policy.Scope, img.ID, func(ctx context.Context) error {
		return c.streamLines(ctx, "/images/"+name.Name()+"/push", query, auth, each)
	})
}

// lineAnswer is an answer of lines, which begins with the first of them: until then, an error has a status.
type lineAnswer struct {
	c   *call
	out io.Writer // nil = it has not begun
}

func (a *lineAnswer) line(line []byte) error {
	if a.out == nil {
		a.out = a.c.pacedAnswer() // while the client is waited for, others wait for the image's name
		a.c.setHeaders()
		a.c.w.Header().Set("Content-Type", "application/json")
		a.c.w.WriteHeader(http.StatusOK)
	}
	if _, err := a.out.Write(line); err != nil {
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	return nil
}

// imageSearch asks Docker Hub, or the registry that the term begins with.
func imageSearch(c *call) error {
	term := c.query.Get("term")
	host, _, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host = "docker.io"
	}
	if err := c.allowHost(c.ctx, host); err != nil {
		return err
	}
	auth, _, err := registryAuth(c.r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return err
	}
	query := c.pick("term", "filters")
	if limit := c.query.Get("limit"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 0 || n > 100 {
			return badRequest("limit %s is outside the range of [1, 100]", printable(limit))
		}
		query.Set("limit", strconv.Itoa(n))
	}
	return c.forwardWithAuth("/images/search", query, auth)
}

// atRegistry is the image of a call that goes to its registry, which must be allowed, and the credentials for that.
func (c *call) atRegistry() (named reference.Named, auth string, err error) {
	if named, err = parseName(c.vars["name"]); err != nil {
		return nil, "", err
	}
	if err := c.allowHost(c.ctx, reference.Domain(named)); err != nil {
		return nil, "", err
	}
	auth, _, err = registryAuth(c.r.Header.Get("X-Registry-Auth"))
	return named, auth, err
}

// distribution asks a registry for an image's digest.
func distribution(c *call) error {
	named, auth, err := c.atRegistry()
	if err != nil {
		return err
	}
	return c.forwardWithAuth("/distribution/"+reference.TagNameOnly(named).String()+"/json", nil, auth)
}

func (c *call) forwardWithAuth(path string, query url.Values, auth string) error {
	resp, err := c.engine.do(c.ctx, http.MethodGet, path, query, http.Header{"X-Registry-Auth": {auth}}, nil)
	if err != nil {
		return err
	}
	return c.relay(resp)
}

// fail tells of an error: in a line, if the answer has begun.
func (a *lineAnswer) fail(err error) error {
	if a.out == nil {
		return err
	}
	_, message := statusOf(err)
	data, jsonErr := json.Marshal(map[string]any{"errorDetail": map[string]string{"message": message}, "error": message})
	if jsonErr == nil {
		_ = a.line(append(data, '\n')) // the error is returned
	}
	return fmt.Errorf("%w: %w", errAnswered, err)
}
