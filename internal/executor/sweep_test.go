package executor

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSweepGuards: what a killed guard left goes, and what it had mounted stays as it was.
func TestSweepGuards(t *testing.T) {
	t.Parallel()
	if !IsAdmin() {
		t.Skip("only root mounts")
	}
	dir, theirs := filepath.Join(t.TempDir(), "link"), t.TempDir()
	if err := os.Symlink(t.TempDir(), dir); err != nil { // the state folder lies on another disk, say
		t.Fatal(err)
	}
	kept := filepath.Join(theirs, "sub", "file")
	for _, d := range []string{filepath.Dir(kept), dir + "/guards/a/m1", dir + "/guards/a/deep/er", dir + "/guards/b"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{kept, dir + "/guards/a/docker.sock", dir + "/guards/a/m2", dir + "/guards/a/deep/er/file"} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for source, at := range map[string]string{theirs: "/guards/a/m1", kept: "/guards/a/m2"} {
		if err := unix.Mount(source, dir+at, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir+at, unix.MNT_DETACH) })
	}
	if err := removeUnmounted(resolved(dir) + "/guards/a"); err == nil {
		t.Error("what is mounted is no obstacle")
	}
	if err := SweepGuards(dir + "/guards"); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir + "/guards"); err != nil || len(left) > 0 {
		t.Errorf("left: %v (%v)", left, err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if err := SweepGuards(dir + "/none"); err != nil {
		t.Errorf("no folder: %v", err)
	}
}
