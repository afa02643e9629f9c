package ledger

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Ages of names.
const (
	// UnusedFor is how long a scope's own name lives without being used.
	UnusedFor = 7 * 24 * time.Hour
	// expireTimeout bounds how long all others wait for the removal of one name.
	expireTimeout = 20 * time.Second
)

// Expire removes scopes' own names that were not used for a while, and returns them as their jobs knew them. It also
// forgets what the Engine does not have any more. It is to be called now and then by one of the processes.
func (l *Ledger) Expire(ctx context.Context, engine Engine, now time.Time, age time.Duration) ([]string, error) {
	entries, err := l.Entries()
	if err != nil {
		return nil, err
	}
	var out []string
	var errs []error
	for _, e := range entries {
		if !e.old(now, age) {
			continue
		}
		gone, err := l.expire(ctx, engine, e.Name, now, age)
		if gone {
			out = append(out, e.Written)
		}
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

// ErrNoAnswer is an Engine's error that says nothing of the name: it did not answer.
var ErrNoAnswer = errors.New("the Engine does not answer")

// Evict removes scopes' own names that were not used for that long, the longest unused first, while more says so. It returns them
// as their jobs knew them. A name that cannot be removed is in nobody's way, but an Engine that does not answer would be waited for
// with each.
func (l *Ledger) Evict(ctx context.Context, engine Engine, now time.Time, age time.Duration, more func() bool) ([]string, error) {
	entries, err := l.Entries()
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return !isOwn(e.Name) || !e.old(now, age) })
	slices.SortStableFunc(entries, func(a, b Entry) int { return a.Used.Compare(b.Used) })
	var out []string
	var errs []error
	for _, e := range entries {
		if !more() {
			break
		}
		gone, err := l.expire(ctx, engine, e.Name, now, age)
		if gone {
			out = append(out, e.Written)
		}
		errs = append(errs, err)
		if ctx.Err() != nil || errors.Is(err, ErrNoAnswer) || errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	return out, errors.Join(errs...)
}

// expire removes a scope's own name, or tidies another one, unless it was used meanwhile.
func (l *Ledger) expire(ctx context.Context, engine Engine, name string, now time.Time, age time.Duration) (gone bool, err error) {
	// Locked while the Engine works, so that nobody writes the name meanwhile: who does records it first.
	err = l.change(func(tx *transaction) error {
		ctx, cancel := context.WithTimeout(ctx, expireTimeout)
		defer cancel()
		e, ok := tx.get(name)
		if !ok || !e.old(now, age) {
			return nil
		}
		if !isOwn(e.Name) {
			return tx.tidy(ctx, engine, e)
		}
		if err := engine.Untag(ctx, e.Name); err != nil {
			return err
		}
		gone = true
		return tx.drop(e.Name)
	})
	return gone, err
}

// tidy forgets readers whose image is gone, and a name that the Engine does not have.
func (tx *transaction) tidy(ctx context.Context, engine Engine, e Entry) error {
	before := len(e.Readers)
	for scope, id := range e.Readers {
		img, err := engine.Image(ctx, id)
		if err != nil {
			return err
		}
		if img.ID == "" {
			delete(e.Readers, scope)
		}
	}
	if len(e.Readers) == 0 {
		img, err := engine.Image(ctx, e.Name)
		if err != nil {
			return err
		}
		if img.ID == "" {
			return tx.drop(e.Name)
		}
	}
	if len(e.Readers) == before {
		return nil
	}
	return tx.put(e)
}

func (e *Entry) old(now time.Time, age time.Duration) bool {
	if e.Change != nil || e.Temporary {
		return false // see Repair
	}
	return now.Sub(e.Used) > age
}
