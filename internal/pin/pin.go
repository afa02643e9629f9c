// Package pin holds a folder or a file against symlink swaps: it is opened as somebody else sees it, link by link, and
// mounted at a place that only the caller can write to. A window shows a folder later. It knows nothing of containers.
package pin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// File is a folder or a file that is held open: it stays the same whatever happens to its name.
type File struct {
	Place int    // index of the place that it lies in
	Path  string // below that place, without links; "" for the place itself
	Dir   bool
	fd    int
}

// Close lets it go. What Mount mounted stays.
func (f *File) Close() error {
	if f.fd < 0 {
		return nil
	}
	fd := f.fd
	f.fd = -1
	return unix.Close(fd)
}

// ID tells one file of the machine from another, for as long as it is held.
type ID struct{ Device, Inode uint64 }

// ID of the file.
func (f *File) ID() (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return ID{}, fmt.Errorf("look at a pinned file: %w", err)
	}
	return ID{st.Dev, st.Ino}, nil
}

// Mount mounts the file at a new name: nobody else may be able to write to the folder that at lies in. It needs
// CAP_SYS_ADMIN.
func (f *File) Mount(at string) error {
	if err := makeMountpoint(at, f.Dir); err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	// The link of the kernel leads to the open file itself, not to its name.
	source := "/proc/self/fd/" + strconv.Itoa(f.fd)
	err := unix.Mount(source, at, "", unix.MS_BIND|unix.MS_REC, "")
	if err == nil {
		err = unix.Mount("", at, "", unix.MS_PRIVATE|unix.MS_REC, "")
	}
	if err == nil {
		err = f.check(at)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("mount a pinned file at %s: %w", at, err), Unmount(at))
	}
	return nil
}

// check makes sure that what is mounted is what was opened.
func (f *File) check(at string) error {
	var st unix.Stat_t
	if err := unix.Lstat(at, &st); err != nil {
		return err
	}
	id, err := f.ID()
	if err == nil && id != (ID{st.Dev, st.Ino}) {
		err = errors.New("another file is there")
	}
	return err
}

func makeMountpoint(at string, dir bool) error {
	if dir {
		return os.Mkdir(at, 0o700)
	}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Unmount ends what Mount made, also while it is in use elsewhere. The mount point is removed, but never what lies below
// it: if the mount should still be there, that would be the pinned files.
func Unmount(at string) error {
	err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil && !errors.Is(err, unix.EINVAL): // EINVAL: it is no mount
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a mount point: %w", err)
	}
	return nil
}

// UnmountBelow ends all mounts below a folder: those that a process left that was killed. It must be called before the
// folder is removed.
func UnmountBelow(dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // as mounts are listed
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var mounts []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if at := unescape(fields[4]); strings.HasPrefix(at, dir+"/") {
			mounts = append(mounts, at)
		}
	}
	slices.Sort(mounts)
	var failed []error
	last := ""
	for _, at := range mounts {
		// What is mounted within goes with it; its mount point is a folder of somebody's files and stays.
		if last == "" || at != last && !strings.HasPrefix(at, last+"/") {
			failed = append(failed, Unmount(at))
			last = at
		}
	}
	return errors.Join(failed...)
}

// unescape decodes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
