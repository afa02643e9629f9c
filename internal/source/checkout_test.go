package source

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// snapshot is all of a folder that a docker build sees: names, modes, contents.
func snapshot(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		content := ""
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			content, err = os.Readlink(path)
		}
		out[rel] = fmt.Sprintf("%v %s", info.Mode(), content)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// tree is a snapshot without .git.
func tree(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	out := snapshot(tb, dir)
	for name := range out {
		if name == ".git" || strings.HasPrefix(name, ".git/") {
			delete(out, name)
		}
	}
	return out
}

var sample = map[string]string{
	"a": "a\n", "dir/b": "b\n", "dir/deep/c@755": "#!/bin/sh\n", "link@link": "dir/b", "sub@module": strings.Repeat("1", 40),
	"with space": "", "line\nfeed": "x",
}

func TestWorkTree(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	sha := srv.commit(t, "refs/heads/main", "", sample)
	w, log := checkout(t, store, srv.pipeline(t, 1, sha))
	want := map[string]string{
		".": "drwxrwxrwx ", "a": "-rw-rw-rw- a\n", "dir": "drwxrwxrwx ", "dir/b": "-rw-rw-rw- b\n", "dir/deep": "drwxrwxrwx ",
		"dir/deep/c": "-rwxrwxrwx #!/bin/sh\n", "link": "Lrwxrwxrwx dir/b", "sub": "drwxrwxrwx ",
		"with space": "-rw-rw-rw- ", "line\nfeed": "-rw-rw-rw- x",
	}
	if diff := cmp.Diff(want, tree(t, w.Dir)); diff != "" {
		t.Error(diff)
	}
	wantLog := "\x1b[32;1mFetching changes with git depth set to 20...\x1b[0;m\n" +
		"\x1b[32;1mChecking out " + sha[:8] + " as detached HEAD (ref is main)...\x1b[0;m\n" +
		"\x1b[32;1mSkipping Git submodules setup\x1b[0;m\n"
	if diff := cmp.Diff(wantLog, log); diff != "" {
		t.Error(diff)
	}

	r := srv.pipeline(t, 1, sha)
	r.Umask = 0o022
	w, _ = checkout(t, store, r)
	for name, mode := range map[string]string{".": "drwxr-xr-x", "dir": "drwxr-xr-x", "a": "-rw-r--r--", "dir/deep/c": "-rwxr-xr-x", ".git": "drwxr-xr-x", ".git/index": "-rw-r--r--"} {
		if got := snapshot(t, w.Dir)[name]; !strings.HasPrefix(got, mode) {
			t.Errorf("umask 022: %s is %.10s, want %s", name, got, mode)
		}
	}
}

func TestGitInTheJob(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	shas := srv.chain(t, "refs/heads/main", "", 5)
	gitWith(t, srv.Repo, nil, "tag", "-a", "-m", "one", "v1", shas[3])
	gitWith(t, srv.Repo, nil, "tag", "-a", "-m", "old", "v0", shas[0])
	r := srv.pipeline(t, 1, shas[4])
	r.Git.Depth = 3
	w, _ := checkout(t, store, r)

	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"status", "--porcelain"}, ""},
		{[]string{"rev-parse", "HEAD"}, shas[4]},
		{[]string{"rev-list", "HEAD"}, shas[4] + "\n" + shas[3] + "\n" + shas[2]},
		{[]string{"rev-parse", "--is-shallow-repository"}, "true"},
		{[]string{"describe"}, "v1-1-g" + shas[4][:7]},
		{[]string{"for-each-ref", "--format=%(refname)"}, "refs/remotes/origin/main\nrefs/tags/v1"},
		{[]string{"remote", "get-url", "origin"}, srv.URL + "/group/demo.git"},
		{[]string{"branch", "--show-current"}, ""},
		{[]string{"fsck", "--strict"}, ""},
	} {
		if got := inJob(t, w, c.args...); got != c.want {
			t.Errorf("git %s: got %q, want %q", strings.Join(c.args, " "), got, c.want)
		}
	}
	if err := os.WriteFile(filepath.Join(w.Dir, "new"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	inJob(t, w, "add", "new")
	inJob(t, w, "commit", "-qm", "from the job")
	inJob(t, w, "tag", "mine")
	if got := inJob(t, w, "log", "--format=%s", "-1"); got != "from the job" {
		t.Errorf("the job's commit is not there: %q", got)
	}
}

// The bytes of the project folder, .git included, must repeat: else COPY . . is never cached.
func TestSameCommitSameBytes(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	first := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "1"})
	sha := srv.commit(t, "refs/heads/main", first, sample)
	w, _ := checkout(t, store, srv.pipeline(t, 1, sha))
	want := snapshot(t, w.Dir)

	// What jobs do all the time must not matter.
	inJob(t, w, "config", "user.name", "someone")
	inJob(t, w, "commit", "-qm", "x", "--allow-empty")
	if err := os.MkdirAll(filepath.Join(w.Dir, "dir", "out", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "link", "dir/b"} { // chown -R, without effect
		if err := os.Lchown(filepath.Join(w.Dir, name), os.Getuid(), os.Getgid()); err != nil {
			t.Fatal(err)
		}
	}
	// Meanwhile the branch moves on and other jobs fetch it.
	next := srv.commit(t, "refs/heads/main", sha, map[string]string{"later": "1"})
	r := srv.pipeline(t, 2, next)
	r.Slot = "other"
	checkout(t, store, r)

	srv.set("glcbt-other", nil)
	srv.taken()
	processes := store.git.started.Load()
	w, log := checkout(t, store, srv.pipeline(t, 3, sha))
	if diff := cmp.Diff(want, snapshot(t, w.Dir)); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(log, "Removing dir/out/\n") {
		t.Errorf("log: %q", log)
	}
	if n := len(srv.taken()); n != 0 {
		t.Errorf("%d requests for a commit that the mirror has", n)
	}
	if n := store.git.started.Load() - processes; n != 1 {
		t.Errorf("a warm checkout took %d Git processes, want 1", n)
	}
}

func TestNewCommit(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	a := srv.commit(t, "refs/heads/main", "", sample)
	b := srv.commit(t, "refs/heads/main", a, map[string]string{
		"a/now": "a folder", "dir": "a file", "sub/file": "was a submodule", "link/x": "was a link",
	})
	checkout(t, store, srv.pipeline(t, 1, a))
	w, _ := checkout(t, store, srv.pipeline(t, 2, b))
	want := map[string]string{
		".": "drwxrwxrwx ", "a": "drwxrwxrwx ", "a/now": "-rw-rw-rw- a folder", "dir": "-rw-rw-rw- a file",
		"sub": "drwxrwxrwx ", "sub/file": "-rw-rw-rw- was a submodule", "link": "drwxrwxrwx ", "link/x": "-rw-rw-rw- was a link",
	}
	if diff := cmp.Diff(want, tree(t, w.Dir)); diff != "" {
		t.Error(diff)
	}
	if got := inJob(t, w, "status", "--porcelain"); got != "" {
		t.Errorf("git status: %s", got)
	}
}

// TestGitDirOutside: the job's Git directory lies beside the project, is new for each job, and works.
func TestGitDirOutside(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	shas := srv.chain(t, "refs/heads/main", "", 2)
	for i, sha := range shas {
		r := srv.pipeline(t, i+1, sha)
		r.GitDir = "/.slipway/git"
		w, _ := checkout(t, store, r)
		text, err := os.ReadFile(filepath.Join(w.Dir, ".git"))
		if err != nil || string(text) != "gitdir: /.slipway/git\n" {
			t.Errorf("%q %v", text, err)
		}
		in := func(args ...string) string {
			return gitWith(t, w.Dir, []string{"GIT_ALTERNATE_OBJECT_DIRECTORIES=" + w.ObjectsDir}, append([]string{"--git-dir=" + w.GitDir, "--work-tree=."}, args...)...)
		}
		if got := in("rev-parse", "HEAD"); got != sha {
			t.Errorf("HEAD is %s, want %s", got, sha)
		}
		if got := in("status", "--porcelain"); got != "" {
			t.Errorf("git status: %s", got)
		}
		if left, err := filepath.Glob(filepath.Join(w.GitDir, "evil*")); len(left) > 0 || err != nil {
			t.Errorf("left by the last job: %v %v", left, err)
		}
		// What the job leaves there is nothing for the next one.
		put(t, w.GitDir, map[string]string{"evil": "x", "config": "[core]\n\tfsmonitor = /evil\n", "hooks/post-checkout": "#!/bin/sh\nevil\n"})
		if err := os.Symlink("/etc", filepath.Join(w.GitDir, "evil-link")); err != nil {
			t.Fatal(err)
		}
	}
	// And back: a folder again, and nothing beside it.
	w, _ := checkout(t, store, srv.pipeline(t, 3, shas[0]))
	if info, err := os.Stat(filepath.Join(w.Dir, ".git")); err != nil || !info.IsDir() {
		t.Errorf("%v %v", info, err)
	}
	if left, err := os.ReadDir(filepath.Join(filepath.Dir(w.Dir), "jobgit")); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
}
