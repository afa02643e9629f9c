package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
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

// site is a workspace with what a hostile job can reach and what it must not.
type site struct {
	dir, canary string
}

// write puts a file there, whatever stands in the way.
func (s site) write(name, text string) error {
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o755)
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
		os.MkdirAll(filepath.Join(s.dir, name, "objects"), 0o777), os.MkdirAll(filepath.Join(s.dir, name, "refs"), 0o777),
	)
}

// deep makes a chain of folders whose path no system call takes.
func (s site) deep(name string, levels int) error {
	at, err := openRoot(s.dir)
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

func (s site) fifo(name string) error {
	path := filepath.Join(s.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.RemoveAll(path)); err != nil {
		return err
	}
	return unix.Mkfifo(path, 0o666)
}

func (s site) link(name, target string) error {
	path := filepath.Join(s.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.RemoveAll(path)); err != nil {
		return err
	}
	return os.Symlink(target, path)
}

// deeds are what hostile jobs do. Each works on whatever earlier deeds have left.
var deeds = map[string]func(site) error{
	"change a file and set its times back": func(s site) error {
		path := filepath.Join(s.dir, "a")
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		return errors.Join(s.write("a", "X\n"), os.Chtimes(path, info.ModTime(), info.ModTime()))
	},
	"change a file in place":         func(s site) error { return os.WriteFile(filepath.Join(s.dir, "dir/b"), []byte("X\n"), 0o666) },
	"take a file's rights":           func(s site) error { return os.Chmod(filepath.Join(s.dir, "a"), 0) },
	"make a file executable":         func(s site) error { return os.Chmod(filepath.Join(s.dir, "a"), 0o777) },
	"set-user-ID":                    func(s site) error { return os.Chmod(filepath.Join(s.dir, "dir/deep/c"), 0o777|os.ModeSetuid) },
	"close a folder":                 func(s site) error { return os.Chmod(filepath.Join(s.dir, "dir"), 0) },
	"make a folder read-only":        func(s site) error { return os.Chmod(filepath.Join(s.dir, "dir"), 0o555) },
	"make the work tree read-only":   func(s site) error { return os.Chmod(s.dir, 0o500) },
	"remove a folder":                func(s site) error { return os.RemoveAll(filepath.Join(s.dir, "dir")) },
	"remove a submodule's folder":    func(s site) error { return os.RemoveAll(filepath.Join(s.dir, "sub")) },
	"folder becomes a link outside":  func(s site) error { return s.link("dir", s.canary) },
	"folder becomes a link to /":     func(s site) error { return s.link("dir", "/") },
	"file becomes a link outside":    func(s site) error { return s.link("a", s.canary+"/file") },
	"file becomes a folder":          func(s site) error { return s.write("a/b/c", "x") },
	"submodule becomes a link":       func(s site) error { return s.link("sub", s.canary) },
	"link becomes a file":            func(s site) error { return s.write("link", "x") },
	"file becomes a pipe":            func(s site) error { return s.fifo("a") },
	"pipe for .gitignore":            func(s site) error { return s.fifo(".gitignore") },
	"pipe for .gitattributes":        func(s site) error { return s.fifo("dir/.gitattributes") },
	"pipe for .git":                  func(s site) error { return s.fifo(".git") },
	"pipe for HEAD of a folder":      func(s site) error { return errors.Join(s.repository("n/.git"), s.fifo("n/.git/HEAD")) },
	"pipe for HEAD of the work tree": func(s site) error { return errors.Join(s.repository(".git"), s.fifo(".git/HEAD")) },
	".git becomes a link outside":    func(s site) error { return s.link(".git", s.canary) },
	".git points outside":            func(s site) error { return s.write(".git", "gitdir: "+s.canary+"\n") },
	"hooks and settings":             func(s site) error { return s.repository(".git") },
	"repository in a tracked folder": func(s site) error { return s.repository("dir/.git") },
	"repository in a new folder":     func(s site) error { return s.repository("new/.git") },
	"repository in a submodule":      func(s site) error { return s.repository("sub/.git") },
	"submodule with files":           func(s site) error { return errors.Join(s.write("sub/x", "x"), s.write("sub/.git", "gitdir: ../dir/.git")) },
	"endless file in a repository": func(s site) error {
		return errors.Join(s.repository("endless/.git"), s.link("endless/.git/commondir", "/dev/zero"))
	},
	"attributes":         func(s site) error { return s.write(".gitattributes", "* filter=evil diff=evil ident eol=crlf\n") },
	"nested attributes":  func(s site) error { return s.write("dir/.gitattributes", "* text eol=crlf\n") },
	"ignore all":         func(s site) error { return errors.Join(s.write(".gitignore", "*\n"), s.write("ignored", "x")) },
	"hard link":          func(s site) error { return os.Link(filepath.Join(s.dir, "a"), filepath.Join(s.dir, "hard"+fmt.Sprint(os.Getpid()))) },
	"options as names":   func(s site) error { return errors.Join(s.write("-rf", "x"), s.write("--output=x", "x"), s.write("*", "x")) },
	"names of any bytes": func(s site) error { return errors.Join(s.write("\xff\xfe\n\x1b[2J", "x"), s.write(strings.Repeat("n", 255), "x"), s.write(" ", "")) },
	"too deep":           func(s site) error { return s.deep("deep", 2500) },
	"too deep, long":     func(s site) error { return s.deep(strings.Repeat("d", 200), 60) },
	"closed folders": func(s site) error {
		return errors.Join(s.write("closed/in/file", "x"), os.Chmod(filepath.Join(s.dir, "closed/in"), 0), os.Chmod(filepath.Join(s.dir, "closed"), 0o111))
	},
	"socket": func(s site) error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(s.dir, fmt.Sprintf("s%d", time.Now().UnixNano()))})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return l.Close()
	},
	"attributes of a folder": func(s site) error {
		err := unix.Setxattr(filepath.Join(s.dir, "dir"), "user.evil", []byte("x"), 0)
		if err == unix.ENOTSUP {
			return nil
		}
		return err
	},
	"device": func(s site) error {
		if os.Geteuid() != 0 {
			return nil
		}
		err := unix.Mknod(filepath.Join(s.dir, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
		return errors.Join(err, unix.Mknod(filepath.Join(s.dir, "dir/.gitignore"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	},
	"foreign owners": func(s site) error {
		if os.Geteuid() != 0 {
			return nil
		}
		return errors.Join(s.write("foreign/x", "x"), os.Lchown(filepath.Join(s.dir, "foreign"), 1234, 1234),
			os.Lchown(filepath.Join(s.dir, "a"), 1234, 1234), os.Lchown(filepath.Join(s.dir, "dir"), 1234, 1234))
	},
}

func newSite(t testing.TB, w *Workspace) site {
	s := site{dir: w.Dir, canary: tempDir(t)}
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

// again lays out the sources once more, in the time that it must not take.
func again(t testing.TB, store *Store, r Request) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
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
	for name := range deeds {
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
			if n, err := unix.Listxattr(filepath.Join(w.Dir, "dir"), nil); err == nil && n > 0 {
				t.Error("extended attributes were left")
			}
			s.unharmed(t)

			// With flags of its own the job has Git look at what was left.
			for _, flags := range []string{"none", "-fdx -e keep", "-ffd"} {
				s.do(t, name)
				r := r
				r.CleanFlags = Words(flags)
				again(t, store, r)
				for path, text := range want {
					if got := snapshot(t, w.Dir)[path]; got != text && path != ".git/index" {
						t.Errorf("GIT_CLEAN_FLAGS %s: %s is %q, want %q", flags, path, got, text)
					}
				}
				s.unharmed(t)
			}
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
	deadline := time.Now().Add(3 * time.Second)
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
		again(t, store, r)
		r.CleanFlags = nil
		again(t, store, r)
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
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	file, err := os.OpenFile(exe, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(file, in)
	if err := errors.Join(err, file.Close(), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^(TestHostile.*|TestWorkTree|TestSameCommitSameBytes|TestForeignFiles)$", "-test.v")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir, childVariable + "=" + plantForeign(t)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestForeignFiles")) {
		t.Errorf("as user 1000: %v\n%s", err, out)
	}
}

// plantForeign makes a folder that only root can empty.
func plantForeign(t *testing.T) string {
	dir := tempDir(t)
	foreign := filepath.Join(dir, "foreign")
	if err := os.Mkdir(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
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
	r.Root, r.Rel = filepath.Dir(root), filepath.Base(root)
	w, err := store.Workspace(t.Context(), r)
	var pe *PermissionError
	if errors.As(err, &pe) {
		t.Skipf("the folder above is closed: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	err = w.Checkout(t.Context(), io.Discard)
	if !errors.As(err, &pe) || !errors.Is(err, fs.ErrPermission) || !strings.HasPrefix(pe.Path, root) {
		t.Errorf("got %v, want a PermissionError for a path below %s", err, root)
	}
}
