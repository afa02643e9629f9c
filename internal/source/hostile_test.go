package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// site is a workspace with what a hostile job can reach and what it must not. A job sees nothing of the host, so deeds
// do not go through links that lead outside.
type site struct {
	*os.Root
	canary string
}

// room makes sure that nothing is at name and that its folders are there.
func (s site) room(name string) error {
	at := ""
	for part := range strings.SplitSeq(filepath.Dir(name), "/") {
		at = filepath.Join(at, part)
		if info, err := s.Lstat(at); err == nil && !info.IsDir() {
			s.Remove(at)
		}
	}
	return errors.Join(s.MkdirAll(filepath.Dir(name), 0o777), s.RemoveAll(name))
}

func (s site) write(name, text string) error {
	if err := s.room(name); err != nil {
		return err
	}
	return s.WriteFile(name, []byte(text), 0o755)
}

func (s site) link(name, target string) error {
	if err := s.room(name); err != nil {
		return err
	}
	return s.Symlink(target, name)
}

func (s site) node(name string, mode uint32, dev int) error {
	if err := s.room(name); err != nil {
		return err
	}
	return unix.Mknod(filepath.Join(s.Name(), name), mode|0o666, dev)
}

// repository makes a Git directory that runs a program as soon as Git so much as looks at it.
func (s site) repository(name string) error {
	run := "touch " + s.canary + "/executed"
	return errors.Join(
		s.write(name+"/HEAD", "ref: refs/heads/main\n"),
		s.write(name+"/config", "[core]\n\trepositoryformatversion = 0\n\tfsmonitor = "+run+"\n\thooksPath = hooks\n\tsshCommand = "+run+
			"\n[filter \"evil\"]\n\tsmudge = "+run+"\n\tclean = "+run+"\n[diff]\n\texternal = "+run+"\n[include]\n\tpath = /dev/zero\n"),
		s.write(name+"/hooks/post-checkout", "#!/bin/sh\n"+run+"\n"),
		s.write(name+"/hooks/post-index-change", "#!/bin/sh\n"+run+"\n"),
		s.write(name+"/hooks/reference-transaction", "#!/bin/sh\n"+run+"\n"),
		s.MkdirAll(name+"/objects", 0o777), s.MkdirAll(name+"/refs", 0o777),
	)
}

// deep makes a chain of folders whose path no system call takes.
func (s site) deep(name string, levels int) error {
	at, err := openRoot(s.Name())
	if err != nil {
		return err
	}
	for range levels {
		if err := unix.Mkdirat(int(at.Fd()), name, 0o777); err != nil && err != unix.EEXIST {
			return err
		}
		next, err := openDir(at, name)
		at.Close()
		if err != nil {
			return err
		}
		at = next
	}
	return at.Close()
}

// deeds are what hostile jobs do. Each works on whatever earlier deeds have left.
var deeds = map[string]func(site) error{
	"change a file and set its times back": func(s site) error {
		info, err := s.Lstat("a")
		if err != nil {
			return err
		}
		return errors.Join(s.write("a", "X\n"), s.Chtimes("a", info.ModTime(), info.ModTime()))
	},
	"change a file in place":         func(s site) error { return s.WriteFile("dir/b", []byte("X\n"), 0o666) },
	"take a file's rights":           func(s site) error { return s.Chmod("a", 0) },
	"make a file executable":         func(s site) error { return s.Chmod("a", 0o777) },
	"set-user-ID":                    func(s site) error { return s.Chmod("dir/deep/c", 0o777|os.ModeSetuid) },
	"close a folder":                 func(s site) error { return s.Chmod("dir", 0) },
	"make a folder read-only":        func(s site) error { return s.Chmod("dir", 0o555) },
	"make the work tree read-only":   func(s site) error { return s.Chmod(".", 0o500) },
	"remove a folder":                func(s site) error { return s.RemoveAll("dir") },
	"remove a submodule's folder":    func(s site) error { return s.RemoveAll("sub") },
	"folder becomes a link outside":  func(s site) error { return s.link("dir", s.canary) },
	"folder becomes a link to /":     func(s site) error { return s.link("dir", "/") },
	"file becomes a link outside":    func(s site) error { return s.link("a", s.canary+"/file") },
	"file becomes a folder":          func(s site) error { return s.write("a/b/c", "x") },
	"submodule becomes a link":       func(s site) error { return s.link("sub", s.canary) },
	"link becomes a file":            func(s site) error { return s.write("link", "x") },
	"file becomes a pipe":            func(s site) error { return s.node("a", unix.S_IFIFO, 0) },
	"pipe for .gitignore":            func(s site) error { return s.node(".gitignore", unix.S_IFIFO, 0) },
	"pipe for .gitattributes":        func(s site) error { return s.node("dir/.gitattributes", unix.S_IFIFO, 0) },
	"pipe for .git":                  func(s site) error { return s.node(".git", unix.S_IFIFO, 0) },
	"pipe for HEAD of a folder":      func(s site) error { return errors.Join(s.repository("n/.git"), s.node("n/.git/HEAD", unix.S_IFIFO, 0)) },
	"pipe for HEAD of the work tree": func(s site) error { return errors.Join(s.repository(".git"), s.node(".git/HEAD", unix.S_IFIFO, 0)) },
	"socket":                         func(s site) error { return s.node("dir/socket", unix.S_IFSOCK, 0) },
	".git becomes a link outside":    func(s site) error { return s.link(".git", s.canary) },
	".git points outside":            func(s site) error { return s.write(".git", "gitdir: "+s.canary+"\n") },
	"hooks and settings":             func(s site) error { return s.repository(".git") },
	"repository in a tracked folder": func(s site) error { return s.repository("dir/.git") },
	"repository in a new folder":     func(s site) error { return s.repository("new/.git") },
	"repository in a submodule":      func(s site) error { return s.repository("sub/.git") },
	"submodule with files": func(s site) error {
		return errors.Join(s.write("sub/x", "x"), s.write("sub/.git", "gitdir: ../dir/.git"))
	},
	"endless file in a repository": func(s site) error {
		return errors.Join(s.repository("endless/.git"), s.link("endless/.git/commondir", "/dev/zero"))
	},
	"attributes":        func(s site) error { return s.write(".gitattributes", "* filter=evil diff=evil ident eol=crlf\n") },
	"nested attributes": func(s site) error { return s.write("dir/.gitattributes", "* text eol=crlf\n") },
	"ignore all":        func(s site) error { return errors.Join(s.write(".gitignore", "*\n"), s.write("ignored", "x")) },
	"hard link":         func(s site) error { return errors.Join(s.room("hard"), s.Link("a", "hard")) },
	"options as names": func(s site) error {
		return errors.Join(s.write("-rf", "x"), s.write("--output=x", "x"), s.write("*", "x"))
	},
	"names of any bytes": func(s site) error {
		return errors.Join(s.write("\xff\xfe\n\x1b[2J", "x"), s.write(strings.Repeat("n", 255), "x"), s.write(" ", ""))
	},
	"too deep":       func(s site) error { return s.deep("deep", 900) },
	"too deep, long": func(s site) error { return s.deep(strings.Repeat("d", 200), 25) },
	"closed folders": func(s site) error {
		return errors.Join(s.write("closed/in/file", "x"), s.Chmod("closed/in", 0), s.Chmod("closed", 0o111))
	},
	"extended attributes": func(s site) error {
		for _, name := range []string{"a", "dir"} {
			f, err := s.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a pipe by now
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Fsetxattr(int(f.Fd()), "user.evil", []byte("x"), 0); err != nil && err != unix.ENOTSUP {
				return err
			}
		}
		return nil
	},
	"device": func(s site) error {
		if os.Geteuid() != 0 {
			return nil
		}
		zero := int(unix.Mkdev(1, 5))
		return errors.Join(s.node("zero", unix.S_IFCHR, zero), s.node("dir/.gitignore", unix.S_IFCHR, zero))
	},
	"foreign owners": func(s site) error {
		if os.Geteuid() != 0 {
			return nil
		}
		return errors.Join(s.write("foreign/x", "x"), s.Lchown("foreign", 1234, 1234), s.Lchown("a", 1234, 1234), s.Lchown("dir", 1234, 1234))
	},
}

func newSite(t testing.TB, w *Workspace) site {
	root, err := os.OpenRoot(w.Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	s := site{Root: root, canary: tempDir(t)}
	if err := os.WriteFile(filepath.Join(s.canary, "file"), []byte("canary"), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// do carries out a deed. One that earlier deeds have made impossible is nothing.
func (s site) do(t testing.TB, name string) {
	if err := deeds[name](s); err != nil {
		t.Logf("%s: %v", name, err)
	}
}

// again lays out the sources once more, and does not wait for ever.
func again(t interface {
	Context() context.Context
	Fatal(...any)
	Fatalf(string, ...any)
}, store *Store, r Request,
) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, err := store.Workspace(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var out bytes.Buffer
	if err := w.Checkout(ctx, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
}

func (s site) unharmed(t testing.TB) {
	want := map[string]string{"file": "-rw-r--r-- canary"}
	got := snapshot(t, s.canary)
	delete(got, ".")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("the host was touched: %s", diff)
	}
}

func TestHostile(t *testing.T) {
	t.Parallel()
	srv := newGitServer(t)
	sha := srv.commit(t, "refs/heads/main", "", sample)
	r := srv.pipeline(t, 1, sha)
	for i, name := range slices.Sorted(maps.Keys(deeds)) {
		flags := []string{"none", "-fdx -e keep", "-ffd"}[i%3]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newStore(t)
			w, _ := checkout(t, store, r)
			want := snapshot(t, w.Dir)
			s := newSite(t, w)
			if err := deeds[name](s); err != nil {
				t.Fatal(err)
			}
			again(t, store, r)
			got := snapshot(t, w.Dir)
			for _, m := range []map[string]string{want, got} {
				delete(m, ".git/index") // times of the files that were written again
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if got := inJob(t, w, "status", "--porcelain", "--ignored"); got != "" {
				t.Errorf("git status: %s", got)
			}
			for _, name := range []string{"a", "dir"} {
				if n, err := unix.Listxattr(filepath.Join(w.Dir, name), nil); err == nil && n > 0 {
					t.Errorf("%s: extended attributes were left", name)
				}
			}
			s.unharmed(t)

			// With flags of its own the job has Git look at what was left.
			s.do(t, name)
			r := r
			r.CleanFlags = Words(flags)
			again(t, store, r)
			got = snapshot(t, w.Dir)
			for path, text := range want {
				if got[path] != text {
					t.Errorf("GIT_CLEAN_FLAGS %s: %s is %q, want %q", flags, path, got[path], text)
				}
			}
			s.unharmed(t)
		})
	}
}

// Whatever jobs do one after the other, the next one starts clean.
func TestHostileSequences(t *testing.T) {
	t.Parallel()
	srv := newGitServer(t)
	shas := []string{srv.commit(t, "refs/heads/main", "", sample)}
	shas = append(shas, srv.commit(t, "refs/heads/main", shas[0], map[string]string{"a": "A\n", "sub/x": "x", "dir": "x", "n/.gitignore": "*"}))
	var pristine []map[string]string
	for i, sha := range shas {
		w, _ := checkout(t, newStore(t), srv.pipeline(t, i, sha))
		pristine = append(pristine, tree(t, w.Dir))
	}
	store := newStore(t)
	r := srv.pipeline(t, 0, shas[0])
	r.Slot = "sequence"
	w, _ := checkout(t, store, r)
	s := newSite(t, w)
	names := slices.Sorted(maps.Keys(deeds))
	deadline := time.Now().Add(1500 * time.Millisecond)
	rapid.Check(t, func(rt *rapid.T) {
		if time.Now().After(deadline) {
			return // a loaded machine: what was tried so far is enough
		}
		for _, name := range rapid.SliceOfN(rapid.SampledFrom(names), 1, 6).Draw(rt, "deeds") {
			_ = deeds[name](s)
		}
		i := rapid.IntRange(0, 1).Draw(rt, "commit")
		r := srv.request(shas[i], i)
		r.Slot = "sequence"
		r.CleanFlags = Words(rapid.SampledFrom([]string{"", "-ffdx", "-ffdxn -e none", "none"}).Draw(rt, "flags"))
		again(rt, store, r)
		r.CleanFlags = nil
		again(rt, store, r)
		if diff := cmp.Diff(pristine[i], tree(t, w.Dir)); diff != "" {
			rt.Fatal(diff)
		}
		s.unharmed(t)
	})
}

const childVariable = "SLIPWAY_TEST_UNPRIVILEGED"

// TestUnprivileged runs the hostile tests as an ordinary user.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 || os.Getenv(childVariable) != "" {
		t.Skip("needs root to become somebody else")
	}
	dir := tempDir(t)
	exe := filepath.Join(dir, "test")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Another process copies it: a file that this one had open for writing could not be run while others are started.
	out, err := exec.CommandContext(t.Context(), "cp", self, exe).CombinedOutput()
	if err := errors.Join(err, os.Chmod(exe, 0o755), os.Chmod(dir, 0o777)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^(TestHostile.*|TestWorkTree|TestSameCommitSameBytes|TestForeignFiles)$", "-test.v", "-test.timeout=20m")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir, childVariable + "=" + plantForeign(t)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err = cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestForeignFiles")) {
		t.Errorf("as user 1000: %v\n%s", err, out)
	}
}

// plantForeign makes folders of user 1000 that hold what only root can remove.
func plantForeign(t *testing.T) string {
	dir := tempDir(t)
	for _, name := range []string{"project", "tidy", "tidy.tmp", "project.tmp", "evicted"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(path, 0o777), os.Chown(path, 1000, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"project", "tidy.tmp", "evicted"} {
		foreign := filepath.Join(dir, name, "foreign")
		if err := errors.Join(os.Mkdir(foreign, 0o755), os.WriteFile(filepath.Join(foreign, "file"), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestForeignFiles: what a container's root left and the runner may not remove comes back with its path.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	root := os.Getenv(childVariable)
	if root == "" {
		t.Skip("run by TestUnprivileged")
	}
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", sample))
	evicted := open(t, store, r)
	err := errors.Join(evicted.Close(), os.Remove(evicted.Dir), os.Rename(filepath.Join(root, "evicted"), evicted.Dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Evict(t.Context(), 1<<40); !errors.As(err, new(*PermissionError)) {
		t.Errorf("evicted: %v", err)
	}
	// The next job in the slot has them removed, wherever they are by then.
	evicted = open(t, store, r)
	if err := evicted.Checkout(t.Context(), io.Discard); !errors.As(err, new(*PermissionError)) || !strings.Contains(err.Error(), evicted.Dir+"/") {
		t.Errorf("after an eviction: %v", err)
	}
	for _, name := range evicted.stale { // who made it removes it
		if err := os.Rename(filepath.Join(evicted.Dir, name), filepath.Join(root, "evicted")); err != nil {
			t.Error(err)
		}
	}
	if err := evicted.Checkout(t.Context(), io.Discard); err != nil {
		t.Error(err)
	}
	for _, rel := range []string{"project", "tidy"} {
		r.Root, r.Rel, r.Slot = root, rel, rel
		w := open(t, store, r)
		if n := len(snapshot(t, w.TempDir)); n != 1 {
			t.Errorf("the temporary folder holds %d entries", n-1)
		}
		for range 2 { // until somebody has removed them
			err := w.Checkout(t.Context(), io.Discard)
			var pe *PermissionError
			if !errors.As(err, &pe) || !errors.Is(err, fs.ErrPermission) || !strings.HasPrefix(pe.Path, w.Dir+"/") || !slices.Equal(pe.Folders, []string{w.Dir, w.TempDir}) {
				t.Errorf("%s: got %v, want a PermissionError for a path in the project folder", rel, err)
			}
		}
	}
}
