package pin

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mounted mounts one folder at another, as the Engine does for a container that is to follow it.
func mounted(t *testing.T, from, at string) {
	t.Helper()
	if err := errors.Join(os.Mkdir(at, 0o755), unix.Mount(from, at, "", unix.MS_BIND|unix.MS_REC, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	if err := unix.Mount("", at, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}

// TestWindow: who has mounted a window sees what is shown in it, from then on until it is closed.
func TestWindow(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, around := range map[string]uintptr{"on a private mount": unix.MS_PRIVATE, "on a shared mount": unix.MS_SHARED} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state := t.TempDir()
			if err := unix.Mount(state, state, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
			if err := unix.Mount("", state, "", around, ""); err != nil {
				t.Fatal(err)
			}
			work, inside, neighbour := state+"/work", state+"/inside", state+"/neighbour"
			write(t, work+"/file", "fetched")
			w, err := NewWindow(state + "/window")
			if err != nil {
				t.Fatal(err)
			}
			other, err := NewWindow(state + "/other")
			if err != nil {
				t.Fatal(err)
			}
			mounted(t, w.At(), inside)
			mounted(t, other.At(), neighbour)
			for _, dir := range []string{inside, w.At()} {
				if err := os.WriteFile(dir+"/planted", nil, 0o644); !errors.Is(err, unix.EROFS) {
					t.Errorf("write to an empty window at %s: %v", dir, err)
				}
			}
			dir, err := os.Open(work)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			// What has taken the name of the folder is not shown.
			if err := errors.Join(os.Rename(work, state+"/moved"), os.Symlink("/etc", work)); err != nil {
				t.Fatal(err)
			}
			if err := w.Show(dir); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(inside + "/file"); err != nil || string(b) != "fetched" {
				t.Errorf("the file is %q (%v)", b, err)
			}
			write(t, inside+"/answer", "written inside")
			if b, err := os.ReadFile(state + "/moved/answer"); err != nil || string(b) != "written inside" {
				t.Errorf("the answer is %q (%v)", b, err)
			}
			if found, err := os.ReadDir(neighbour); err != nil || len(found) > 0 {
				t.Errorf("another window shows %v (%v)", found, err)
			}
			held, err := os.Open(inside + "/file") // busy
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			for _, w := range []*Window{w, other, nil} {
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			}
			if found, err := os.ReadDir(inside); err != nil || len(found) > 0 {
				t.Errorf("after the end it shows %v (%v)", found, err)
			}
			if left, err := filepath.Glob(state + "/*"); err != nil || len(left) != 4 {
				t.Errorf("left are %q (%v)", left, err)
			}
			if b, err := os.ReadFile(state + "/moved/file"); err != nil || string(b) != "fetched" {
				t.Errorf("the file is %q (%v) after the end", b, err)
			}
		})
	}
}
