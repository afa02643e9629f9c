package ledger

import (
	"context"
	"time"
)

// Own records that a name, below Host, is a scope's own, before the Engine is asked to make it.
func (l *Ledger) Own(name, scope, written string, now time.Time) error {
	return l.own(Entry{Name: name, Scope: scope, Written: written, Used: now})
}

func (l *Ledger) own(e Entry) error {
	return l.change(func(tx *transaction) error {
		if old, ok := tx.get(e.Name); ok && old.Pulled == e.Pulled && e.Used.Sub(old.Used).Abs() < usedEvery {
			return nil
		}
		return tx.put(e)
	})
}

// Borrow records a name, below Host, that a scope's job needs for a moment. It does not wait for the disk: what it is
// for is to find what a killed process left.
func (l *Ledger) Borrow(name, scope string, now time.Time) error {
	return l.borrow(Entry{Name: name, Scope: scope, Temporary: true, Used: now})
}

func (l *Ledger) borrow(e Entry) error {
	return l.change(func(tx *transaction) error {
		err := tx.put(e)
		tx.sync = false
		return err
	})
}

// Forget records that names below Host are gone.
func (l *Ledger) Forget(names ...string) error {
	return l.change(func(tx *transaction) error {
		for _, name := range names {
			if _, ok := tx.get(name); !ok || !isOwn(name) {
				continue
			}
			if err := tx.drop(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// Naming runs what gives a name at the Engine to the image with an ID; with none, what takes the name off the image that has it, if
// there is one. For each image one at a time, also between processes: the Engine may remove an image with its last name while it
// is given another. It may also wait with that for whom it likes, which is nothing to those who name other images.
func (l *Ledger) Naming(ctx context.Context, engine Engine, name, id string, do func() error) error {
	named, err := l.waitLock(ctx, "naming "+name) // it stays that image's
	if err != nil {
		return err
	}
	defer unlock(named)
	if id == "" {
		img, err := engine.Image(ctx, name)
		if err != nil || img.ID == "" {
			return err
		}
		id = img.ID
	}
	image, err := l.waitLock(ctx, "naming "+id)
	if err != nil {
		return err
	}
	defer unlock(image)
	return do()
}

// nobodys reports whether no job may read a name that is not a scope's own.
func (e *Entry) nobodys() bool {
	return !isOwn(e.Name) && len(e.Readers) == 0 && !e.Public && !e.Operator && e.Change == nil
}

func (e *Entry) read(scope, id string) {
	if e.Readers == nil {
		e.Readers = map[string]string{}
	}
	e.Readers[scope] = id
}
