package gitlab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// serve starts a server and a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return newClient(t, Options{URL: srv.URL, Token: wireToken, SystemID: wireSystem})
}

// answer is a handler that always gives the same answer.
func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const asJSON = "application/json"

func TestURL(t *testing.T) {
	t.Parallel()
	tests := []struct{ url, want, err string }{
		{url: "https://gitlab.example.com", want: "https://gitlab.example.com/api/v4/"},
		{url: "https://gitlab.example.com/", want: "https://gitlab.example.com/api/v4/"},
		{url: "https://gitlab.example.com/ci", want: "https://gitlab.example.com/api/v4/"},
		{url: "https://gitlab.example.com/ci/", want: "https://gitlab.example.com/api/v4/"},
		{url: "https://example.com:8443/gitlab/", want: "https://example.com:8443/gitlab/api/v4/"},
		{url: "http://[::1]:80", want: "http://[::1]:80/api/v4/"},
		{url: "https://example.com/?a=b#c", want: "https://example.com/api/v4/"},
		{url: "ftp://example.com", err: "must begin with http:// or https://"},
		{url: "gitlab.example.com", err: "must begin with http:// or https://"},
		{url: "", err: "must begin with http:// or https://"},
		{url: "https://", err: "names no host"},
		{url: "https://:80", err: "names no host"},
		{url: "ssh://me:secret@example.com", err: `"ssh://me:xxxxx@example.com"`},
		{url: "https://exa mple.com", err: "read the GitLab URL: invalid character"},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			t.Parallel()
			c, err := New(Options{URL: tt.url})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want …%s…", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.base.String(); got != tt.want {
				t.Errorf("base %s, want %s", got, tt.want)
			}
		})
	}
}

func TestErrorTexts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    string
		is      error
	}{
		{
			"message", answer(400, asJSON, `{"message":"nonsense"}`),
			"verify the runner: 400 Bad Request: nonsense", nil,
		},
		{
			"map of messages", answer(400, asJSON, `{"message":{"token":["is short","is blank"],"description":"is long"}}`),
			"verify the runner: 400 Bad Request: description: is long, token: is short, token: is blank", nil,
		},
		{
			"error", answer(400, asJSON, `{"error":"token is missing"}`),
			"verify the runner: 400 Bad Request: token is missing", nil,
		},
		{
			"repeated status", answer(403, asJSON+"; charset=utf-8", `{"message":"403 Forbidden - invalid token supplied"}`),
			"verify the runner: the server does not accept the token (403 Forbidden - invalid token supplied)", job.ErrForbidden,
		},
		{
			"no JSON", answer(404, "text/html", "<html>"),
			"verify the runner: 404 Not Found", nil,
		},
		{
			"broken JSON", answer(403, asJSON, `{"message":`),
			"verify the runner: the server does not accept the token (403 Forbidden)", job.ErrForbidden,
		},
		{
			"token comes back", answer(400, asJSON, `{"message":"bad token `+wireToken+`!"}`),
			"verify the runner: 400 Bad Request: bad token [MASKED]!", nil,
		},
		{
			"wrong content type", answer(200, "text/html", "<html>please log in</html>"),
			`verify the runner: read the answer: it is "text/html", not application/json (is the URL that of a GitLab server?)`, nil,
		},
		{
			"nonsense", answer(200, asJSON, `[]`),
			"verify the runner: read the answer: json: cannot unmarshal array into Go value of type gitlab.Registration", nil,
		},
		{
			"status without a name", answer(499, asJSON, ``),
			"verify the runner: 499", nil,
		},
		{
			"redirect that loses the body", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://gitlab.example.com/api/v4/runners/verify")
				w.WriteHeader(301)
			},
			"verify the runner: 301 Moved Permanently: the server redirects to https://gitlab.example.com/api/v4/runners/verify, which may be the right url for the runner", nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := serve(t, tt.handler).Verify(t.Context())
			if err == nil || err.Error() != tt.want {
				t.Errorf("error\n%v, want\n%s", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
		})
	}
}

// TestLongMessage: whatever stands in front of GitLab may send a page of text.
func TestLongMessage(t *testing.T) {
	t.Parallel()
	_, err := serve(t, answer(400, asJSON, `{"message":"`+strings.Repeat("ä", 5000)+`"}`)).Verify(t.Context())
	if err == nil || len(err.Error()) > maxMessage+100 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

// TestRedirect: 307 keeps method, headers and body.
func TestRedirect(t *testing.T) {
	t.Parallel()
	var path, token, body string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/new/") {
			http.Redirect(w, r, "/new"+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		b, _ := io.ReadAll(r.Body)
		path, token, body = r.Method+" "+r.URL.Path, r.Header.Get("RUNNER-TOKEN"), string(b)
		answer(200, asJSON, `{"id":5,"token":"x"}`)(w, r)
	})
	reg, err := c.Verify(t.Context())
	if err != nil || reg.ID != 5 {
		t.Fatalf("%+v, %v", reg, err)
	}
	if path != "POST /new/api/v4/runners/verify" || token != wireToken || !strings.Contains(body, wireSystem) {
		t.Errorf("redirected as %s with token %q and body %s", path, token, body)
	}
}

// TestNoDowngrade: tokens do not go on in clear text.
func TestNoDowngrade(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the request was sent on without TLS")
	}))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusTemporaryRedirect))
	defer secure.Close()
	c := newClient(t, Options{URL: secure.URL, Token: wireToken, Transport: secure.Client().Transport})
	var status *StatusError
	if _, err := c.Verify(t.Context()); !errors.As(err, &status) || status.Status != 307 {
		t.Errorf("error %v, want status 307", err)
	}
}

// logBuffer is a log in JSON that can be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// TestTokensStayHidden makes every call fail in several ways and looks for the tokens in errors and log.
func TestTokensStayHidden(t *testing.T) {
	t.Parallel()
	const jobSecret = "glcbt-64_verysecret"
	echo := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", asJSON)
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"message":"got `+r.Header.Get("RUNNER-TOKEN")+r.Header.Get("JOB-TOKEN")+`"}`)
	}
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, h := range map[string]http.HandlerFunc{"echo": echo, "hang up": hangUp, "text": answer(201, "text/plain", "?")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(h)
			defer srv.Close()
			var log logBuffer
			c := newClient(t, Options{URL: srv.URL, Token: wireToken, Log: log.logger()})
			j := c.Job(1, jobSecret)
			for what, call := range map[string]func(context.Context) error{
				"verify":     func(ctx context.Context) error { _, err := c.Verify(ctx); return err },
				"register":   func(ctx context.Context) error { _, err := c.Register(ctx, RegisterOptions{}); return err },
				"unregister": c.Unregister,
				"request":    func(ctx context.Context) error { _, err := c.RequestJob(ctx, nil); return err },
				"update":     func(ctx context.Context) error { _, err := j.Update(ctx, job.Update{State: job.Running}); return err },
				"patch": func(ctx context.Context) error {
					_, err := j.PatchTrace(ctx, 0, []byte("x"), false)
					return err
				},
			} {
				err := call(t.Context())
				if err == nil {
					t.Errorf("%s: no error", what)
					continue
				}
				if s := err.Error(); strings.Contains(s, wireToken) || strings.Contains(s, jobSecret) {
					t.Errorf("%s: the error shows a token: %s", what, s)
				}
			}
			if s := log.String(); strings.Contains(s, wireToken) || strings.Contains(s, jobSecret) {
				t.Errorf("the log shows a token:\n%s", s)
			}
			if name == "echo" && strings.Count(log.String(), "called the server") != 6 {
				t.Errorf("the log lacks calls:\n%s", log.String())
			}
		})
	}
}
