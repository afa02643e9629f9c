package archive

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// abandonedAfter is when an unfinished file can be nobody's any more, however slow the server is that it comes from or goes to.
const abandonedAfter = 24 * time.Hour

// Evict removes archives, the longest unused first, until about so many bytes of the disk are free again, and says how many
// archives and bytes these were. One that is being read stays.
func (s Store) Evict(ctx context.Context, need int64) (n int, freed int64, err error) {
	names, err := filepath.Glob(filepath.Join(s.Dir, "*", "*"))
	if err != nil {
		return 0, 0, err
	}
	type file struct {
		name string
		used time.Time
	}
	var files []file
	for _, name := range names {
		info, err := os.Lstat(name)
		if err != nil || !info.Mode().IsRegular() { // a neighbour may have removed it
			continue
		}
		if strings.HasPrefix(filepath.Base(name), unfinished) && time.Since(info.ModTime()) < abandonedAfter {
			continue
		}
		files = append(files, file{name, info.ModTime()})
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.name, b.name)) })
	var failed []error
	for _, f := range files {
		if freed >= need || ctx.Err() != nil {
			break
		}
		size, err := removeUnread(f.name, f.used)
		if err != nil {
			failed = append(failed, err)
		} else if size >= 0 {
			n++
			freed += size
		}
	}
	return n, freed, errors.Join(failed...)
}

// removeUnread removes a file that nobody reads, and returns what it took of the disk, in bytes; -1 = it stays.
func removeUnread(name string, used time.Time) (int64, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	defer f.Close()
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return -1, nil
	} else if err != nil {
		return -1, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return -1, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	removed, err := removeIf(name, func(at fs.FileInfo) bool {
		ours, err := f.Stat()
		return err == nil && os.SameFile(ours, at) && at.ModTime().Equal(used) // else it was used or replaced meanwhile
	})
	if !removed {
		return -1, err
	}
	return st.Blocks * 512, nil
}

// removeIf removes a file of which that is true. No archive is put in its place meanwhile.
func removeIf(name string, which func(fs.FileInfo) bool) (bool, error) {
	replacing, err := lockFolder(filepath.Dir(name), unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer replacing.Close()
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !which(info) {
		return false, err
	}
	err = os.Remove(name)
	return err == nil, err
}

// lockFolder keeps those who put archives into a folder (shared) and those who look at one and then remove it apart.
func lockFolder(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: dir, Err: err}
	}
	return f, nil
}

// flock goes on where a signal interrupts it.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
