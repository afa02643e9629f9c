package source

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// gitServer is a real smart-HTTP server with one repository, group/demo.git, that asks for a job token.
type gitServer struct {
	URL, Repo string

	mu       sync.Mutex
	token    string
	requests []*http.Request
	hook     func(http.ResponseWriter, *http.Request) bool // true = answered
}

const testToken = "glcbt-64_secret1"

func newGitServer(tb testing.TB, initArgs ...string) *gitServer {
	tb.Helper()
	root := tempDir(tb)
	s := &gitServer{Repo: filepath.Join(root, "group", "demo.git"), token: testToken}
	gitIn(tb, root, append([]string{"init", "-q", "--bare", "-b", "main"}, append(initArgs, s.Repo)...)...)
	backend := &cgi.Handler{
		Stderr: io.Discard,
		Path:   filepath.Join(gitIn(tb, root, "--exec-path"), "git-http-backend"),
		Env:    []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Clone(r.Context()))
		token, hook := s.token, s.hook
		s.mu.Unlock()
		if hook != nil && hook(w, r) {
			return
		}
		if user, pass, ok := r.BasicAuth(); !ok || user != gitUser || pass != token {
			w.Header().Set("WWW-Authenticate", `Basic realm="GitLab"`)
			http.Error(w, "HTTP Basic: Access denied", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	tb.Cleanup(srv.Close)
	s.URL = srv.URL
	return s
}

// taken returns the requests since the last call.
func (s *gitServer) taken() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests
	s.requests = nil
	return r
}

func (s *gitServer) set(token string, hook func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.hook = token, hook
}

// commit writes a commit with just these files to a ref and returns its name. "name@755", "name@link" and
// "name@module" set the kind of an entry.
func (s *gitServer) commit(tb testing.TB, ref, parent string, files map[string]string) string {
	tb.Helper()
	var b bytes.Buffer
	fmt.Fprintf(&b, "commit %s\ncommitter a <a@b> %d +0000\ndata 1\nx\n", ref, 1_700_000_000)
	if parent != "" {
		fmt.Fprintf(&b, "from %s\n", parent)
	}
	b.WriteString("deleteall\n")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path, kind, _ := strings.Cut(name, "@")
		path = strconv.Quote(path)
		switch kind {
		case "":
			fmt.Fprintf(&b, "M 100644 inline %s\ndata %d\n%s\n", path, len(files[name]), files[name])
		case "755":
			fmt.Fprintf(&b, "M 100755 inline %s\ndata %d\n%s\n", path, len(files[name]), files[name])
		case "link":
			fmt.Fprintf(&b, "M 120000 inline %s\ndata %d\n%s\n", path, len(files[name]), files[name])
		case "module":
			fmt.Fprintf(&b, "M 160000 %s %s\n", files[name], path)
		}
	}
	b.WriteString("\n")
	cmd := exec.Command("git", "fast-import", "--quiet", "--force")
	cmd.Dir, cmd.Env, cmd.Stdin = s.Repo, testEnv(), &b
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("fast-import: %v\n%s", err, out)
	}
	return gitIn(tb, s.Repo, "rev-parse", ref)
}

// chain writes n commits and returns them, oldest first.
func (s *gitServer) chain(tb testing.TB, ref, parent string, n int) []string {
	tb.Helper()
	var out []string
	for i := range n {
		parent = s.commit(tb, ref, parent, map[string]string{"n": strconv.Itoa(i), "dir/same": "same"})
		out = append(out, parent)
	}
	return out
}

// request is a job on a branch, as GitLab would send it.
func (s *gitServer) request(sha string, pipeline int) Request {
	return Request{
		Server: s.URL, ProjectID: 7, ProjectPath: "group/demo", Slot: "abc-0",
		Git: job.Git{
			RepoURL: strings.Replace(s.URL, "://", "://"+gitUser+":"+s.token+"@", 1) + "/group/demo.git",
			Ref:     "main", RefType: "branch", SHA: sha, Depth: 20,
			Refspecs: []string{fmt.Sprintf("+refs/pipelines/%[1]d:refs/pipelines/%[1]d", pipeline), "+refs/heads/main:refs/remotes/origin/main"},
		},
		Token: job.Secret(s.token), Checkout: true, Objects: "/slipway/objects", UserAgent: "slipway test",
	}
}

// pipeline makes the ref that GitLab keeps for each pipeline, and the request of its job.
func (s *gitServer) pipeline(tb testing.TB, n int, sha string) Request {
	tb.Helper()
	gitIn(tb, s.Repo, "update-ref", fmt.Sprintf("refs/pipelines/%d", n), sha)
	return s.request(sha, n)
}

func newStore(tb testing.TB) *Store {
	tb.Helper()
	s, err := Open(tempDir(tb), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// tempDir is like TempDir, but can be removed whatever jobs leave there.
func tempDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "source")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		top, err := openRoot(filepath.Dir(dir))
		if err != nil {
			tb.Error(err)
			return
		}
		defer top.Close()
		if err := (&remover{top: top, path: filepath.Dir(dir)}).remove(context.Background(), top, filepath.Base(dir), dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// open opens a workspace that is closed with the test at the latest.
func open(tb testing.TB, s *Store, r Request) *Workspace {
	tb.Helper()
	w, err := s.Workspace(tb.Context(), r)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { w.Close() })
	return w
}

// checkout does what a job does with its sources, and gives the workspace back.
func checkout(tb testing.TB, s *Store, r Request) (w *Workspace, log string) {
	tb.Helper()
	w = open(tb, s, r)
	var out bytes.Buffer
	if err := w.Checkout(tb.Context(), &out); err != nil {
		tb.Fatalf("checkout: %v\n%s", err, out.String())
	}
	w.Close()
	return w, out.String()
}

// inJob runs Git in the project folder as a job would. On this host the mirror's objects are not where the container
// has them, so a variable stands in for the mount.
func inJob(tb testing.TB, w *Workspace, args ...string) string {
	tb.Helper()
	return gitWith(tb, w.Dir, []string{"GIT_ALTERNATE_OBJECT_DIRECTORIES=" + w.ObjectsDir}, args...)
}

func gitIn(tb testing.TB, dir string, args ...string) string {
	tb.Helper()
	return gitWith(tb, dir, nil, args...)
}

func gitWith(tb testing.TB, dir string, env []string, args ...string) string {
	tb.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = dir, append(testEnv(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func testEnv() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		"GIT_CONFIG_KEY_1=protocol.file.allow", "GIT_CONFIG_VALUE_1=always",
	}
}
