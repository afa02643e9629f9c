package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

const (
	wireToken  = "glrt-t1_rigtoken0000000001"
	wireSystem = "s_1746f8786189"
)

// exchange is one request of GitLab's own runner, as recorded, and its answer.
type exchange struct {
	method, target string
	header         http.Header
	body           []byte
	status         int
	answerHeader   http.Header
	answer         []byte
}

// readWire reads a recorded exchange: lines with "> ", the body, lines with "< ", the answer's body.
func readWire(t *testing.T, name string) exchange {
	t.Helper()
	rest, err := os.ReadFile("testdata/" + name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	head := func(mark string) (first string, h http.Header) {
		h = http.Header{}
		for {
			var line []byte
			line, rest, _ = bytes.Cut(rest, []byte("\n"))
			text, ok := strings.CutPrefix(string(line), mark)
			if text = strings.TrimSpace(text); !ok || text == "" {
				return first, h
			}
			if first == "" {
				first = text
				continue
			}
			k, v, _ := strings.Cut(text, ": ")
			h.Set(k, v)
		}
	}
	var e exchange
	var line string
	line, e.header = head(">")
	if n, err := fmt.Sscanf(line, "%s %s HTTP/1.1", &e.method, &e.target); n != 2 || err != nil {
		t.Fatalf("%s: request line %q: %v", name, line, err)
	}
	size, err := strconv.Atoi(e.header.Get("Content-Length"))
	if err != nil || size > len(rest) {
		t.Fatalf("%s: Content-Length %d of %d bytes: %v", name, size, len(rest), err)
	}
	e.body, rest = rest[:size], bytes.TrimLeft(rest[size:], "\n")
	line, e.answerHeader = head("<")
	if _, err := fmt.Sscanf(line, "HTTP/1.1 %d", &e.status); err != nil {
		t.Fatalf("%s: status line %q: %v", name, line, err)
	}
	e.answer = bytes.TrimSpace(rest)
	return e
}

// TestWire makes the calls of the recording against a server that gives the recorded answers.
func TestWire(t *testing.T) {
	t.Parallel()
	type ack = job.Ack
	update := func(id int64, token job.Secret, u job.Update) func(context.Context, *Client) (any, error) {
		return func(ctx context.Context, c *Client) (any, error) { return c.Job(id, token).Update(ctx, u) }
	}
	patch := func(id int64, token job.Secret, start int64) func(context.Context, *Client) (any, error) {
		return func(ctx context.Context, c *Client) (any, error) {
			return c.Job(id, token).PatchTrace(ctx, start, ctx.Value(bodyKey{}).([]byte), false)
		}
	}
	const s3 = 3 * time.Second
	tests := []struct {
		file  string
		token string
		do    func(context.Context, *Client) (any, error)
		want  any
	}{
		{
			"runners-verify-01", wireToken,
			func(ctx context.Context, c *Client) (any, error) { return c.Verify(ctx) },
			Registration{ID: 1, Token: wireToken},
		},
		{
			"runners-register-01", "GR1348941legacyregtoken",
			func(ctx context.Context, c *Client) (any, error) {
				return c.Register(ctx, RegisterOptions{Description: "rig", Tags: []string{"dockerd"}, Locked: true})
			},
			Registration{ID: 1, Token: wireToken},
		},
		{
			"runners-managers-unregister-01", wireToken,
			func(ctx context.Context, c *Client) (any, error) { return nil, c.Unregister(ctx) },
			nil,
		},
		{
			"jobs-request-201-01", wireToken,
			func(ctx context.Context, c *Client) (any, error) {
				spec, err := c.RequestJob(ctx, nil)
				if err != nil {
					return nil, err
				}
				step, _ := spec.Step("script")
				return []any{spec.ID, spec.Token.Reveal(), spec.Image.Name, step.Script}, nil
			},
			[]any{int64(1001), "glcbt-64_job1001secrettoken", "docker:20.10.7", []string{"echo hi", "exit 3"}},
		},
		{
			"jobs-request-204-01", wireToken,
			func(ctx context.Context, c *Client) (any, error) {
				c.setLastUpdate("16")
				return c.RequestJob(ctx, nil)
			},
			(*job.Spec)(nil),
		},
		{
			"job-put-running-01", wireToken,
			update(1001, "glcbt-64_job1001secrettoken", job.Update{State: job.Running}),
			ack{Interval: s3},
		},
		{
			"job-put-running-keepalive", wireToken,
			update(1005, "glcbt-64_job1005secrettoken",
				job.Update{State: job.Running, Checksum: "crc32:3030746d", ByteSize: 4002}),
			ack{Interval: s3, Standing: job.Canceling},
		},
		{
			"job-put-success-01", wireToken,
			update(1004, "glcbt-64_job1004secrettoken",
				job.Update{State: job.Success, Checksum: "crc32:80d3504d", ByteSize: 4636}),
			ack{Interval: s3},
		},
		{
			"job-put-failed-script_failure-01", wireToken,
			update(1001, "glcbt-64_job1001secrettoken", job.Update{
				State: job.Failed, Reason: job.ScriptFailure, ExitCode: 3, Checksum: "crc32:6a24b37c", ByteSize: 4802,
			}),
			ack{Interval: s3},
		},
		{
			"job-put-failed-runner_system_failure-01", wireToken,
			update(1002, "glcbt-64_job1002secrettoken", job.Update{
				State: job.Failed, Reason: job.SystemFailure, Checksum: "crc32:1754eac0", ByteSize: 3079,
			}),
			ack{Interval: s3},
		},
		{
			"job-put-202-01", wireToken,
			update(1008, "glcbt-64_job1008secrettoken",
				job.Update{State: job.Success, Checksum: "crc32:15b30789", ByteSize: 4498}),
			ack{Interval: s3, Verdict: job.NotReady},
		},
		{
			"job-put-412-01", wireToken,
			update(1007, "glcbt-64_job1007secrettoken",
				job.Update{State: job.Success, Checksum: "crc32:81ce7aa7", ByteSize: 4498}),
			ack{Interval: s3, Verdict: job.Resend},
		},
		{
			"job-put-403-01", wireToken,
			update(1006, "glcbt-64_job1006secrettoken", job.Update{
				State: job.Failed, Reason: job.UnknownFailure, Checksum: "crc32:f00b68dc", ByteSize: 4562,
			}),
			ack{Interval: s3, Verdict: job.Forbidden, Standing: job.Aborted},
		},
		{
			"trace-patch-202-02", wireToken,
			patch(1001, "glcbt-64_job1001secrettoken", 4644),
			ack{Interval: s3, Offset: 4802},
		},
		{
			"trace-patch-403-01", wireToken,
			patch(1006, "glcbt-64_job1006secrettoken", 4114),
			ack{Interval: s3, Verdict: job.Forbidden, Standing: job.Aborted},
		},
		{
			"trace-patch-416-02", wireToken,
			patch(1011, "glcbt-64_job1011secrettoken", 4001),
			ack{Interval: s3, Verdict: job.OutOfRange, Offset: 4001},
		},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			rec := readWire(t, tt.file)
			var got exchange
			calls := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls++
				body, _ := io.ReadAll(r.Body)
				got = exchange{method: r.Method, target: r.RequestURI, header: r.Header.Clone(), body: body}
				maps.Copy(w.Header(), rec.answerHeader)
				w.WriteHeader(rec.status)
				_, _ = w.Write(rec.answer)
			}))
			defer srv.Close()
			c := newClient(t, Options{
				URL: srv.URL, Token: tt.token, SystemID: wireSystem, Executor: "docker", Shell: "bash",
				Version: Version{"1.2.3", "abcdef0"}, Features: DockerFeatures(),
			})
			res, err := tt.do(context.WithValue(t.Context(), bodyKey{}, rec.body), c)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, res); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if calls != 1 {
				t.Errorf("%d requests, want 1", calls)
			}
			if got.method != rec.method || got.target != rec.target {
				t.Errorf("request %s %s, want %s %s", got.method, got.target, rec.method, rec.target)
			}
			if diff := cmp.Diff(plainHeader(t, rec.header, "gitlab-runner"), plainHeader(t, got.header, "slipway")); diff != "" {
				t.Errorf("header (-recorded +got):\n%s", diff)
			}
			if diff := cmp.Diff(plainBody(t, rec), plainBody(t, got)); diff != "" {
				t.Errorf("body (-recorded +got):\n%s", diff)
			}
		})
	}
}

// bodyKey carries the recorded piece of a log to the call that sends it.
type bodyKey struct{}

// plainHeader checks the values that are ours and drops what is the connection's.
func plainHeader(t *testing.T, h http.Header, program string) map[string]string {
	t.Helper()
	agent := regexp.MustCompile(`^` + program + ` \S+ \(\S+; go\S+; \w+/\w+\)$`)
	if v := h.Get("User-Agent"); !agent.MatchString(v) {
		t.Errorf("User-Agent %q does not match %s", v, agent)
	}
	if v := h.Get("X-Request-Id"); !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(v) {
		t.Errorf("X-Request-Id %q is not 32 hex digits", v)
	}
	out := map[string]string{}
	for k, v := range h {
		switch textproto.CanonicalMIMEHeaderKey(k) {
		case "User-Agent", "X-Request-Id":
			out[k] = "checked"
		case "Host", "Content-Length":
		default:
			out[k] = strings.Join(v, " | ")
		}
	}
	return out
}

// plainBody is a body as lines "path = value" in the order in which they are sent; what may differ between two
// programs and machines is left out. A body that is no JSON stays as it is.
func plainBody(t *testing.T, e exchange) []string {
	t.Helper()
	if e.header.Get("Content-Type") != "application/json" {
		return []string{string(e.body)}
	}
	free := regexp.MustCompile(`^\.info\.(name|version|revision|platform|architecture|features\.\w+)$`)
	var out []string
	var walk func(dec *json.Decoder, path string)
	walk = func(dec *json.Decoder, path string) {
		tok, err := dec.Token()
		if err != nil {
			t.Fatalf("body at %q: %v", path, err)
		}
		if tok != json.Delim('{') { // the API has no lists in requests
			if free.MatchString(path) {
				tok = fmt.Sprintf("some %T", tok)
			}
			out = append(out, fmt.Sprintf("%s = %v", path, tok))
			return
		}
		out = append(out, path+" {")
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				t.Fatalf("body at %q: %v", path, err)
			}
			walk(dec, fmt.Sprintf("%s.%v", path, key))
		}
		_, _ = dec.Token()
	}
	walk(json.NewDecoder(bytes.NewReader(e.body)), "")
	return out
}

// TestFeatures holds what the executors declare; the lists change when they learn something.
func TestFeatures(t *testing.T) {
	t.Parallel()
	if b, err := json.Marshal(newInfo(Options{GPUs: "all"})); err != nil || !strings.Contains(string(b), `"config":{"gpus":"all"}`) {
		t.Errorf("%s, %v", b, err)
	}
	both := []string{
		"variables", "raw_variables", "masking", "artifacts", "upload_multiple_artifacts", "upload_raw_artifacts", "artifacts_exclude",
		"cache", "fallback_cache_keys", "refspecs", "multi_build_steps", "return_exit_code", "trace_reset", "trace_checksum", "trace_size",
		"cancelable", "cancel_gracefully", "two_phase_job_commit",
	}
	for name, c := range map[string]struct {
		declared Features
		more     []string
	}{
		"docker": {DockerFeatures(), []string{
			"image", "image_executor_opts", "services", "service_variables", "service_multiple_aliases", "service_executor_opts",
		}},
		"shell": {ShellFeatures(), []string{"shared"}},
	} {
		b, err := json.Marshal(c.declared)
		var m map[string]bool
		if err := errors.Join(err, json.Unmarshal(b, &m)); err != nil {
			t.Fatal(err)
		}
		var got []string
		for k, on := range m {
			if on {
				got = append(got, k)
			}
		}
		want := slices.Concat(both, c.more)
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s declares (-want +got):\n%s", name, diff)
		}
	}
}
