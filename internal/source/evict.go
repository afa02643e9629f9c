package source

import (
	"cmp"
	"context"
	"crypto/rand"
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
		if fresh && !k.gone {
			errs = append(errs, touchLock(k.lock()))
			continue
		}
		if time.Since(k.used) < unused && !k.gone {
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
	dir  string
	name string    // of its lock, which is touched when it is taken
	used time.Time // when that was; zero if it is gone
	gone bool      // it was moved away to be removed, and nobody finds it any more
}

// movedAway begins the names of what is being removed. It is moved there in one step: a part of a mirror or of a work tree must not be
// taken for the whole by the next job if its removal ends half way.
const movedAway = ".gone-"

func (k kept) lock() string { return filepath.Join(k.dir, k.name) }

// kept are all mirrors and workspaces that ever had their lock taken, but for those that the error is about, and what is left of
// mirrors that were to be removed.
func (s *Store) kept() (all []kept, err error) {
	var errs []error
	for pattern, name := range map[string]string{"mirrors/*": useLock, "workspaces/*/*": slotLock} {
		dirs, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			k := kept{dir: dir, name: name}
			if strings.HasPrefix(filepath.Base(dir), movedAway) {
				k.gone = true
				all = append(all, k)
				continue
			}
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

// empty removes what is in the folder, and then the folder with its lock, unless somebody uses it or did since it was listed. It
// returns whether there was something, and the bytes that the disk has back.
func (k kept) empty(ctx context.Context) (did bool, freed int64, err error) {
	l, err := tryAcquire(k.lock(), exclusive)
	if errors.Is(err, errLocked) || errors.Is(err, fs.ErrNotExist) { // used, or evicted by another process
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	defer l.release()
	if info, err := l.f.Stat(); err != nil || !k.gone && !info.ModTime().Equal(k.used) { // somebody had it in between
		return false, 0, err
	}
	if err := k.moveAway(); err != nil {
		return false, 0, err
	}
	top, err := openRoot(k.dir)
	if err != nil {
		return false, 0, err
	}
	defer top.Close()
	rm := &remover{top: top, path: k.dir, freed: &freed}
	err = each(top, k.dir, func(e os.DirEntry) error {
		if e.Name() == k.name {
			return nil
		}
		err := rm.remove(ctx, top, e.Name(), filepath.Join(k.dir, e.Name()))
		did = did || err == nil
		return err
	})
	if errors.As(err, new(*PermissionError)) { // not again in half an hour
		err = errors.Join(err, touchLock(k.lock()))
	}
	if err == nil {
		err = k.forget()
	}
	return did, freed, err
}

// moveAway takes from the folder what makes it valid, in one step. A mirror goes as a whole: who waits for its lock finds that it is
// not there any more. Of a workspace each part goes by itself, the index first, because a job may have made files that only its next
// one can have removed, and that one looks where the lock is.
func (k *kept) moveAway() error {
	if k.gone {
		return nil
	}
	if k.name == useLock {
		gone := filepath.Join(filepath.Dir(k.dir), movedAway+rand.Text())
		if err := os.Rename(k.dir, gone); err != nil {
			return err
		}
		k.dir = gone
		return nil
	}
	parts, err := os.ReadDir(k.dir)
	if err != nil {
		return err
	}
	names := []string{slotState}
	for _, e := range parts {
		names = append(names, e.Name())
	}
	for _, name := range names {
		if name == k.name || strings.HasPrefix(name, movedAway) {
			continue
		}
		err := os.Rename(filepath.Join(k.dir, name), filepath.Join(k.dir, movedAway+rand.Text()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the index is named twice
			return err
		}
	}
	return nil
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
