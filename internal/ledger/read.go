package ledger

import (
	"slices"
	"strings"
	"time"
)

// Meaning is what a name of the Engine's means for the jobs of one scope.
type Meaning struct {
	Visible bool
	// Known says that the name is in the record; if it is not, it is the operator's.
	Known bool
	// Private says that the scope reads the name by itself: it pulled it with credentials, or wrote it.
	Private bool
	// Pulled says that the name is the scope's own because it was pulled, not because a job wrote it.
	Pulled bool
	// ID is the image that the name means; "" = the one that the Engine has under it.
	ID string
	// Version changes whenever the meaning may have: who asks the Engine in between compares it.
	Version uint64
}

// Meaning says what a name means for a scope.
func (l *Ledger) Meaning(name, scope string) (Meaning, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refresh(); err != nil {
		return Meaning{}, err
	}
	return l.meaning(name, scope), nil
}

func (l *Ledger) meaning(name, scope string) Meaning {
	k, ok := l.entries[name]
	if !ok {
		visible := !isOwn(name) && !l.unsure(name)
		if isScopes(name, scope) && strings.Contains(name, "@") {
			visible = true // the Engine may know the digests of a scope's own names; they are not recorded
		}
		return Meaning{Visible: visible, Version: l.dropped}
	}
	m := Meaning{Known: true, Version: k.seq}
	switch {
	case isOwn(name):
		m.Visible, m.Pulled = k.Scope == scope && !k.Temporary, k.Pulled
	case k.Readers[scope] != "":
		m.Visible, m.Private, m.ID = true, true, k.Readers[scope]
	case !k.Public && !k.Operator:
	case k.Change != nil:
		m.Visible, m.ID = k.Change.ID != "", k.Change.ID
	default:
		m.Visible = true
	}
	return m
}

// unsure reports whether a name with a digest may have come from a pull or a push that is not over: the digest is
// recorded only when it is known.
func (l *Ledger) unsure(name string) bool {
	if !strings.Contains(name, "@") {
		return false
	}
	repo := repository(name)
	for other, k := range l.entries {
		if k.Change != nil && repository(other) == repo {
			return true
		}
	}
	return false
}

// Version changes with every change of the record.
func (l *Ledger) Version() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.refresh()
	return l.seq, err
}

// Names are the names that a scope's jobs read by the record alone: its own, as the jobs know them, and private ones.
type Names struct {
	Own     map[string]string // Engine's name → written, canonical
	Private map[string]string // name → ID
}

// Names lists what a scope has in the record.
func (l *Ledger) Names(scope string) (Names, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refresh(); err != nil {
		return Names{}, err
	}
	n := Names{Own: map[string]string{}, Private: map[string]string{}}
	for name, k := range l.entries {
		switch {
		case k.Scope == scope && !k.Temporary:
			n.Own[name] = k.Written
		case k.Readers[scope] != "":
			n.Private[name] = k.Readers[scope]
		}
	}
	return n, nil
}

// Entries lists the record, by name.
func (l *Ledger) Entries() ([]Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refresh(); err != nil {
		return nil, err
	}
	out := make([]Entry, 0, len(l.entries))
	for _, k := range l.entries {
		out = append(out, k.copy())
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// usedEvery is how exactly the last use of a name is known: much better than the least time after which an unused one goes.
const usedEvery = time.Hour

// Use notes that a scope's own name is used. It writes once an hour, and does not wait for the disk. A use in the future was noted by
// a clock that was wrong.
func (l *Ledger) Use(name string, now time.Time) error {
	l.mu.Lock()
	k, ok := l.entries[name]
	fresh := !ok || now.Sub(k.Used).Abs() < usedEvery
	l.mu.Unlock()
	if fresh {
		return nil
	}
	return l.change(func(tx *transaction) error {
		e, ok := tx.get(name)
		if !ok {
			return nil
		}
		e.Used = now
		err := tx.put(e)
		tx.sync = false
		return err
	})
}

// WrittenRepository is what the scope's jobs know a repository as in which the scope has names of its own, "" if none.
func (n Names) WrittenRepository(repo string) string {
	for name, written := range n.Own {
		if repository(name) == repo {
			return repository(written)
		}
	}
	return ""
}
