package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

// lfsServer is the LFS side of a gitServer, under every repository's address.
type lfsServer struct {
	mu      sync.Mutex
	files   map[string]string // by hash
	batches []string          // paths that were asked, with the hashes
	gets    int
	refuse  bool
}

// pointerTo puts a file on the server and returns what a commit has of it.
func (l *lfsServer) pointerTo(content string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := sha256.Sum256([]byte(content))
	oid := hex.EncodeToString(sum[:])
	l.files[oid] = content
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(content))
}

// taken returns what was asked since the last call.
func (l *lfsServer) taken() (batches []string, gets int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	batches, gets = l.batches, l.gets
	l.batches, l.gets = nil, 0
	return batches, gets
}

func newLFSServer(s *gitServer) *lfsServer {
	l := &lfsServer{files: map[string]string{}}
	s.set(testToken, func(w http.ResponseWriter, r *http.Request) bool {
		repo, rest, ok := strings.Cut(r.URL.Path, "/info/lfs/")
		if !ok {
			return false
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if user, pass, _ := r.BasicAuth(); user != gitUser || pass != testToken || l.refuse {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		if oid, ok := strings.CutPrefix(rest, "get/"); ok {
			l.gets++
			fmt.Fprint(w, l.files[oid])
			return true
		}
		var ask struct{ Objects []struct{ OID string } }
		if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return true
		}
		var objects []map[string]any
		asked := repo
		for _, o := range ask.Objects {
			asked += " " + o.OID[:4]
			if _, ok := l.files[o.OID]; !ok {
				objects = append(objects, map[string]any{"oid": o.OID, "error": map[string]any{"code": 404, "message": "Object does not exist"}})
				continue
			}
			href := s.URL + repo + "/info/lfs/get/" + o.OID
			objects = append(objects, map[string]any{"oid": o.OID, "actions": map[string]any{"download": map[string]any{"href": href}}})
		}
		l.batches = append(l.batches, asked)
		w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
		_ = json.NewEncoder(w).Encode(map[string]any{"objects": objects})
		return true
	})
	return l
}

const lfsAttributes = "*.psd filter=lfs diff=lfs merge=lfs -text\n"

// TestLFS: the job has the files, Git in the job takes them for unchanged, and nothing is fetched or written twice.
func TestLFS(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	files := newLFSServer(srv)
	large := strings.Repeat("large ", 10_000)
	first := map[string]string{
		".gitattributes": lfsAttributes, "large.psd": files.pointerTo(large), "dir/run.psd@755": files.pointerTo("small"),
		"plain.txt": files.pointerTo("not by LFS"), "odd.psd": "no pointer",
	}
	read := func(w *Workspace, name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(w.Dir, name))
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	clean := func(w *Workspace) {
		t.Helper()
		if out := inJob(t, w, "status", "--porcelain"); out != "" {
			t.Errorf("git status in the job: %s", out)
		}
	}
	sha := srv.commit(t, "refs/heads/main", "", first)
	w, log := checkout(t, store, srv.pipeline(t, 1, sha))
	if read(w, "large.psd") != large || read(w, "dir/run.psd") != "small" || read(w, "odd.psd") != "no pointer" || read(w, "plain.txt") != first["plain.txt"] {
		t.Error("the files are not as they should be")
	}
	if info, err := os.Stat(filepath.Join(w.Dir, "dir/run.psd")); err != nil || info.Mode() != 0o777 {
		t.Errorf("dir/run.psd: %v %v", info, err)
	}
	if !strings.Contains(log, "Fetching Git LFS objects: 2, 60.01kB...") {
		t.Errorf("log: %q", log)
	}
	clean(w)
	if batches, gets := files.taken(); len(batches) != 1 || gets != 2 {
		t.Errorf("asked %q and %d files", batches, gets)
	}

	// The same commit again, and then another one: what is there stays as it is, and is not asked for.
	before, err := os.Stat(filepath.Join(w.Dir, "large.psd"))
	if err != nil {
		t.Fatal(err)
	}
	first["dir/run.psd@755"] = files.pointerTo("other")
	next := srv.commit(t, "refs/heads/main", sha, first)
	for n, sha := range []string{sha, next} {
		w, _ = checkout(t, store, srv.pipeline(t, n+2, sha))
		after, err := os.Stat(filepath.Join(w.Dir, "large.psd"))
		if err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("large.psd was written again: %v", err)
		}
		clean(w)
		if batches, gets := files.taken(); len(batches) != n || gets != n {
			t.Errorf("asked %q and %d files", batches, gets)
		}
	}
	if read(w, "dir/run.psd") != "other" {
		t.Error("the new file is not there")
	}

	// A job changes and removes files: the next one has them again, without the server.
	if err := errors.Join(os.WriteFile(filepath.Join(w.Dir, "large.psd"), []byte("evil"), 0o666), os.Remove(filepath.Join(w.Dir, "dir/run.psd"))); err != nil {
		t.Fatal(err)
	}
	w, _ = checkout(t, store, srv.pipeline(t, 4, next))
	if read(w, "large.psd") != large || read(w, "dir/run.psd") != "other" {
		t.Error("the files are not as they should be")
	}
	clean(w)
	if batches, gets := files.taken(); len(batches)+gets != 0 {
		t.Errorf("asked %q and %d files", batches, gets)
	}

	// Another slot, which wants pointers.
	r := srv.pipeline(t, 5, next)
	r.Slot, r.SkipLFS = "abc-1", true
	w, _ = checkout(t, store, r)
	if read(w, "large.psd") != first["large.psd"] {
		t.Error("GIT_LFS_SKIP_SMUDGE has no effect")
	}
	r.SkipLFS = false
	if w, _ = checkout(t, store, r); read(w, "large.psd") != large {
		t.Error("the pointers of the last job stayed")
	}
	clean(w)
}

// TestLFSFromElsewhere: what .lfsconfig may say, and what not.
func TestLFSFromElsewhere(t *testing.T) {
	t.Parallel()
	srv := newGitServer(t)
	files := newLFSServer(srv)
	commit := func(lfsconfig string) Request {
		return srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{
			".gitattributes": lfsAttributes, ".lfsconfig": lfsconfig,
			"a.psd": files.pointerTo("a"), "doc/b.psd": files.pointerTo("b"), "doc/deep/c.psd": files.pointerTo("c"),
		}))
	}
	got := func(w *Workspace) (names []string) {
		for _, name := range []string{"a.psd", "doc/b.psd", "doc/deep/c.psd"} {
			if text, err := os.ReadFile(filepath.Join(w.Dir, name)); err != nil || len(text) == 1 {
				names = append(names, name)
			}
		}
		return names
	}
	for config, want := range map[string][]string{
		"[lfs]\n\tfetchexclude = doc\n":                       {"a.psd"},
		"[lfs]\n\tfetchinclude = doc/deep/,/a.psd\n":          {"a.psd", "doc/deep/c.psd"},
		"[lfs]\n\tfetchinclude = doc\n\tfetchexclude = c.*\n": {"doc/b.psd"},
	} {
		w, _ := checkout(t, newStore(t), commit(config))
		if diff := cmp.Diff(want, got(w)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", config, diff)
		}
	}

	// Another project of the same GitLab has to be asked each time: not every job may read it.
	store := newStore(t)
	r := commit("[lfs]\n\turl = " + srv.URL + "/other/files.git/info/lfs\n")
	checkout(t, store, r)
	files.taken()
	r.Slot = "abc-1"
	checkout(t, store, r)
	if batches, gets := files.taken(); len(batches) != 1 || !strings.HasPrefix(batches[0], "/other/files.git ") || gets != 0 {
		t.Errorf("asked %q and %d files", batches, gets)
	}
	files.mu.Lock()
	files.refuse = true
	files.mu.Unlock()
	r.Slot = "abc-2"
	w := open(t, store, r)
	err := w.Checkout(t.Context(), new(bytes.Buffer))
	w.Close()
	var je *job.Error
	if !errors.Is(err, ErrAuth) || !errors.As(err, &je) || je.Reason != job.ScriptFailure {
		t.Errorf("without the right to read: %v", err)
	}

	// Nor does any job get them from this machine by not saying where they are from.
	plain := srv.pipeline(t, 2, srv.commit(t, "refs/heads/main", "", map[string]string{
		".gitattributes": lfsAttributes, "a.psd": files.pointerTo("a"),
	}))
	w = open(t, store, plain)
	if err := w.Checkout(t.Context(), new(bytes.Buffer)); !errors.Is(err, ErrAuth) {
		t.Errorf("files of another project: %v", err)
	}
	w.Close()

	// The inside of the machine is no LFS server.
	for _, at := range []string{strings.Replace(srv.URL, "127.0.0.1", "localhost", 1), "file:///etc", "ssh://git@example.com/x"} {
		w := open(t, newStore(t), commit("[lfs]\n\turl = "+at+"\n"))
		srv.taken()
		err := w.Checkout(t.Context(), new(bytes.Buffer))
		if !errors.As(err, &je) {
			t.Errorf("%s: %v", at, err)
		}
		if strings.HasPrefix(at, "http") && !errors.Is(err, errNotForJobs) {
			t.Errorf("%s: %v", at, err)
		}
		for _, r := range srv.taken() {
			if strings.Contains(r.URL.Path, "objects/batch") {
				t.Errorf("%s was asked", r.URL)
			}
		}
	}
}

// TestLFSOfStrangers: an LFS server that is not GitLab's gets no credentials, and cannot send the runner to the inside of its
// machine: neither by a redirect nor by where it says that a file is.
func TestLFSOfStrangers(t *testing.T) {
	t.Parallel()
	srv := newGitServer(t)
	files := newLFSServer(srv)
	inside := strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	pointer := files.pointerTo("a")
	oid := strings.TrimPrefix(strings.Fields(pointer)[3], "sha256:")
	var mu sync.Mutex
	credentials := ""
	foreign := foreignServer(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		credentials += r.Header.Get("Authorization")
		mu.Unlock()
		kind, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		href := "http://" + r.Host + "/" + kind + "/get/" + oid
		switch {
		case kind == "redirect":
			http.Redirect(w, r, inside+"/group/demo.git/info/lfs/"+rest, http.StatusTemporaryRedirect)
			return
		case strings.HasPrefix(rest, "get/"):
			_, _ = w.Write([]byte("a"))
			return
		case kind == "inside":
			href = inside + "/group/demo.git/info/lfs/get/" + oid
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"objects": []any{map[string]any{
			"oid": oid, "size": 1, "actions": map[string]any{"download": map[string]any{"href": href}},
		}}})
	})
	for kind, refused := range map[string]bool{"honest": false, "redirect": true, "inside": true} {
		r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{
			".gitattributes": lfsAttributes, "a.psd": pointer, ".lfsconfig": "[lfs]\n\turl = " + foreign.URL + "/" + kind + "\n",
		}))
		srv.taken()
		w := open(t, newStore(t), r)
		err := w.Checkout(t.Context(), new(bytes.Buffer))
		text, _ := os.ReadFile(filepath.Join(w.Dir, "a.psd"))
		w.Close()
		if refused != errors.Is(err, errNotForJobs) || !refused && string(text) != "a" {
			t.Errorf("%s: %q %v", kind, text, err)
		}
		for _, r := range srv.taken() {
			if strings.Contains(r.URL.Path, "/info/lfs/") {
				t.Errorf("%s: the inside was asked for %s", kind, r.URL)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if credentials != "" {
		t.Errorf("the stranger got %q", credentials)
	}
}

// TestRedirectsLoseTheToken: net/http would take it along to another port of the same host, and to a host below it.
func TestRedirectsLoseTheToken(t *testing.T) {
	t.Parallel()
	for to, kept := range map[string]bool{
		"https://gitlab.test/other": true, "https://gitlab.test:9000/x": false, "https://s3.gitlab.test/x": false, "https://elsewhere.test/x": false,
	} {
		first, err1 := http.NewRequest(http.MethodGet, "https://gitlab.test/x", nil)
		next, err2 := http.NewRequest(http.MethodGet, to, nil)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		next.Header.Set("Authorization", "secret")
		if err := stayEncrypted(next, []*http.Request{first}); err != nil || (next.Header.Get("Authorization") != "") != kept {
			t.Errorf("%s: %q %v", to, next.Header.Get("Authorization"), err)
		}
	}
}

// TestAddressesOfClouds: where secrets of the machine are, beside its own inside and its link.
func TestAddressesOfClouds(t *testing.T) {
	t.Parallel()
	for _, a := range []string{"127.0.0.1", "::1", "169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "::ffff:127.0.0.1", "0.0.0.0"} {
		if err := checkAddress(netip.MustParseAddr(a)); !errors.Is(err, errNotForJobs) {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range []string{"192.0.2.1", "10.0.0.1", "2001:db8::1", "64:ff9b::c000:201"} {
		if err := checkAddress(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// TestLFSMissing: a file that was never pushed ends the job with the cure.
func TestLFSMissing(t *testing.T) {
	t.Parallel()
	srv := newGitServer(t)
	files := newLFSServer(srv)
	pointer := files.pointerTo("gone")
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{".gitattributes": lfsAttributes, "a.psd": pointer}))
	files.files = map[string]string{}
	err := open(t, newStore(t), r).Checkout(t.Context(), new(bytes.Buffer))
	var je *job.Error
	if !errors.As(err, &je) || je.Reason != job.ScriptFailure || !strings.Contains(je.Hint, "git lfs push --all") || !strings.Contains(err.Error(), "Object does not exist") {
		t.Errorf("got %v", err)
	}
}

// TestLFSInModule: a submodule's files come from its own repository.
func TestLFSInModule(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	files := newLFSServer(srv)
	lib := srv.another(t, "group/lib")
	libSHA := lib.commit(t, "refs/heads/main", "", map[string]string{".gitattributes": lfsAttributes, "big.psd": files.pointerTo("big")})
	sha := srv.commit(t, "refs/heads/main", "", map[string]string{
		"lib@module": libSHA, ".gitmodules": "[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib.git\n",
	})
	w, _ := checkout(t, store, withModules(store, srv.pipeline(t, 1, sha), "normal"))
	if text, err := os.ReadFile(filepath.Join(w.Dir, "lib/big.psd")); string(text) != "big" {
		t.Errorf("%q %v", text, err)
	}
	if batches, _ := files.taken(); len(batches) != 1 || !strings.HasPrefix(batches[0], "/group/lib.git ") {
		t.Errorf("asked %q", batches)
	}
}
