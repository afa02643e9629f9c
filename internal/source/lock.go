package source

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// release gives the lock back; a nil lock is none.
func (l *lock) release() {
	if l != nil {
		l.f.Close()
	}
}
