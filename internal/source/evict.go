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

// evict empties the mirrors and workspaces that were not used for so long and are not in use now, and says how many. The
// locks stay, with the folders that a job makes before it has them: a job may be waiting for one at this moment.
func (s *Store) evict(ctx context.Context, unused time.Duration) (n int, err error) {
	var errs []error
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
			did, err := evictOne(ctx, dir, kept, unused)
			if did {
				n++
			}
			errs = append(errs, err)
		}
	}
	return n, errors.Join(errs...)
}

// evictOne empties a folder but for what is kept. The first of these is its lock, which is touched when it is taken; what is
// kept and a folder is emptied, too.
func evictOne(ctx context.Context, dir string, kept []string, unused time.Duration) (did bool, err error) {
	path := filepath.Join(dir, kept[0])
	if info, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || err == nil && time.Since(info.ModTime()) < unused {
		return false, nil
	} else if err != nil {
		return false, err
	}
	l, err := tryAcquire(path, exclusive)
	if errors.Is(err, errLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer l.release()
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
			did = true
			return rm.remove(ctx, top, e.Name(), full)
		}
		if !e.IsDir() {
			return nil
		}
		if left, err := os.ReadDir(full); err != nil || len(left) == 0 {
			return err
		}
		did = true
		return rm.empty(ctx, top, e.Name(), full)
	})
	return did, err
}

// touch notes that a lock was taken.
func (l *lock) touch() error {
	now := time.Now()
	return os.Chtimes(l.f.Name(), now, now)
}
