package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Unused is how long sources stay on the machine that no job has asked for.
const Unused = 30 * 24 * time.Hour

// evict removes the mirrors and workspaces that were not used for so long and are not in use now, and says how many.
func (s *Store) evict(ctx context.Context, unused time.Duration) (n int, err error) {
	var errs []error
	// A Slipway that did not note when it used what has made some of it.
	noted := filepath.Join(s.dir, "uses-are-noted")
	_, err = os.Lstat(noted)
	fresh := errors.Is(err, fs.ErrNotExist)
	for pattern, kept := range map[string][]string{
		"mirrors/*":      {useLock, fetchLock},
		"workspaces/*/*": {slotLock, slotState},
	} {
		dirs, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil {
			return n, err
		}
		for _, dir := range dirs {
			if ctx.Err() != nil {
				return n, context.Cause(ctx)
			}
			if fresh {
				errs = append(errs, touchLock(filepath.Join(dir, kept[0])))
				continue
			}
			did, err := evictOne(ctx, dir, kept, unused)
			if did {
				n++
			}
			errs = append(errs, err)
		}
	}
	errs = append(errs, s.removeEmptyProjects())
	if err := errors.Join(errs...); err != nil || !fresh {
		return n, err
	}
	return n, writeWhole(noted, "")
}

// touchLock notes a use of what has a lock, if it is there.
func touchLock(path string) error {
	now := time.Now()
	if err := os.Chtimes(path, now, now); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// evictOne empties a folder but for what is kept, and then removes that, too. The first of these is its lock, which is touched when
// it is taken.
func evictOne(ctx context.Context, dir string, kept []string, unused time.Duration) (did bool, err error) {
	path := filepath.Join(dir, kept[0])
	if info, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || err == nil && time.Since(info.ModTime()) < unused {
		return false, nil
	} else if err != nil {
		return false, err
	}
	l, err := tryAcquire(path, exclusive)
	if errors.Is(err, errLocked) || errors.Is(err, fs.ErrNotExist) { // used, or evicted by another process
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer l.release()
	if info, err := l.f.Stat(); err != nil || time.Since(info.ModTime()) < unused { // somebody had it in between
		return false, err
	}
	top, err := openRoot(dir)
	if err != nil {
		return false, err
	}
	defer top.Close()
	rm := &remover{top: top, path: dir}
	keep := map[string]bool{}
	for _, name := range kept {
		keep[name] = true
	}
	err = each(top, dir, func(e os.DirEntry) error {
		full := filepath.Join(dir, e.Name())
		if !keep[e.Name()] {
			err := rm.remove(ctx, top, e.Name(), full)
			did = did || err == nil
			return err
		}
		if !e.IsDir() {
			return nil
		}
		if left, err := os.ReadDir(full); err != nil || len(left) == 0 {
			return err
		}
		err := rm.empty(ctx, top, e.Name(), full)
		did = did || err == nil
		return err
	})
	if errors.As(err, new(*PermissionError)) { // not again in half an hour
		err = errors.Join(err, l.touch())
	}
	if err == nil {
		err = l.forget(kept)
	}
	return did, err
}

// touch notes that a lock was taken.
func (l *lock) touch() error { return touchLock(l.f.Name()) }

// removeEmptyProjects removes the folders of projects that have no workspace left. A job that begins makes it again.
func (s *Store) removeEmptyProjects() error {
	dirs, err := filepath.Glob(filepath.Join(s.dir, "workspaces", "*"))
	for _, dir := range dirs {
		err = errors.Join(err, removeEmpty(dir))
	}
	return err
}
