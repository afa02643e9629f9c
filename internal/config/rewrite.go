package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// rewrite replaces the file by what edit makes of it, or leaves it as it is. The file keeps its owner and mode, a
// symbolic link stays one. A lock on the folder keeps other rewrites of ours out; an editor, or GitLab's own runner,
// that saves the file meanwhile is noticed, and edit is applied to what it saved.
func rewrite(path string, create bool, edit func(src []byte) ([]byte, error)) error {
	target, err := linked(path)
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", path, err)
	}
	dir := filepath.Dir(target)
	if create {
		// GitLab: the folder is for its owner only, since the file holds tokens.
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return unwritable(path, err)
		}
	}
	unlock, err := lock(dir)
	if err != nil {
		return unreadable(path, err)
	}
	defer unlock()
	for range 10 {
		done, err := attempt(path, target, create, edit)
		if done || err != nil {
			return err
		}
	}
	return &Error{Position: Position{File: path}, Msg: "changes all the time", Hint: "stop what else writes it, then try again"}
}

// attempt reports false if somebody else has written the file in the meantime.
func attempt(path, target string, create bool, edit func(src []byte) ([]byte, error)) (done bool, err error) {
	src, err := read(target)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && (!create || !missing) {
		return false, err
	}
	text, err := edit(src)
	if err != nil || bytes.Equal(text, src) {
		return true, err
	}
	temp, err := write(target, text)
	if err != nil {
		return false, unwritable(path, err)
	}
	defer os.Remove(temp) // a no-op once it has its new name
	now, err := read(target)
	if errors.Is(err, fs.ErrNotExist) != missing || !bytes.Equal(now, src) {
		return false, nil
	}
	if err := os.Rename(temp, target); err != nil {
		return false, unwritable(path, err)
	}
	return true, syncDir(filepath.Dir(target))
}

// linked follows symbolic links, also to a file that does not exist yet.
func linked(path string) (string, error) {
	for range 40 {
		to, err := os.Readlink(path)
		if err != nil {
			return path, nil
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return "", syscall.ELOOP
}

// write puts the text into a temporary file beside the target, with the target's owner and mode, on the disk.
func write(target string, text []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*") // made with 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(f.Name())
		}
	}()
	if old, err := os.Stat(target); err == nil {
		if err := keepOwner(f, old); err != nil {
			return "", err
		}
	}
	if _, err := f.Write(text); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}

func keepOwner(f *os.File, old fs.FileInfo) error {
	made, err := f.Stat()
	if err != nil {
		return err
	}
	is, _ := made.Sys().(*syscall.Stat_t)
	was, _ := old.Sys().(*syscall.Stat_t)
	if is != nil && was != nil && (is.Uid != was.Uid || is.Gid != was.Gid) {
		if err := f.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(old.Mode().Perm())
}

// lock keeps other processes that rewrite files in this folder out until unlock. A folder that cannot be locked
// (some network file systems) is not.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return func() { d.Close() }, nil
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

func unwritable(path string, err error) error {
	e := &Error{Position: Position{File: path}, Err: err, Msg: "cannot be written: " + err.Error()}
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "run as root, or as the owner of the file and its folder"
	case errors.Is(err, syscall.EBUSY):
		e.Hint = "the file is a mount of its own; mount its folder instead"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Hint = "make room on the disk"
	}
	return e
}
