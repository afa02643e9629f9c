package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sys/unix"
)

// Engine are the calls that the ledger makes.
type Engine interface {
	// Image looks a name or an ID up. What does not exist has no ID, and is no error.
	Image(ctx context.Context, ref string) (Image, error)
	// Tag gives a name to the image with an ID, taking it from the one that has it.
	Tag(ctx context.Context, id, name string) error
	// Untag takes a name away, and removes the image if it was its last. It is no error if there is no such name.
	Untag(ctx context.Context, name string) error
}

// Image is what the Engine knows of an image.
type Image struct {
	ID                    string
	RepoTags, RepoDigests []string // in the Engine's short form
}

// turn is the right to let the Engine give one name to another image. All processes take turns.
type turn struct {
	l      *Ledger
	engine Engine
	name   string
	file   *os.File
	before string // ID of the image that had the name
	killed bool   // who began the change was killed in the middle
}

// lockPause is the time between two looks at a lock that another one has.
const lockPause = 20 * time.Millisecond

// take waits for the turn to change a name that is not a scope's own, and records that it is about to be changed. Until
// the end, who may read the name gets the image that it meant before.
func (l *Ledger) take(ctx context.Context, engine Engine, name string) (*turn, error) {
	if isOwn(name) {
		return nil, fmt.Errorf("%s is the name of a scope", name)
	}
	t := &turn{l: l, engine: engine, name: name}
	var err error
	if t.file, err = l.waitLock(ctx, name); err != nil {
		return nil, err
	}
	if err := t.begin(ctx); err != nil {
		t.leave()
		return nil, err
	}
	return t, nil
}

// waitLock waits until a name can be locked.
func (l *Ledger) waitLock(ctx context.Context, name string) (*os.File, error) {
	for {
		f, err := l.tryLock(name)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return f, err
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryLock locks a name. Each has a file of its own, which is there only while it is locked: who can choose names must
// not be able to make others wait for one of theirs.
func (l *Ledger) tryLock(name string) (*os.File, error) {
	sum := sha256.Sum256([]byte(name))
	path := filepath.Join(l.dir, "locks", hex.EncodeToString(sum[:]))
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock the name %s: %w", name, err)
		}
		var now, have unix.Stat_t
		if unix.Stat(path, &now) == nil && unix.Fstat(int(f.Fd()), &have) == nil && now.Ino == have.Ino {
			return f, nil
		}
		f.Close() // it was removed meanwhile, by who had it
	}
}

// unlock ends what tryLock began.
func unlock(f *os.File) {
	_ = os.Remove(f.Name()) // while it is locked; one that stays is no harm
	f.Close()
}

func (t *turn) begin(ctx context.Context) error {
	if err := t.repair(ctx); err != nil {
		return err
	}
	img, err := t.engine.Image(ctx, t.name)
	if err != nil {
		return err
	}
	t.before = img.ID
	return t.l.change(func(tx *transaction) error {
		e, ok := tx.get(t.name)
		e.Operator = !ok && t.before != ""
		e.Change = &Pending{ID: t.before}
		return tx.put(e)
	})
}

// repair undoes a change whose process died.
func (t *turn) repair(ctx context.Context) error {
	var stale *Pending
	err := t.l.change(func(tx *transaction) error {
		e, _ := tx.get(t.name)
		stale = e.Change
		return nil
	})
	if err != nil || stale == nil {
		return err
	}
	t.before, t.killed = stale.ID, true
	defer func() { t.killed = false }()
	return t.undo(ctx)
}

// undo gives the name back to the image that had it.
func (t *turn) undo(ctx context.Context) error {
	if err := t.restore(ctx); err != nil {
		return err // it stays recorded, and readers keep to the ID
	}
	return t.end(func(*Entry) {})
}

func (t *turn) restore(ctx context.Context) error {
	now, err := t.engine.Image(ctx, t.name)
	if err != nil || now.ID == t.before {
		return err
	}
	if t.before != "" && !strings.Contains(t.name, "@") { // what a digest names cannot be changed, nor set
		old, err := t.engine.Image(ctx, t.before)
		if err != nil {
			return err
		}
		if old.ID != "" {
			return t.engine.Tag(ctx, t.before, t.name)
		}
	}
	return t.engine.Untag(ctx, t.name)
}

// end records what the name is from now on, and that the change is over.
func (t *turn) end(change func(e *Entry)) error {
	return t.l.change(func(tx *transaction) error {
		e, ok := tx.get(t.name)
		if !ok || e.Change == nil {
			return fmt.Errorf("the ledger has no change of %s", t.name)
		}
		e.Change = nil
		change(&e)
		if e.Operator || e.nobodys() && t.before == "" && !t.killed {
			return tx.drop(t.name) // the operator's again, or not there
		}
		// It may be nobody's, because the Engine may yet complete what it was asked for: see Expire.
		e.Used = time.Now()
		return tx.put(e)
	})
}

// leave lets the next one.
func (t *turn) leave() { unlock(t.file) }

// Pull is a pull for a scope.
type Pull struct {
	Name    string // canonical, with tag or digest
	Scope   string
	Private bool // credentials are sent
	// Platform says that the image is not for what the Engine itself runs on: where it keeps one per name, others who
	// read the name could not run it.
	Platform bool
	// Shadow is the name below Host under which the scope gets the image if it is not to have the name itself, and
	// Written what its jobs know it as. "" for a name at the own path of the scope's project, and for one with a digest.
	Shadow, Written string
}

// PullOf is the pull of a name by a job of a scope.
func PullOf(s Scope, name string, private bool) (Pull, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return Pull{}, err
	}
	p := Pull{Scope: s.ID, Private: private}
	if d, ok := named.(reference.Digested); ok {
		p.Name = named.Name() + "@" + d.Digest().String()
		return p, nil
	}
	named = reference.TagNameOnly(named)
	p.Name = named.String()
	if tagged, ok := named.(reference.NamedTagged); ok && !s.Holds(named) {
		p.Shadow, p.Written = OwnName(s.ID, tagged), tagged.String()
	}
	return p, nil
}

// Pull lets the Engine pull, records whose the result is, and returns its name for the scope and its ID. The name is
// public if no credentials were sent; if there were, it is the scope's alone, unless all could read the very same image
// before. The operator's names are not changed, nor is any name for another platform: the scope gets another image of
// that name as its own.
func (l *Ledger) Pull(ctx context.Context, engine Engine, p Pull, pull func(ctx context.Context) error) (stored, id string, err error) {
	t, err := l.take(ctx, engine, p.Name)
	if err != nil {
		return "", "", err
	}
	defer t.leave()
	pullErr := fetch(ctx, pull)
	// The outcome is recorded whoever has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if pullErr != nil {
		return "", "", errors.Join(pullErr, t.undo(ctx))
	}
	img, err := engine.Image(ctx, p.Name)
	if err != nil {
		return "", "", err
	}
	if img.ID == "" {
		return "", "", errors.Join(fmt.Errorf("the Engine does not have %s, which it has just pulled", p.Name), t.undo(ctx))
	}
	if p.Shadow != "" && t.before != img.ID && (p.Platform || t.before != "" && t.isOperators()) {
		if err := l.own(Entry{Name: p.Shadow, Scope: p.Scope, Written: p.Written, Pulled: true, Used: time.Now()}); err != nil {
			return "", "", err
		}
		if err := engine.Tag(ctx, img.ID, p.Shadow); err != nil {
			return "", "", err
		}
		return p.Shadow, img.ID, errors.Join(l.hold(img, p), t.undo(ctx))
	}
	// Digests first: until they are known, those of the repository are seen by nobody.
	if err := l.hold(img, p); err != nil {
		return "", "", err
	}
	return p.Name, img.ID, t.end(func(e *Entry) { e.pulled(p, img.ID, t.before) })
}

// fetchTries is how often the Engine is asked for an image that it loses again.
const fetchTries = 3

// fetch lets the Engine pull, again if it has lost what it had of the image.
func fetch(ctx context.Context, pull func(ctx context.Context) error) error {
	for try := 1; ; try++ {
		err := pull(ctx)
		if err == nil || try == fetchTries || ctx.Err() != nil || !IsLost(err) {
			return err
		}
	}
}

// IsLost reports whether a pull failed because the Engine lost what it had fetched: with containerd's images, that is what becomes of all
// running pulls when somebody prunes images (docker system prune). Its words are all that tells.
func IsLost(err error) bool {
	return slices.ContainsFunc([]string{"lease does not exist", "content digest sha256:", "failed commit on ref", "failed to extract layer"},
		func(words string) bool { return strings.Contains(err.Error(), words) })
}

func (t *turn) isOperators() bool {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	k, ok := t.l.entries[t.name]
	return ok && k.Operator
}

func (e *Entry) pulled(p Pull, id, before string) {
	if !p.Private {
		delete(e.Readers, p.Scope)
		if !e.Operator || before != id {
			e.Public, e.Operator = true, false
		}
		return
	}
	if (e.Public || e.Operator) && before == id {
		delete(e.Readers, p.Scope)
		return
	}
	e.Public, e.Operator = false, false
	e.read(p.Scope, id)
}

// hold records the names with digests that the Engine noted for an image that was pulled or pushed, before the change
// of its name ends. An image that all could read under the name stays as it is.
func (l *Ledger) hold(img Image, p Pull) error {
	return l.change(func(tx *transaction) error {
		if e, ok := tx.get(p.Name); ok && e.Change != nil && (e.Public || e.Operator) && e.Change.ID == img.ID {
			return nil
		}
		for _, digest := range digestsOf(img, p.Name) {
			e, ok := tx.get(digest)
			switch {
			case ok && e.Public, digest == p.Name, ok && p.Private && e.Readers[p.Scope] == img.ID:
				continue
			case p.Private:
				e.read(p.Scope, img.ID)
			default:
				e.Public = true
			}
			e.Used = time.Now()
			if err := tx.put(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// digestsOf are an image's names with digests in the repository of a name.
func digestsOf(img Image, name string) []string {
	var out []string
	for _, d := range img.RepoDigests {
		if c := canonical(d); c != "" && repository(c) == repository(name) {
			out = append(out, c)
		}
	}
	return out
}

// Write gives a name at the own path of a scope's project to an image. Other scopes that read the name keep the image
// that they have.
func (l *Ledger) Write(ctx context.Context, engine Engine, name, scope, id string) error {
	if m, err := l.Meaning(name, scope); err != nil {
		return err
	} else if m.ID == id {
		if img, err := engine.Image(ctx, name); err != nil || img.ID == id {
			return err // a build of which all was there already
		}
	}
	t, err := l.take(ctx, engine, name)
	if err != nil {
		return err
	}
	defer t.leave()
	if err := engine.Tag(ctx, id, name); err != nil {
		return errors.Join(err, t.undo(context.WithoutCancel(ctx)))
	}
	return t.end(func(e *Entry) {
		e.Public, e.Operator = false, false
		e.read(scope, id)
	})
}

// Remove takes a name that a scope reads by itself from that scope, and from the Engine if nobody else reads it.
func (l *Ledger) Remove(ctx context.Context, engine Engine, name, scope string) error {
	t, err := l.take(ctx, engine, name)
	if err != nil {
		return err
	}
	defer t.leave()
	last := false
	err = l.change(func(tx *transaction) error {
		e, _ := tx.get(name)
		id := e.Readers[scope]
		delete(e.Readers, scope)
		e.Change = nil
		last = e.nobodys()
		return tx.closeDigests(name, scope, id)
	})
	if err == nil && last {
		err = engine.Untag(ctx, name)
	}
	if err != nil {
		return errors.Join(err, t.undo(context.WithoutCancel(ctx)))
	}
	if last {
		t.before = ""
	}
	return t.end(func(e *Entry) { delete(e.Readers, scope) })
}

// closeDigests takes from a scope what it reads of an image by its digest in the repository of a name, if that name was
// the last that it had for it there.
func (tx *transaction) closeDigests(name, scope, id string) error {
	repo := repository(name)
	var digests []Entry
	for other, k := range tx.l.entries {
		switch {
		case other == name || k.Readers[scope] != id || repository(other) != repo:
		case strings.Contains(other, "@"):
			digests = append(digests, k.copy())
		default:
			return nil
		}
	}
	for _, e := range digests {
		delete(e.Readers, scope)
		if err := tx.put(e); err != nil { // kept even if it is nobody's: the Engine may have it still
			return err
		}
	}
	return nil
}

// Lend gives a name that is not a scope's own to an image of the scope while use runs: the Engine pushes by name. The
// image that had it gets it back, if need be from the next one that looks: see Repair.
func (l *Ledger) Lend(ctx context.Context, engine Engine, name, scope, id string, use func(ctx context.Context) error) (err error) {
	t, err := l.take(ctx, engine, name)
	if err != nil {
		return err
	}
	defer t.leave()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		// A push makes the Engine note the name with its digest, which outlasts the loan.
		img, lookErr := engine.Image(ctx, id)
		err = errors.Join(err, lookErr, l.hold(img, Pull{Name: name, Scope: scope, Private: true}), t.undo(ctx))
	}()
	if t.before != id {
		if err := engine.Tag(ctx, id, name); err != nil {
			return err
		}
	}
	return use(ctx)
}

// Repair undoes the changes that killed processes did not complete, and takes back what they borrowed.
func (l *Ledger) Repair(ctx context.Context, engine Engine) error {
	entries, err := l.Entries()
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range slices.DeleteFunc(entries, func(e Entry) bool { return e.Change == nil }) {
		f, err := l.tryLock(e.Name)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // at work
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t := &turn{l: l, engine: engine, name: e.Name, file: f}
		errs = append(errs, t.repair(ctx))
		t.leave()
	}
	return errors.Join(append(errs, l.takeBack(ctx, engine))...)
}
