package source

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
	all, err := s.kept()
	errs = append(errs, err)
	for _, k := range all {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		if fresh {
			errs = append(errs, touchLock(k.lock()))
			continue
		}
		if time.Since(k.used) < unused {
			continue
		}
		did, _, err := k.empty(ctx)
		if did {
			n++
		}
		errs = append(errs, err)
	}
	errs = append(errs, s.removeEmptyProjects())
	if err := errors.Join(errs...); err != nil || !fresh {
		return n, err
	}
	return n, writeWhole(noted, "")
}

// Evict empties mirrors and workspaces that are not in use, the longest unused first, until about so many bytes of the disk are
// free again. It says how many it emptied, and the bytes.
func (s *Store) Evict(ctx context.Context, need int64) (n int, freed int64, err error) {
	all, err := s.kept()
	errs := []error{err}
	slices.SortFunc(all, func(a, b kept) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.dir, b.dir)) })
	for _, k := range all {
		if freed >= need {
			break
		}
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		did, bytes, err := k.empty(ctx)
		if did {
			n++
		}
		freed += bytes
		errs = append(errs, err)
	}
	errs = append(errs, s.removeEmptyProjects())
	return n, freed, errors.Join(errs...)
}

// kept is a mirror or a workspace.
type kept struct {
	dir   string
	names []string  // what stays in it when it is emptied: its lock, which is touched when it is taken, and one more
	used  time.Time // when its lock was taken
}

func (k kept) lock() string { return filepath.Join(k.dir, k.names[0]) }

// kept are all mirrors and workspaces that ever had their lock taken, but for those that the error is about.
func (s *Store) kept() (all []kept, err error) {
	var errs []error
	for pattern, names := range map[string][]string{
		"mirrors/*":      {useLock, fetchLock},
		"workspaces/*/*": {slotLock, slotState},
	} {
		dirs, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			k := kept{dir: dir, names: names}
			info, err := os.Lstat(k.lock())
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			k.used = info.ModTime()
			all = append(all, k)
		}
	}
	return all, errors.Join(errs...)
}

// touchLock notes a use of what has a lock, if it is there.
func touchLock(path string) error {
	now := time.Now()
	if err := os.Chtimes(path, now, now); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// empty removes what is in the folder, and then the folder with its names, unless somebody uses it or did since it was listed. It returns whether there was something, and the bytes that the disk has back.
func (k kept) empty(ctx context.Context) (did bool, freed int64, err error) {
	l, err := tryAcquire(k.lock(), exclusive)
	if errors.Is(err, errLocked) || errors.Is(err, fs.ErrNotExist) { // used, or evicted by another process
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	defer l.release()
	if info, err := l.f.Stat(); err != nil || !info.ModTime().Equal(k.used) { // somebody had it in between
		return false, 0, err
	}
	top, err := openRoot(k.dir)
	if err != nil {
		return false, 0, err
	}
	defer top.Close()
	rm := &remover{top: top, path: k.dir, freed: &freed}
	err = each(top, k.dir, func(e os.DirEntry) error {
		full := filepath.Join(k.dir, e.Name())
		if !slices.Contains(k.names, e.Name()) {
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
		err = l.forget(k.names)
	}
	return did, freed, err
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
