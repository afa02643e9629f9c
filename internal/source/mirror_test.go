package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

func TestCredentials(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"}))
	r.CorrelationID = "correlate"
	checkout(t, store, r)
	reqs := srv.taken()
	if len(reqs) < 3 {
		t.Fatalf("%d requests", len(reqs))
	}
	for i, req := range reqs {
		_, _, auth := req.BasicAuth()
		if auth != (i > 0) {
			t.Errorf("request %d has credentials: %t", i, auth)
		}
		if req.UserAgent() != "slipway test" || req.Header.Get("X-Gitaly-Correlation-Id") != "correlate" || req.Header.Get("Git-Protocol") != "version=2" {
			t.Errorf("request %d: headers %v", i, req.Header)
		}
	}
	err := filepath.WalkDir(store.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(testToken)) {
			t.Errorf("the token is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, arg := range store.git.command(t.Context(), gitCall{args: []string{"fetch"}, token: testToken}).Args {
		if strings.Contains(arg, testToken) {
			t.Errorf("the token is an argument: %s", arg)
		}
	}
}

// A server that sends Git elsewhere must not make it hand over the token there.
func TestRedirect(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"}))
	var thief []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		thief = append(thief, req.Header.Get("Authorization"))
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(other.Close)
	srv.set(testToken, func(w http.ResponseWriter, req *http.Request) bool {
		if _, _, ok := req.BasicAuth(); !ok {
			return false
		}
		http.Redirect(w, req, other.URL+req.URL.Path+"?"+req.URL.RawQuery, http.StatusFound)
		return true
	})
	if err := open(t, store, r).Checkout(t.Context(), io.Discard); err == nil {
		t.Error("the checkout succeeded")
	}
	other.Close() // waits for the handler
	if len(thief) == 0 {
		t.Error("Git did not follow the redirect")
	}
	for _, h := range thief {
		if h != "" {
			t.Errorf("the other server got %q", h)
		}
	}
}

func TestFetchErrors(t *testing.T) {
	t.Parallel()
	srv := newGitServer(t)
	sha := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"})
	good := srv.pipeline(t, 1, sha)
	closed := httptest.NewServer(nil)
	closed.Close()
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	t.Cleanup(broken.Close)
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tls.Close)
	tls.Config.ErrorLog = nil
	executed := filepath.Join(t.TempDir(), "executed")
	for name, c := range map[string]struct {
		change func(*Request)
		want   error
		reason job.Reason
	}{
		"wrong token":      {func(r *Request) { r.Token = "glcbt-wrong" }, ErrAuth, job.ScriptFailure},
		"no token":         {func(r *Request) { r.Token = "" }, ErrAuth, job.ScriptFailure},
		"no such project":  {func(r *Request) { r.RemoteURL = srv.URL + "/group/other.git" }, ErrAuth, job.ScriptFailure},
		"nobody listens":   {func(r *Request) { r.RemoteURL = closed.URL + "/x.git" }, ErrUnreachable, job.ExternalDependencyFailure},
		"no such host":     {func(r *Request) { r.RemoteURL = "http://nothing.invalid/x.git" }, ErrUnreachable, job.ExternalDependencyFailure},
		"bad gateway":      {func(r *Request) { r.RemoteURL = broken.URL + "/x.git" }, ErrUnreachable, job.ExternalDependencyFailure},
		"unknown CA":       {func(r *Request) { r.RemoteURL = tls.URL + "/x.git" }, ErrUnreachable, job.ExternalDependencyFailure},
		"commit is gone":   {func(r *Request) { r.Git.SHA = strings.Repeat("12", 20) }, ErrNoCommit, job.ScriptFailure},
		"branch is gone":   {func(r *Request) { r.Git.SHA = strings.Repeat("12", 20); r.Git.Refspecs = nil; r.Git.Ref = "gone" }, ErrNoCommit, job.ScriptFailure},
		"a file of ours":   {func(r *Request) { r.RemoteURL = "file://" + srv.Repo }, nil, ""},
		"a command":        {func(r *Request) { r.RemoteURL = "ext::sh -c 'touch " + executed + "'" }, nil, ""},
		"ssh":              {func(r *Request) { r.RemoteURL = "ssh://-oProxyCommand=x/y" }, nil, ""},
		"an option":        {func(r *Request) { r.RemoteURL = "--upload-pack=touch x" }, nil, ""},
		"refspec: option":  {func(r *Request) { r.Git.Refspecs = []string{"--upload-pack=touch x"} }, nil, ""},
		"refspec: outside": {func(r *Request) { r.Git.Refspecs = []string{"+refs/heads/main:refs/../../x"} }, nil, ""},
		"refspec: ours":    {func(r *Request) { r.Git.Refspecs = []string{"+refs/heads/*:refs/slipway/*"} }, nil, ""},
		"no commit":        {func(r *Request) { r.Git.SHA = "--all" }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := good
			c.change(&r)
			var out bytes.Buffer
			err := open(t, newStore(t), r).Checkout(t.Context(), &out)
			if err == nil {
				t.Fatal("no error")
			}
			var je *job.Error
			if errors.As(err, &je) != (c.want != nil) || c.want != nil && (!errors.Is(err, c.want) || je.Reason != c.reason || je.Hint == "") {
				t.Errorf("got %v (%+v), want %v, %s", err, je, c.want, c.reason)
			}
			if text := err.Error() + out.String(); strings.Contains(text, testToken) || strings.Contains(text, "glcbt-") {
				t.Errorf("the token is shown: %s", text)
			}
			if c.want == ErrNoCommit && !strings.Contains(err.Error(), "fatal: reference is not a tree: "+r.Git.SHA) {
				t.Errorf("got %v", err)
			}
			if exists(t, executed) {
				t.Error("a command was run")
			}
		})
	}
}

func TestForcePushedBranch(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	old := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "old"})
	srv.commit(t, "refs/heads/main", "", map[string]string{"a": "new"})
	r := srv.request(old, 1)
	r.Git.Refspecs = r.Git.Refspecs[1:] // no ref for the pipeline
	w, _ := checkout(t, store, r)
	if got := tree(t, w.Dir)["a"]; got != "-rw-rw-rw- old" {
		t.Errorf("a is %q", got)
	}
	// The branch is deleted: whoever retries the job still gets the commit.
	gitIn(t, srv.Repo, "update-ref", "-d", "refs/heads/main")
	w, _ = checkout(t, newStore(t), r)
	if got := tree(t, w.Dir)["a"]; got != "-rw-rw-rw- old" {
		t.Errorf("a is %q", got)
	}
	// A name that was a branch becomes a folder of branches.
	r = srv.request(srv.commit(t, "refs/heads/main/x", "", map[string]string{"a": "deeper"}), 1)
	r.Git.Ref, r.Git.Refspecs = "main/x", []string{"+refs/heads/main/x:refs/remotes/origin/main/x"}
	w, _ = checkout(t, store, r)
	if got := inJob(t, w, "for-each-ref", "--format=%(refname)"); got != "refs/remotes/origin/main/x" {
		t.Errorf("refs: %q", got)
	}
}

func TestDepth(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	shas := srv.chain(t, "refs/heads/main", "", 12)
	merge := gitIn(t, srv.Repo, "commit-tree", "-m", "merge", "-p", shas[11], "-p", shas[2], shas[11]+"^{tree}")
	gitIn(t, srv.Repo, "update-ref", "refs/heads/main", merge)
	count := func(depth int, sha string, wantNet bool, want int) *Workspace {
		t.Helper()
		srv.taken()
		r := srv.pipeline(t, 1, sha)
		r.Git.Depth = depth
		w, log := checkout(t, store, r)
		if got := strings.Count(inJob(t, w, "rev-list", "HEAD"), "\n") + 1; got != want {
			t.Errorf("depth %d: %d commits, want %d", depth, got, want)
		}
		if net := len(srv.taken()) > 0; net != wantNet {
			t.Errorf("depth %d: asked the server: %t, want %t", depth, net, wantNet)
		}
		text := "Fetching changes..."
		if depth > 0 {
			text = fmt.Sprintf("Fetching changes with git depth set to %d...", depth)
		}
		if !strings.Contains(log, text) {
			t.Errorf("depth %d: log %q", depth, log)
		}
		return w
	}
	count(1, merge, true, 1)
	count(2, merge, true, 3) // the merge and both its parents
	count(1, merge, false, 1)
	count(4, merge, true, 7) // 11, 10, 9 and 2, 1, 0
	count(3, shas[11], false, 3)
	w := count(0, merge, true, 13)
	if got := inJob(t, w, "rev-parse", "--is-shallow-repository"); got != "false" {
		t.Errorf("shallow: %s", got)
	}
	// A whole mirror stays whole: a job that wants a part does not make the next one fetch all again.
	next := srv.commit(t, "refs/heads/main", merge, map[string]string{"n": "next"})
	count(2, next, true, 2)
	count(0, next, false, 14)
	count(deepest+1, next, false, 14)
}

func TestAllRefs(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	shas := srv.chain(t, "refs/heads/main", "", 3)
	gitIn(t, srv.Repo, "branch", "side", shas[0])
	gitIn(t, srv.Repo, "tag", "light", shas[1])
	gitIn(t, srv.Repo, "tag", "-am", "x", "heavy", shas[0])
	r := srv.pipeline(t, 1, shas[2])
	r.Git.Depth = 0
	r.Git.Refspecs = []string{"+refs/pipelines/1:refs/pipelines/1", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"}
	refs := func(want string) {
		t.Helper()
		w, _ := checkout(t, store, r)
		got := strings.ReplaceAll(inJob(t, w, "for-each-ref", "--format=%(refname:lstrip=1)"), "\n", " ")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	refs("remotes/origin/main remotes/origin/side tags/heavy tags/light")
	gitIn(t, srv.Repo, "update-ref", "-d", "refs/heads/side")
	gitIn(t, srv.Repo, "tag", "-d", "light")
	gitIn(t, srv.Repo, "branch", "side/deeper", shas[1])
	refs("remotes/origin/main remotes/origin/side/deeper tags/heavy")
	r.FetchFlags = Words("--no-tags --prune")
	r.Git.Refspecs = r.Git.Refspecs[:2]
	refs("remotes/origin/main remotes/origin/side/deeper")
}

func TestTagJob(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	shas := srv.chain(t, "refs/heads/main", "", 3)
	gitIn(t, srv.Repo, "tag", "-am", "x", "v1", shas[1])
	r := srv.pipeline(t, 1, shas[1])
	r.Git.Ref, r.Git.RefType = "v1", "tag"
	r.Git.Refspecs = []string{"+refs/pipelines/1:refs/pipelines/1", "+refs/tags/v1:refs/tags/v1"}
	for i := range 2 {
		w, _ := checkout(t, store, r)
		if got := inJob(t, w, "describe", "--exact-match"); got != "v1" {
			t.Errorf("git describe: %s", got)
		}
		if asked := len(srv.taken()) > 0; asked != (i == 0) {
			t.Errorf("run %d: asked the server: %t", i, asked)
		}
	}
	// The tag moves, and so does what the next job gets.
	gitIn(t, srv.Repo, "tag", "-fam", "y", "v1", shas[2])
	r.Git.SHA = shas[2]
	w, _ := checkout(t, store, r)
	if got := inJob(t, w, "rev-parse", "v1^{commit}"); got != shas[2] {
		t.Errorf("v1 is %s, want %s", got, shas[2])
	}
}

func TestManyTags(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	shas := srv.chain(t, "refs/heads/main", "", 2)
	for i := range manyLoose + 5 {
		put(t, srv.Repo, map[string]string{fmt.Sprintf("refs/tags/t%d", i): shas[1] + "\n", fmt.Sprintf("refs/tags/old%d", i): shas[0] + "\n"})
	}
	gitIn(t, srv.Repo, "tag", "-am", "x", "heavy", shas[1])
	r := srv.pipeline(t, 1, shas[1])
	r.Git.Depth = 1
	for range 2 {
		w, _ := checkout(t, store, r)
		want := manyLoose + 5 + 2 // none of those of the commit that is not seen; the branch and the annotated one
		if got := strings.Count(inJob(t, w, "for-each-ref"), "\n") + 1; got != want {
			t.Errorf("%d refs, want %d", got, want)
		}
	}
	if _, loose, err := readRefs(store.mirrors(t)[0]); err != nil || loose > 0 {
		t.Errorf("%d loose refs, %v", loose, err)
	}
}

func (s *Store) mirrors(tb testing.TB) []string {
	tb.Helper()
	dirs, err := filepath.Glob(filepath.Join(s.dir, "mirrors", "*"))
	if err != nil || len(dirs) == 0 {
		tb.Fatalf("mirrors: %v, %v", dirs, err)
	}
	return dirs
}

func TestSHA256(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t, "--object-format=sha256"), newStore(t)
	shas := srv.chain(t, "refs/heads/main", "", 3)
	r := srv.pipeline(t, 1, shas[2])
	r.Git.RepoObjectFormat, r.Git.Depth = "sha256", 2
	for range 2 {
		w, _ := checkout(t, store, r)
		if got := inJob(t, w, "status", "--porcelain"); got != "" {
			t.Errorf("git status: %s", got)
		}
		if got := inJob(t, w, "rev-list", "HEAD"); got != shas[2]+"\n"+shas[1] {
			t.Errorf("git rev-list: %s", got)
		}
	}
}

// What a Git that was killed leaves in the mirror must not end the project's jobs for good.
func TestRepair(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	sha := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"})
	checkout(t, store, srv.pipeline(t, 1, sha))
	dir := store.mirrors(t)[0]
	refs, _, err := readRefs(dir)
	if err != nil || len(refs) == 0 {
		t.Fatalf("refs: %v, %v", refs, err)
	}
	put(t, dir, map[string]string{"shallow.lock": "", "packed-refs.lock": "", "packed-refs": strings.Repeat("1", 40) + " refs/tags/x\n"})
	for name := range refs {
		put(t, dir, map[string]string{name + ".lock": "", name: strings.Repeat("0", 39) + "1\n"})
	}
	w := open(t, store, srv.request(sha, 1))
	put(t, w.state, map[string]string{"index.lock": ""})
	w.Close()
	sha = srv.commit(t, "refs/heads/main", sha, map[string]string{"a": "b"})
	w, _ = checkout(t, store, srv.pipeline(t, 2, sha))
	if got := tree(t, w.Dir)["a"]; got != "-rw-rw-rw- b" {
		t.Errorf("a is %q", got)
	}
	put(t, w.state, map[string]string{"index": "DIRC rubbish"})
	w, _ = checkout(t, store, srv.request(sha, 2))
	if got := tree(t, w.Dir)["a"]; got != "-rw-rw-rw- b" {
		t.Errorf("a is %q", got)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"}))
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := make(chan struct{})
	srv.set(testToken, func(w http.ResponseWriter, req *http.Request) bool {
		cancel(job.ErrAborted)
		<-req.Context().Done()
		close(gone)
		return true
	})
	if err := open(t, store, r).Checkout(ctx, io.Discard); !errors.Is(err, job.ErrAborted) {
		t.Errorf("got %v, want the cause of the context", err)
	}
	<-gone // the helper that talks to the server is gone too
}

func TestLocks(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	shas := srv.chain(t, "refs/heads/main", "", 2)
	r := srv.pipeline(t, 1, shas[0])
	w := open(t, store, r)
	if err := w.Checkout(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := store.Workspace(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slot in use: got %v", err)
	}
	// Another slot works meanwhile, and what it fetches disturbs nothing.
	before := snapshot(t, w.Dir)
	other := srv.pipeline(t, 2, shas[1])
	other.Slot = "abc-1"
	o, _ := checkout(t, store, other)
	if o.Dir == w.Dir {
		t.Error("two jobs share a folder")
	}
	if diff := cmp.Diff(before, snapshot(t, w.Dir)); diff != "" {
		t.Error(diff)
	}
	if got := inJob(t, w, "fsck", "--no-dangling"); got != "" {
		t.Errorf("git fsck: %s", got)
	}
	done := make(chan error, 1)
	go func() {
		w, err := store.Workspace(t.Context(), r)
		if err == nil {
			err = w.Close()
		}
		done <- err
	}()
	w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMaintain(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	shas := srv.chain(t, "refs/heads/main", "", 2)
	w, _ := checkout(t, store, srv.pipeline(t, 1, shas[1]))
	m := &mirror{dir: store.mirrors(t)[0], git: store.git}
	for i := range manyPacks + 1 {
		in := filepath.Join(tempDir(t), "x")
		put(t, filepath.Dir(in), map[string]string{"x": fmt.Sprint(i)})
		oid := gitIn(t, m.dir, "hash-object", "-w", in)
		put(t, filepath.Dir(in), map[string]string{"list": oid + "\n"})
		gitIn(t, m.dir, "-c", "alias.p=!git pack-objects -q objects/pack/pack <"+filepath.Dir(in)+"/list", "p")
		gitIn(t, m.dir, "prune-packed", "-q")
	}
	packs := func() int {
		p, err := m.packs()
		if err != nil {
			t.Fatal(err)
		}
		return len(p)
	}
	all := gitIn(t, m.dir, "cat-file", "--batch-all-objects", "--batch-check")
	n := packs()
	held := open(t, store, srv.request(shas[1], 1))
	if err := store.Maintain(t.Context()); err != nil || packs() != n {
		t.Errorf("while a workspace is open: %d packs of %d, %v", packs(), n, err)
	}
	held.Close()
	if err := store.Maintain(t.Context()); err != nil || packs() > 3 {
		t.Errorf("%d packs of %d, %v", packs(), n, err)
	}
	if got := gitIn(t, m.dir, "cat-file", "--batch-all-objects", "--batch-check"); got != all {
		t.Error("objects were lost")
	}
	if got := inJob(t, w, "fsck", "--no-dangling"); got != "" {
		t.Errorf("git fsck: %s", got)
	}
}

// TestEvict: what no job asks for goes after a while, what is in use stays, and a job that comes later finds all it needs.
func TestEvict(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	sha := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"})
	r := srv.pipeline(t, 1, sha)
	w, _ := checkout(t, store, r)
	put(t, w.Dir, map[string]string{"left": "by the job"})
	other := r
	other.Slot = "abc-1"
	held := open(t, store, other)
	size := func(dir string) (n int) {
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				n++
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return n
	}
	if n, err := store.evict(t.Context(), Unused); n != 0 || err != nil {
		t.Errorf("what was used just now: %d gone, %v", n, err)
	}
	old := time.Now().Add(2 * Unused)
	age := func() {
		locks, err := filepath.Glob(filepath.Join(store.dir, "*", "*", "use.lock"))
		more, _ := filepath.Glob(filepath.Join(store.dir, "workspaces", "*", "*", "lock"))
		for _, l := range append(locks, more...) {
			err = errors.Join(err, os.Chtimes(l, old, old))
		}
		if err != nil || len(locks) != 1 || len(more) != 2 {
			t.Fatal(locks, more, err)
		}
	}
	age() // before the clock was set back
	if n, err := store.evict(t.Context(), Unused); n != 0 || err != nil {
		t.Errorf("what was used in the future: %d gone, %v", n, err)
	}
	old = time.Now().Add(-2 * Unused)
	age()
	// One workspace is in use, and the mirror with it.
	if n, err := store.evict(t.Context(), Unused); n != 1 || err != nil {
		t.Errorf("%d gone, %v", n, err)
	}
	if _, err := os.Stat(w.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the project is there")
	}
	held.Close()
	if n, err := store.evict(t.Context(), Unused); n != 2 || err != nil {
		t.Errorf("%d gone, %v", n, err)
	}
	if n := size(store.dir); n != 1 { // that uses are noted
		t.Errorf("%d files are left", n)
	}
	for _, dir := range []string{"mirrors", "workspaces"} {
		if left, err := os.ReadDir(filepath.Join(store.dir, dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	if n, err := store.evict(t.Context(), Unused); n != 0 || err != nil {
		t.Errorf("nothing is left, but %d gone, %v", n, err)
	}
	w, _ = checkout(t, store, r)
	if _, err := os.Stat(filepath.Join(w.Dir, "a")); err != nil {
		t.Error(err)
	}
	if n, err := store.evict(t.Context(), Unused); n != 0 || err != nil {
		t.Errorf("the mirror was used just now: %d gone, %v", n, err)
	}
}

// TestEvictBesideJobs: jobs that come and go while their folders are removed never share a slot, and have what they hold.
func TestEvictBesideJobs(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	sha := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"})
	r := srv.pipeline(t, 1, sha)
	if _, err := store.evict(t.Context(), 0); err != nil { // uses are noted from now on
		t.Fatal(err)
	}
	var inside [2]atomic.Int32
	var jobs, evictors sync.WaitGroup
	done, gone := make(chan struct{}), atomic.Int64{}
	for n := range 6 {
		jobs.Go(func() {
			r := r
			r.Slot = fmt.Sprintf("slot-%d", n%len(inside))
			for range 100 {
				w, err := store.Workspace(t.Context(), r)
				if err != nil {
					t.Error(err)
					return
				}
				if inside[n%len(inside)].Add(1) != 1 {
					t.Error("two jobs are in a slot")
				}
				for _, dir := range []string{w.Dir, w.TempDir, w.state, w.ObjectsDir} {
					if _, err := os.Stat(dir); err != nil {
						t.Error(err)
					}
				}
				inside[n%len(inside)].Add(-1)
				w.Close()
			}
		})
	}
	for range 2 {
		evictors.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				n, err := store.evict(t.Context(), 0)
				if gone.Add(int64(n)); err != nil {
					t.Error(err)
				}
				if err := (&mirror{dir: filepath.Join(store.dir, "mirrors", r.key()), git: store.git}).maintain(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	jobs.Wait()
	close(done)
	evictors.Wait()
	if gone.Load() == 0 {
		t.Error("nothing was removed meanwhile")
	}
	if _, err := store.evict(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(store.dir, "[mw]*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// TestEvictForRoom: when the disk is short, what was not used for the longest time goes first, only until there is enough, and
// nothing that a job uses.
func TestEvictForRoom(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	var text strings.Builder
	for i := range 20000 {
		fmt.Fprintln(&text, i)
	}
	sha := srv.commit(t, "refs/heads/main", "", map[string]string{"a": text.String()})
	now := time.Now()
	request := func(project int) Request {
		r := srv.pipeline(t, 1, sha)
		r.ProjectID = int64(project)
		return r
	}
	checked := map[int]*Workspace{}
	for id, age := range map[int]time.Duration{1: time.Hour, 2: 3 * time.Hour, 3: 2 * time.Hour} {
		w, _ := checkout(t, store, request(id))
		checked[id] = w
		when := now.Add(-age)
		for path, later := range map[string]time.Duration{filepath.Join(w.Dir, "..", slotLock): 0, filepath.Join(w.mirror.dir, useLock): time.Minute} {
			if err := os.Chtimes(path, when.Add(later), when.Add(later)); err != nil {
				t.Fatal(err)
			}
		}
	}
	there := func(id int) (project, mirror bool) {
		_, err := os.Stat(filepath.Join(checked[id].Dir, "a"))
		_, merr := os.Stat(checked[id].mirror.objectsDir())
		return err == nil, merr == nil
	}
	evict := func(need int64, want int) {
		t.Helper()
		n, freed, err := store.Evict(t.Context(), need)
		if err != nil || n != want || freed < need && want > 0 && need < 1<<30 {
			t.Errorf("%d are gone with %d bytes, %v, not %d", n, freed, err, want)
		}
	}
	evict(0, 0)
	evict(1, 1) // the workspace of 2
	if project, mirror := there(2); project || !mirror {
		t.Error(project, mirror)
	}
	evict(1, 1) // its mirror
	if _, mirror := there(2); mirror {
		t.Error("the mirror is there")
	}
	held := open(t, store, request(3))
	evict(1<<40, 2)
	for id, want := range map[int]bool{1: false, 3: true} {
		if project, mirror := there(id); project != want || mirror != want {
			t.Errorf("of %d: %t, %t", id, project, mirror)
		}
	}
	held.Close()
	evict(1<<40, 2)
	evict(1<<40, 0)
}
