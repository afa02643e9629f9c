package gitlab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// recorded is a recording's request line and header: its body is an archive, of no use to compare.
func recorded(t *testing.T, name string) (line string, h http.Header) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	h = http.Header{}
	for text := range strings.Lines(string(data)) {
		text, ok := strings.CutPrefix(strings.TrimSpace(text), "> ")
		if !ok {
			return line, h
		}
		if k, v, ok := strings.Cut(text, ": "); ok {
			h.Set(k, v)
		} else {
			line = text
		}
	}
	return line, h
}

const wireJob = job.Secret("glcbt-64_job1013secrettoken")

// TestArtifactsWire compares what is sent with what GitLab's own runner sent.
func TestArtifactsWire(t *testing.T) {
	t.Parallel()
	const content = "the archive"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "artifacts-download-01"
		if r.Method == http.MethodPost {
			name = "artifacts-upload-01"
		}
		line, want := recorded(t, name)
		if got := fmt.Sprintf("%s %s HTTP/1.1", r.Method, r.RequestURI); got != line {
			t.Errorf("sent %s, not %s", got, line)
		}
		if got := r.Header.Get("Job-Token"); got != want.Get("Job-Token") {
			t.Errorf("%s: job token %q", line, got)
		}
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, content) // the client's error tells
			return
		}
		kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != "multipart/form-data" || r.ContentLength != -1 {
			t.Errorf("sent %q %v, %d bytes", kind, err, r.ContentLength)
		}
		part, err := multipart.NewReader(r.Body, params["boundary"]).NextRawPart()
		if err != nil {
			t.Error(err)
			return
		}
		if d := part.Header.Get("Content-Disposition"); d != `form-data; name="file"; filename="out.zip"` || part.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("the part is %v", part.Header)
		}
		if got, err := io.ReadAll(part); err != nil || string(got) != content {
			t.Errorf("%q %v", got, err)
		}
		w.WriteHeader(http.StatusCreated)
	}))
	defer srv.Close()
	c := newClient(t, Options{URL: srv.URL, Token: wireToken})
	j := c.Job(1013, wireJob)
	err := j.UploadArtifact(t.Context(), job.Upload{Filename: "out.zip", Type: "archive", Format: "zip", ExpireIn: "1 day"}, writer(content))
	if err != nil {
		t.Error(err)
	}
	to := scratch(t)
	if n, err := j.DownloadArtifact(t.Context(), 1013, wireJob, true, to); err != nil || n != int64(len(content)) || text(t, to) != content {
		t.Errorf("%d %v", n, err)
	}
}

func writer(content string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, content); return err }
}

func scratch(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func text(t *testing.T, f *os.File) string {
	t.Helper()
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestUploadIsTriedAgain gives a status to each try.
func TestUploadIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		statuses []int // the last one stays
		tries    int
		want     int // 0 = success
	}{
		"at once":           {[]int{201}, 1, 0},
		"too large":         {[]int{413}, 1, 413},
		"forbidden":         {[]int{403}, 1, 403},
		"disabled":          {[]int{405}, 1, 405},
		"not understood":    {[]int{400}, 1, 400},
		"broken":            {[]int{500}, 3, 500},
		"broken for a time": {[]int{500, 502, 201}, 3, 0},
		"busy":              {[]int{503}, 6, 503},
		"busy for a time":   {[]int{503, 503, 503, 503, 503, 201}, 6, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n, err := io.Copy(io.Discard, r.Body); err != nil || n < 7 {
					t.Errorf("try %d sent %d bytes: %v", tries, n, err)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.statuses[min(tries, len(c.statuses)-1)])
				tries++
			}))
			defer srv.Close()
			err := newClient(t, Options{URL: srv.URL, Token: wireToken}).Job(1, wireJob).UploadArtifact(t.Context(), job.Upload{Filename: "a"}, writer("content"))
			var status *StatusError
			if errors.As(err, &status); c.want == 0 && err != nil || c.want != 0 && (status == nil || status.Status != c.want) {
				t.Errorf("%v", err)
			}
			if tries != c.tries {
				t.Errorf("%d tries", tries)
			}
		})
	}
}

// TestUploadEnds: what cannot be made is not tried again, nor what is not wanted any more, and a connection that breaks is.
func TestUploadEnds(t *testing.T) {
	t.Parallel()
	var tries atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1)%2 == 1 {
			_, _ = io.CopyN(io.Discard, r.Body, 10)
			panic(http.ErrAbortHandler)
		}
		_, _ = io.Copy(io.Discard, r.Body) // the client's error tells
		w.WriteHeader(http.StatusCreated)
	}))
	defer srv.Close()
	j := newClient(t, Options{URL: srv.URL, Token: wireToken}).Job(1, wireJob)
	if err := j.UploadArtifact(t.Context(), job.Upload{Filename: "a"}, writer("content")); err != nil || tries.Load() != 2 {
		t.Errorf("%v after %d tries", err, tries.Load())
	}
	broken := errors.New("the disk is broken")
	made := 0
	err := j.UploadArtifact(t.Context(), job.Upload{Filename: "a"}, func(io.Writer) error { made++; return broken })
	if !errors.Is(err, broken) || made != 1 {
		t.Errorf("%v, made %d times", err, made)
	}
	slow, err := New(Options{URL: srv.URL, Token: wireToken, UploadTimeout: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	err = slow.Job(1, wireJob).UploadArtifact(t.Context(), job.Upload{Filename: "a"}, func(w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				return err
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "longer than 10ms") {
		t.Errorf("an upload without an end: %v", err)
	}
}

// TestUploadMoves follows a redirect to another server, but not to one without encryption.
func TestUploadMoves(t *testing.T) {
	t.Parallel()
	got := ""
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(body, []byte("content")) {
			got = r.RequestURI
		}
		w.WriteHeader(http.StatusCreated)
	}))
	defer other.Close()
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer first.Close()
	err := newClient(t, Options{URL: first.URL, Token: wireToken}).Job(7, wireJob).UploadArtifact(t.Context(), job.Upload{Filename: "a", Format: "zip"}, writer("content"))
	if err != nil || got != "/api/v4/jobs/7/artifacts?artifact_format=zip" {
		t.Errorf("%v, %s", err, got)
	}
	loop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusTemporaryRedirect) }))
	defer loop.Close()
	if err := newClient(t, Options{URL: loop.URL, Token: wireToken}).Job(7, wireJob).UploadArtifact(t.Context(), job.Upload{Filename: "a"}, writer("content")); err == nil {
		t.Error("it went round for ever, and well")
	}
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	defer secure.Close()
	c, err := New(Options{URL: secure.URL, Token: wireToken, Transport: secure.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Job(7, wireJob).UploadArtifact(t.Context(), job.Upload{Filename: "a"}, writer("content")); err == nil || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("the archive was sent without encryption: %v", err)
	}
	if _, err := c.Job(7, wireJob).DownloadArtifact(t.Context(), 1, wireJob, true, scratch(t)); err == nil {
		t.Error("the archive was fetched without encryption")
	}
}

// TestDownload follows the server to its storage, without the job's token, and does without when that fails.
func TestDownload(t *testing.T) {
	t.Parallel()
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Job-Token") != "" || r.URL.Query().Get("signature") != "x" {
			t.Errorf("the storage is asked %s with %v", r.RequestURI, r.Header)
		}
		if r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, "stored") // the client's error tells
	}))
	defer storage.Close()
	var asked []string
	path := "/good"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.RequestURI)
		if r.URL.Query().Get("direct_download") == "true" {
			http.Redirect(w, r, storage.URL+path+"?signature=x", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, "sent") // the client's error tells
	}))
	defer srv.Close()
	j := newClient(t, Options{URL: srv.URL, Token: wireToken}).Job(9, "own")
	to := scratch(t)
	if _, err := j.DownloadArtifact(t.Context(), 8, wireJob, true, to); err != nil || text(t, to) != "stored" {
		t.Errorf("%v %q", err, text(t, to))
	}
	if _, err := j.DownloadArtifact(t.Context(), 8, wireJob, false, to); err != nil || text(t, to) != "sent" {
		t.Errorf("%v %q", err, text(t, to))
	}
	path, asked = "/broken", nil
	if _, err := j.DownloadArtifact(t.Context(), 8, wireJob, true, to); err != nil || text(t, to) != "sent" || len(asked) != 2 || asked[1] != "/api/v4/jobs/8/artifacts" {
		t.Errorf("%v %q, asked %q", err, text(t, to), asked)
	}
}

func TestDownloadFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handle func(w http.ResponseWriter)
		tries  int
		want   string
	}{
		"gone":      {func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, 1, "404"},
		"forbidden": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, 1, "403"},
		"no token":  {func(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }, 1, "401"},
		"broken":    {func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }, 3, "502"},
		"cut short": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half") // it is to fail
		}, 3, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tries++; c.handle(w) }))
			defer srv.Close()
			_, err := newClient(t, Options{URL: srv.URL, Token: wireToken}).Job(9, "own").DownloadArtifact(t.Context(), 8, wireJob, true, scratch(t))
			if err == nil || !strings.Contains(err.Error(), c.want) || tries != c.tries {
				t.Errorf("%v after %d tries", err, tries)
			}
		})
	}
}
