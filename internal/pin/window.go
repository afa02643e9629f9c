package pin

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Window is an empty folder, to which nobody can write, until another one is shown in it: then that is seen also where the window was
// mounted before, if mounts are propagated to there. A nil one does nothing.
type Window struct {
	at    string
	shown bool
}

// NewWindow makes one at a new name: nobody else may be able to write to the folder that at lies in. It needs CAP_SYS_ADMIN.
func NewWindow(at string) (*Window, error) {
	if err := os.Mkdir(at, 0o700); err != nil {
		return nil, fmt.Errorf("make a window: %w", err)
	}
	// A file system of its own, so that it can be shared where the folder around it is not, and what is mounted in it is seen
	// through nothing but it.
	err := unix.Mount("slipway", at, "tmpfs", unix.MS_RDONLY, "mode=0755,nr_inodes=1")
	if err == nil {
		err = unix.Mount("", at, "", unix.MS_SHARED, "")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a window at %s: %w", at, err), Unmount(at))
	}
	return &Window{at: at}, nil
}

// At is where it is.
func (w *Window) At() string { return w.at }

// Show lets an open folder be seen in the window, as writable as it is. It is called once.
func (w *Window) Show(dir *os.File) error {
	if w == nil {
		return nil
	}
	// The link of the kernel leads to the open folder itself, not to its name.
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), w.at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show a folder at %s: %w", w.at, err)
	}
	w.shown = true
	return nil
}

// Close takes away what is shown, wherever it is seen, and the window. Nothing of what was shown is removed.
func (w *Window) Close() error {
	if w == nil {
		return nil
	}
	if w.shown {
		if err := unix.Unmount(w.at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("take away what is shown at %s: %w", w.at, err)
		}
		w.shown = false
	}
	return Unmount(w.at)
}
