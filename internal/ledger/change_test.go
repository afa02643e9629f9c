package ledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// killed runs what ends in the middle as a killed process does: nothing is recorded, and the kernel drops the locks.
func killed(do func()) {
	defer func() { _ = recover() }()
	do()
}

// TestKilledWhilePulling: what a killed process pulled is nobody's, and an operator's name means what it meant.
func TestKilledWhilePulling(t *testing.T) {
	t.Parallel()
	const fresh, operators = "registry.example.com/team/secret:1", "docker.io/library/base:1"
	dir := t.TempDir()
	l, engine := open(t, dir), shelf{operators: "sha256:old", "keep:old": "sha256:old"}
	for _, name := range []string{fresh, operators} {
		killed(func() {
			_, _, _ = l.Pull(t.Context(), engine, Pull{Name: name, Scope: "s1", Private: true}, func(ctx context.Context) error {
				_ = engine.Tag(ctx, "sha256:new", name)
				panic("killed")
			})
		})
	}
	later := open(t, dir)
	check := func(when string) {
		t.Helper()
		for _, scope := range []string{"s1", "s2"} {
			if visible(t, later, fresh, scope) {
				t.Errorf("%s: %s sees what was being pulled", when, scope)
			}
			f, err := later.Find(t.Context(), engine, Scope{ID: scope}, operators)
			if err != nil || f.ID != "sha256:old" {
				t.Errorf("%s: %s gets %+v %v for the operator's name", when, scope, f, err)
			}
		}
	}
	check("before it is mended")
	if err := later.Repair(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	if engine[fresh] != "" || engine[operators] != "sha256:old" {
		t.Errorf("the Engine has %v", engine)
	}
	engine[fresh] = "sha256:late" // the Engine completed the pull after all
	check("after it is mended")
	delete(engine, fresh)
	// A pull of its own makes it visible.
	_, id, err := later.Pull(t.Context(), engine, Pull{Name: fresh, Scope: "s2", Private: true}, func(ctx context.Context) error {
		return engine.Tag(ctx, "sha256:new", fresh)
	})
	if err != nil || id != "sha256:new" || !visible(t, later, fresh, "s2") || visible(t, later, fresh, "s1") {
		t.Errorf("%s %v", id, err)
	}
}

// TestFailedPull leaves everything as it was.
func TestFailedPull(t *testing.T) {
	t.Parallel()
	l, engine := open(t, t.TempDir()), shelf{}
	const name = "docker.io/library/base:1"
	refused := errors.New("refused")
	_, _, err := l.Pull(t.Context(), engine, Pull{Name: name, Scope: "s1"}, func(context.Context) error { return refused })
	if !errors.Is(err, refused) {
		t.Error(err)
	}
	if entries, err := l.Entries(); err != nil || len(entries) != 0 {
		t.Errorf("%v %v", entries, err) // an operator may make an image of that name
	}
}

// TestLostPull: what the Engine lost meanwhile is fetched again, what it cannot get is not.
func TestLostPull(t *testing.T) {
	t.Parallel()
	l, engine := open(t, t.TempDir()), shelf{}
	const name = "docker.io/library/base:1"
	for _, c := range []struct {
		message string
		fails   int
		tries   int
	}{
		{"failed to prepare extraction snapshot: NotFound: lease does not exist: not found", 1, 2},
		{"NotFound: content digest sha256:c0ffee: not found", 2, 3},
		{`failed commit on ref "layer-sha256:c0ffee": commit failed: rename ingest/data blobs: no such file or directory`, 9, fetchTries},
		{"failed to extract layer (application/x sha256:c0ffee) to overlayfs: mount callback failed: chmod etc: no such file or directory", 1, 2},
		{"manifest unknown: not found", 1, 1},
	} {
		tries := 0
		_, _, err := l.Pull(t.Context(), engine, Pull{Name: name, Scope: "s1"}, func(ctx context.Context) error {
			if tries++; tries <= c.fails {
				return errors.New(c.message)
			}
			return engine.Tag(ctx, "sha256:1", name)
		})
		if tries != c.tries || (err == nil) != (c.tries > c.fails) {
			t.Errorf("%s: %d tries, %v", c.message, tries, err)
		}
	}
}

// TestTurns: a name is changed by one at a time, and who waits may give up.
func TestTurns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const name = "docker.io/library/app:1"
	engine := shelf{}
	var mu sync.Mutex
	inside := 0
	var all sync.WaitGroup
	for range 4 {
		l := open(t, dir)
		all.Go(func() {
			_, _, err := l.Pull(t.Context(), engine, Pull{Name: name, Scope: "s1"}, func(ctx context.Context) error {
				mu.Lock()
				inside++
				n := inside
				mu.Unlock()
				if n > 1 {
					t.Error("two at once")
				}
				ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
				if err := open(t, dir).Write(ctx, shelf{}, name, "s2", "sha256:x"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("did not wait: %v", err)
				}
				mu.Lock()
				inside--
				mu.Unlock()
				return engine.Tag(ctx, "sha256:1", name)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left, err := os.ReadDir(filepath.Join(dir, "locks")); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

// TestOnlyTheNameWaits: who can choose names finds none that another one waits for.
func TestOnlyTheNameWaits(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir())
	start := func(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:3] }
	const name = "docker.io/library/alpine:latest"
	other := ""
	for i := 0; start(other) != start(name); i++ {
		other = fmt.Sprintf("evil.example/x:%d", i)
	}
	held, err := l.tryLock(name)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock(held)
	f, err := l.tryLock(other)
	if err != nil {
		t.Fatal(err)
	}
	unlock(f)
}

// TestReaders: what one scope has under a name does not change because another pulls or writes the name.
func TestReaders(t *testing.T) {
	t.Parallel()
	l, engine := open(t, t.TempDir()), shelf{}
	const name = "registry.example.com/group/app:1"
	owner, guest := Scope{ID: "owner", Path: "registry.example.com/group/app"}, Scope{ID: "guest"}
	write := func(id string) {
		t.Helper()
		engine["keep:"+id] = id
		if err := l.Write(t.Context(), engine, name, owner.ID, id); err != nil {
			t.Fatal(err)
		}
	}
	pull := func(s Scope, id string, private bool) {
		t.Helper()
		engine["keep:"+id] = id
		p, err := PullOf(s, name, private)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Pull(t.Context(), engine, p, func(ctx context.Context) error { return engine.Tag(ctx, id, p.Name) }); err != nil {
			t.Fatal(err)
		}
	}
	want := func(ownersID, guestsID, strangersID string) {
		t.Helper()
		for s, id := range map[Scope]string{owner: ownersID, guest: guestsID, {ID: "stranger"}: strangersID} {
			if f, err := l.Find(t.Context(), engine, s, name); err != nil || f.ID != id {
				t.Errorf("%s gets %q %v, want %q", s.ID, f.ID, err, id)
			}
		}
	}
	write("sha256:built")
	want("sha256:built", "", "")
	pull(guest, "sha256:released", true)
	want("sha256:built", "sha256:released", "")
	write("sha256:newer")
	want("sha256:newer", "sha256:released", "")
	pull(guest, "sha256:released", false)
	want("sha256:newer", "sha256:released", "sha256:released")
	if err := l.Remove(t.Context(), engine, name, owner.ID); err != nil {
		t.Fatal(err)
	}
	want("sha256:released", "sha256:released", "sha256:released")
}

// TestNaming: an image is named and loses names one at a time, also between processes; others do not wait for that.
func TestNaming(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, other := open(t, dir), open(t, dir)
	engine := shelf{"app:1": "sha256:a", "app:2": "sha256:a", "web:1": "sha256:b"}
	begun, end, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- l.Naming(t.Context(), engine, "app:1", "", func() error {
			close(begun)
			<-end
			return nil
		})
	}()
	<-begun
	name := func(name, id string) (done bool, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*lockPause)
		defer cancel()
		err = other.Naming(ctx, engine, name, id, func() error {
			done = true
			return nil
		})
		return done, err
	}
	for _, c := range []struct{ name, id string }{{"app:2", ""}, {"app:3", "sha256:a"}, {"app:1", "sha256:b"}} {
		if done, err := name(c.name, c.id); done || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v was done meanwhile: %v", c, err)
		}
	}
	for _, c := range []struct {
		name, id string
		done     bool
	}{{"web:1", "", true}, {"web:2", "sha256:b", true}, {"none:1", "", false}} {
		ctx := t.Context() // without an end: nothing is waited for
		done := false
		if err := other.Naming(ctx, engine, c.name, c.id, func() error { done = true; return nil }); done != c.done || err != nil {
			t.Errorf("%v: %t %v", c, done, err)
		}
	}
	close(end)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := other.Naming(t.Context(), engine, "app:2", "", func() error { return nil }); err != nil {
		t.Error(err)
	}
}
