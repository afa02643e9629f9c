package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Shared is a use of a temporary name that jobs of a scope have in common: it must be the same in all of them, because
// it stands in what their builds copy. The name goes with the last of them.
type Shared struct {
	l    *Ledger
	name string
	file *os.File
}

// Share records a temporary name for as long as somebody uses it. The caller gives it to an image then.
func (l *Ledger) Share(ctx context.Context, name, scope string, now time.Time) (*Shared, error) {
	f, err := l.shareFile(name)
	if err != nil {
		return nil, err
	}
	// Whoever is removing it now needs a moment.
	for {
		err := flock(f, unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("share the name %s: %w", name, err)
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
	if err := l.borrow(Entry{Name: name, Scope: scope, Temporary: true, Shared: true, Used: now}); err != nil {
		f.Close()
		return nil, err
	}
	return &Shared{l, name, f}, nil
}

// shareFile opens what those who use a name hold together.
func (l *Ledger) shareFile(name string) (*os.File, error) {
	// Few files for all names: where two share one, a name may stay until it expires.
	sum := sha256.Sum256([]byte(name))
	f, err := os.OpenFile(filepath.Join(l.dir, "locks", "shared-"+hex.EncodeToString(sum[:])[:3]), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("share the name %s: %w", name, err)
	}
	return f, nil
}

// Release ends the use of the name. The last one takes it off the image.
func (s *Shared) Release(ctx context.Context, engine Engine) error {
	defer s.file.Close()
	err := flock(s.file, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil // others use it
	}
	if err != nil {
		return fmt.Errorf("release the name %s: %w", s.name, err)
	}
	if err := engine.Untag(ctx, s.name); err != nil {
		return err
	}
	return s.l.Forget(s.name)
}
