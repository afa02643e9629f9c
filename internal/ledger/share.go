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
	f, err := l.openShared(name)
	if err != nil {
		return nil, fmt.Errorf("share the name %s: %w", name, err)
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
	if err := l.Borrow(name, scope, now); err != nil {
		f.Close()
		return nil, err
	}
	return &Shared{l, name, f}, nil
}

// Release ends the use of the name. The last one takes it off the image.
func (s *Shared) Release(ctx context.Context, engine Engine) error {
	defer s.file.Close()
	return s.l.takeOff(ctx, engine, s.file, s.name)
}

// SharedName is the temporary name that all jobs of a scope have for an image.
func SharedName(scope, tag string) string { return TemporaryName(scope, shared, tag) }

// shared stands where the temporary names of one job have the job, which has more letters.
const shared = "id"

// openShared opens what the users of a name lock together. There are few files for all names: where two share one, a name
// may stay until the next one looks.
func (l *Ledger) openShared(name string) (*os.File, error) {
	sum := sha256.Sum256([]byte(name))
	return os.OpenFile(filepath.Join(l.dir, "locks", "shared-"+hex.EncodeToString(sum[:])[:3]), os.O_RDWR|os.O_CREATE, 0o600)
}

// takeOff takes a shared name off its image, unless others use it.
func (l *Ledger) takeOff(ctx context.Context, engine Engine, f *os.File, name string) error {
	err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release the name %s: %w", name, err)
	}
	if err := engine.Untag(ctx, name); err != nil {
		return err
	}
	return l.Forget(name)
}
