package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func put(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode()
}

// alone fails if a temporary file was left beside path.
func alone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside %s: %v, %v", path, entries, err)
	}
}

func TestRewriteMakesTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b", "config.toml")
	if err := AddRunner(path, registered()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != head+"\n"+registeredText {
		t.Errorf("%s", got)
	}
	if m := mode(t, path); m != 0o600 {
		t.Errorf("file %v", m)
	}
	if m := mode(t, filepath.Dir(path)); m != fs.ModeDir|0o700 {
		t.Errorf("folder %v", m)
	}
	alone(t, path)
	cfg, warnings, err := Load(path)
	if err != nil || warnings != nil {
		t.Fatal(lines(warnings), err)
	}
	if err := SetCredentials(path, cfg.Runners[0], Credentials{ID: 10, Token: "glrt-newer", ObtainedAt: obtained}); err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("id = 9", "id = 10", "glrt-new", "glrt-newer").Replace(head + "\n" + registeredText)
	if diff := cmp.Diff(want, content(t, path)); diff != "" {
		t.Error(diff)
	}
	if err := RemoveRunner(path, cfg.Runners[0]); !errors.Is(err, ErrNoRunner) {
		t.Errorf("removed by its old token: %v", err)
	}
	if cfg, _, err = Load(path); err != nil {
		t.Fatal(err)
	}
	if err := RemoveRunner(path, cfg.Runners[0]); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != head {
		t.Errorf("%s", got)
	}
}

func TestRewriteKeepsModeOwnerAndLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, d := range []string{"real", "links"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file, first, second := filepath.Join(dir, "real", "file.toml"), filepath.Join(dir, "links", "1"), filepath.Join(dir, "links", "2")
	put(t, file, ok, 0o640)
	for to, link := range map[string]string{"../real/file.toml": first, first: second} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	root := os.Geteuid() == 0
	if root {
		if err := os.Chown(file, 1234, 5678); err != nil {
			t.Fatal(err)
		}
	}
	if err := AddRunner(second, registered()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, file); got != ok+"\n"+registeredText {
		t.Errorf("%s", got)
	}
	if mode(t, file) != 0o640 || mode(t, first)&fs.ModeSymlink == 0 || mode(t, second)&fs.ModeSymlink == 0 {
		t.Errorf("modes %v, %v, %v", mode(t, file), mode(t, first), mode(t, second))
	}
	alone(t, file)
	if fi, err := os.Stat(file); err != nil {
		t.Fatal(err)
	} else if s := fi.Sys().(*syscall.Stat_t); root && (s.Uid != 1234 || s.Gid != 5678) {
		t.Errorf("owner %d:%d", s.Uid, s.Gid)
	}
}

func TestRewriteThroughALinkToNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "config.toml")
	if err := os.Symlink("sub/real.toml", link); err != nil {
		t.Fatal(err)
	}
	if err := AddRunner(link, registered()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, filepath.Join(dir, "sub", "real.toml")); got != head+"\n"+registeredText {
		t.Errorf("%s", got)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	if err := AddRunner(loop, registered()); !errors.Is(err, syscall.ELOOP) {
		t.Error(err)
	}
}

func TestRewriteLeavesTheFileOnFailure(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.toml")
	put(t, path, "no toml", 0o600)
	if err := AddRunner(path, registered()); err == nil || err.Error() != path+":1: no = after the key (write key = value)" {
		t.Error(err)
	}
	if got := content(t, path); got != "no toml" {
		t.Errorf("%s", got)
	}
	alone(t, path)
}

func TestRewriteErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "none", "config.toml")
	if err := RemoveRunner(missing, registered()); err == nil ||
		err.Error() != missing+": cannot be read: no such file or directory (slipway register writes it; --config names another)" {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(missing)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removal made a folder: %v", err)
	}
	put(t, filepath.Join(dir, "file"), "", 0o600)
	below := filepath.Join(dir, "file", "config.toml")
	if err := AddRunner(below, registered()); err == nil || !strings.HasPrefix(err.Error(), below+": cannot be written: ") {
		t.Error(err)
	}
	for err, want := range map[error]string{
		&fs.PathError{Op: "open", Path: "f", Err: syscall.EACCES}:           "f: cannot be written: open f: permission denied (run as root, or as the owner of the file and its folder)",
		&os.LinkError{Op: "rename", Old: "a", New: "f", Err: syscall.EBUSY}: "f: cannot be written: rename a f: device or resource busy (the file is a mount of its own; mount its folder instead)",
		&fs.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}:          "f: cannot be written: write f: no space left on device (make room on the disk)",
	} {
		if got := unwritable("f", err); got.Error() != want || !errors.Is(got, err) {
			t.Errorf("%v", got)
		}
	}
}

// An editor that saves while we rewrite loses nothing: the change is made to what it saved.
func TestRewriteNoticesOthers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.toml")
	put(t, path, "a = 1\n", 0o600)
	calls := 0
	err := rewrite(path, false, func(src []byte) ([]byte, error) {
		if calls++; calls == 1 {
			put(t, path, "a = 2\n", 0o600)
		}
		return append(src, "b = 1\n"...), nil
	})
	if got := content(t, path); err != nil || calls != 2 || got != "a = 2\nb = 1\n" {
		t.Errorf("%d calls, %v, %q", calls, err, got)
	}
	alone(t, path)

	err = rewrite(path, false, func(src []byte) ([]byte, error) {
		calls++
		put(t, path, fmt.Sprintf("a = %d\n", calls), 0o600)
		return append(src, "b = 1\n"...), nil
	})
	if err == nil || err.Error() != path+": changes all the time (stop what else writes it, then try again)" {
		t.Error(err)
	}
	alone(t, path)

	err = rewrite(path, true, func([]byte) ([]byte, error) {
		if _, err := os.Stat(path); err == nil {
			return []byte("made = true\n"), os.Remove(path)
		}
		return []byte("new = true\n"), nil
	})
	if got := content(t, path); err != nil || got != "new = true\n" {
		t.Errorf("%v, %q", err, got)
	}
}

func TestRewritesAtTheSameTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.toml")
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			r := registered()
			r.Token = Secret(fmt.Sprintf("glrt-%d", i))
			if err := AddRunner(path, r); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if err := RemoveRunner(path, r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	cfg, _, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Runners) != 15 {
		t.Errorf("%d runners", len(cfg.Runners))
	}
	alone(t, path)
}

// What changes nothing does not touch the file.
func TestRewriteOfNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.toml")
	put(t, path, ok, 0o600)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := rewrite(path, false, func(src []byte) ([]byte, error) { return src, nil }); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was replaced: %v", err)
	}
}
