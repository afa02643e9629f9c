package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lock is an advisory lock on a file; it ends with the process at the latest.
type lock struct{ f *os.File }

// How a lock is held.
const (
	shared    = unix.LOCK_SH
	exclusive = unix.LOCK_EX
)

var errLocked = errors.New("locked by another job")

// acquire waits for the lock until ctx ends.
func acquire(ctx context.Context, path string, how int) (*lock, error) {
	const longest = 50 * time.Millisecond
	for wait := time.Millisecond; ; wait = min(2*wait, longest) {
		l, err := tryAcquire(path, how)
		if !errors.Is(err, errLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for lock %s: %w", path, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// tryAcquire returns errLocked when somebody else holds the lock.
func tryAcquire(path string, how int) (*lock, error) {
	for {
		l, err := lockOnce(path, how)
		if err != nil {
			return nil, err
		}
		there, err := l.isAt(path)
		if there {
			return l, nil
		}
		l.release()
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Who had it before removed it with the folder (empty), and it keeps nobody out any more.
	}
}

func lockOnce(path string, how int) (*lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case err == nil:
		return &lock{f}, nil
	case err == unix.EWOULDBLOCK:
		f.Close()
		return nil, errLocked
	}
	f.Close()
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// isAt reports whether the file of the lock is the one that others find.
func (l *lock) isAt(path string) (bool, error) {
	ours, err := l.f.Stat()
	if err != nil {
		return false, err
	}
	theirs, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(ours, theirs), err
}

// hold makes a folder and waits for the lock in it. While the lock is held the folder stays; before that, somebody may remove
// both (empty), and they are made again.
func hold(ctx context.Context, dir, name string, how int) (*lock, error) {
	// Somebody is seldom in the way twice, but what is wrong with the folders above looks the same.
	const tries, longest = 20, 50 * time.Millisecond
	for try, wait := 1, time.Millisecond; ; try, wait = try+1, min(2*wait, longest) {
		err := privateDir(dir)
		var l *lock
		if err == nil {
			l, err = acquire(ctx, filepath.Join(dir, name), how)
		}
		if try == tries || !errors.Is(err, fs.ErrNotExist) && !removedMeanwhile(dir, err) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// removedMeanwhile reports whether a folder was removed while it was made: os.MkdirAll finds that it is there, and then that it
// is not. Something else than a folder in its place stays an error.
func removedMeanwhile(dir string, err error) bool {
	if !errors.Is(err, fs.ErrExist) {
		return false
	}
	info, err := os.Lstat(dir)
	return errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir()
}

// forget removes a folder that has been emptied, with its lock, which is held exclusively. Who waits for the lock finds that it is gone.
func (k kept) forget() error {
	if err := os.Remove(k.lock()); err != nil {
		return err
	}
	// From now on the folder may be somebody else's. Then it is not empty, and stays.
	return removeEmpty(k.dir)
}

// removeEmpty removes a folder unless something is in it.
func removeEmpty(dir string) error {
	err := unix.Rmdir(dir)
	switch err {
	case nil, unix.ENOTEMPTY, unix.EEXIST, unix.ENOENT:
		return nil
	}
	return withPath("remove", dir, err)
}

// release gives the lock back; a nil lock is none.
func (l *lock) release() {
	if l != nil {
		// To close the file is not enough: a process that is being started at this moment has it open, too, until it runs its program.
		_ = unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
		l.f.Close()
	}
}
