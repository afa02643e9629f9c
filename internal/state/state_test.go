package state

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b")
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Instance) != 12 {
		t.Errorf("instance %q", f.Instance)
	}
	if Free(path, f.Instance) {
		t.Error("a locked folder is free")
	}
	if _, err := Open(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if !Free(path, f.Instance) {
		t.Error("an unlocked folder is not free")
	}
	if Free(path, "0123456789ab") {
		t.Error("the folder of another instance is free")
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Instance != f.Instance {
		t.Errorf("instance %q after %q", again.Instance, f.Instance)
	}
}

// TestFreeIsCareful: labels may have been written by a job.
func TestFreeIsCareful(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{"", "relative", filepath.Join(dir, "gone")} {
		if Free(path, "x") {
			t.Errorf("Free(%q)", path)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "instance"), []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(dir, "lock")
	if err := unix.Mkfifo(lock, 0o600); err != nil {
		t.Fatal(err)
	}
	Free(dir, "x") // does not hang
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", lock); err != nil {
		t.Fatal(err)
	}
	if Free(dir, "x") {
		t.Error("a symlink is followed")
	}
}
