package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/slipway-ci/slipway/internal/job"
)

// The headers that carry a token.
const (
	runnerToken   = "RUNNER-TOKEN"
	jobToken      = "JOB-TOKEN"
	personalToken = "PRIVATE-TOKEN"
)

// maxBody bounds what is read of an answer, in bytes. A job with thousands of variables takes a few MiB.
const maxBody = 64 << 20

// call is one request, in a form that can be sent more than once.
type call struct {
	method, path string // path below …/api/v4/
	query        url.Values
	header       http.Header
	body         []byte
	secret       job.Secret // what authenticates the call: must not come back in an error
}

// newCall is a call with a JSON body. header is RUNNER-TOKEN or JOB-TOKEN.
//
// GitLab: the token goes into the header and into the body.
func newCall(method, path, header string, token job.Secret, body any) (call, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return call{}, fmt.Errorf("encode the request: %w", err)
	}
	h := http.Header{}
	h.Set(header, token.Reveal())
	h.Set("Content-Type", "application/json")
	return call{method: method, path: path, header: h, body: b, secret: token}, nil
}

// wantJSON asks for an answer in JSON.
func (r call) wantJSON() call {
	r.header.Set("Accept", "application/json")
	return r
}

// reply is an answer, read to its end or to where it broke off.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error // why the body is incomplete
	secret job.Secret
}

// once sends a call once.
func (c *Client) once(ctx context.Context, r call, requestID string) (*reply, error) {
	u := c.base.JoinPath(r.path)
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header = r.header.Clone()
	req.Header.Set("User-Agent", c.version.userAgent())
	req.Header.Set("X-Request-Id", requestID)

	start := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if v := resp.Header.Get("X-Gitlab-Last-Update"); v != "" {
		c.setLastUpdate(v)
	}
	if id := resp.Header.Get("X-Request-Id"); id != "" {
		requestID = id // the server's own: under it the call is found in the server's logs
	}
	c.observe(endpointOf(r.method, r.path), strings.ToLower(r.method), resp.StatusCode, time.Since(start))
	c.log.DebugContext(ctx, "called the server", "method", r.method, "path", r.path, "status", resp.StatusCode,
		"took", time.Since(start), "request_id", requestID)
	return &reply{status: resp.StatusCode, header: resp.Header, body: body, err: err, secret: r.secret}, nil
}

// endpointOf names a call as the metrics do.
//
// GitLab: the words of its runner's metrics, and of the same kind where it counts nothing.
func endpointOf(method, path string) string {
	switch {
	case path == "jobs/request":
		return "request_job"
	case strings.HasSuffix(path, "/trace"):
		return "patch_trace"
	case strings.HasPrefix(path, "jobs/"):
		return "update_job"
	case path == "runners/verify":
		return "verify_runner"
	case strings.HasSuffix(path, "/reset_authentication_token"):
		return "reset_token"
	case method == http.MethodDelete:
		return "unregister_runner"
	}
	return "register_runner"
}

func newRequestID() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }

// isJSON reports whether the answer says that it is JSON.
func (r *reply) isJSON() bool {
	t, _, err := mime.ParseMediaType(r.header.Get("Content-Type"))
	return err == nil && t == "application/json"
}

// decode reads a JSON answer into v.
func (r *reply) decode(v any) error {
	if r.err != nil {
		return fmt.Errorf("read the answer: %w", r.err)
	}
	if !r.isJSON() {
		return fmt.Errorf("read the answer: it is %q, not application/json (is the URL that of a GitLab server?)",
			r.header.Get("Content-Type"))
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}
