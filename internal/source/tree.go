package source

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openDir opens the folder name in at, never through a symbolic link. A folder of our own that a job has closed is
// opened up first. The file's Name works as a path to the folder for as long as it is open, wherever it is moved.
func openDir(at *os.File, name string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(at.Fd()), name, flags, 0)
	if err == unix.EACCES && unix.Fchmodat(int(at.Fd()), name, 0o700, 0) == nil {
		fd, err = unix.Openat(int(at.Fd()), name, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd)), nil
}

// openRoot opens a folder by a path that no job can change.
func openRoot(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd)), nil
}

// each calls do for every entry of a folder. do may remove the entry. path is what an error calls the folder.
func each(dir *os.File, path string, do func(os.DirEntry) error) error {
	for {
		entries, err := dir.ReadDir(1024) // a job may have made millions
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return withPath("read", path, err)
		}
		for _, e := range entries {
			if err := do(e); err != nil {
				return err
			}
		}
	}
}

// remover removes trees that may have been built to resist: deeper than a path can be long, with folders that may not
// be entered, with names of any bytes. It follows nothing and opens nothing but folders.
type remover struct {
	top  *os.File // on the same file system; takes what lies too deep
	path string   // of top, for errors
	deep []string
	// freed counts the bytes that the disk has back; nil = nobody asks.
	freed *int64
}

// unlink removes what is no folder.
func (r *remover) unlink(at int, name string) error {
	var st unix.Stat_t
	counts := r.freed != nil && unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Nlink == 1
	err := unix.Unlinkat(at, name, 0)
	if err == nil && counts {
		*r.freed += st.Blocks * 512
	}
	return err
}

// tooDeep bounds the folders that are open at once.
const tooDeep = 100

// remove removes the entry name of dir. path is what an error calls it.
func (r *remover) remove(ctx context.Context, dir *os.File, name, path string) error {
	if err := r.entry(ctx, dir, name, path, 0); err != nil {
		return err
	}
	return r.drain(ctx)
}

// empty removes what is in the folder name of dir.
func (r *remover) empty(ctx context.Context, dir *os.File, name, path string) error {
	if err := r.inside(ctx, dir, name, path, 0); err != nil {
		return err
	}
	return r.drain(ctx)
}

func (r *remover) drain(ctx context.Context) error {
	for len(r.deep) > 0 {
		name := r.deep[0]
		r.deep = r.deep[1:]
		if err := r.entry(ctx, r.top, name, filepath.Join(r.path, name), 0); err != nil {
			return err
		}
	}
	return nil
}

func (r *remover) entry(ctx context.Context, dir *os.File, name, path string, depth int) error {
	at := int(dir.Fd())
	switch err := r.unlink(at, name); err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR:
	default:
		return withPath("remove", path, err)
	}
	if depth == tooDeep {
		// A folder can only be moved by who may write to it.
		_ = unix.Fchmodat(at, name, 0o700, 0)
		short := "slipway-" + rand.Text()
		if err := unix.Renameat(at, name, int(r.top.Fd()), short); err != nil {
			return withPath("move", path, err)
		}
		r.deep = append(r.deep, short)
		return nil
	}
	if err := r.inside(ctx, dir, name, path, depth); err != nil {
		return err
	}
	if err := unix.Unlinkat(at, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return withPath("remove", path, err)
	}
	return nil
}

// inside empties the folder name of dir.
func (r *remover) inside(ctx context.Context, dir *os.File, name, path string, depth int) error {
	f, err := openDir(dir, name)
	if err != nil {
		return withPath("open", path, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) == nil && int(st.Uid) == os.Geteuid() && st.Mode&0o700 != 0o700 {
		_ = unix.Fchmod(int(f.Fd()), 0o700) // ours, but closed to us
	}
	return each(f, path, func(e os.DirEntry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return r.entry(ctx, f, e.Name(), filepath.Join(path, e.Name()), depth+1)
	})
}
