package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stopsAfter is a context that ends when it was asked so many times.
type stopsAfter struct {
	context.Context
	left atomic.Int64
}

func (c *stopsAfter) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestEvictStopped: of what was being removed when Slipway had to end, no job takes a part for the whole. The next one in the slot, or
// the next look, removes the rest.
func TestEvictStopped(t *testing.T) {
	t.Parallel()
	var parts int
	for after := 0; after < 40; after += 3 {
		srv, store := newGitServer(t), newStore(t)
		first := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a", "b": "b"})
		r := srv.pipeline(t, 1, first)
		r.CleanFlags = []string{"none"}
		checkout(t, store, r)
		second := srv.commit(t, "refs/heads/main", first, map[string]string{"a": "a2", "b": "b"})
		r.Git = srv.pipeline(t, 2, second).Git
		w, _ := checkout(t, store, r)
		put(t, w.Dir, map[string]string{"kept/1": "", "kept/2": "", "kept/3": ""})
		ctx := &stopsAfter{Context: t.Context()}
		ctx.left.Store(int64(after))
		_, _, err := store.Evict(ctx, 1<<40)
		stopped := err != nil

		for _, dir := range []string{w.mirror.dir, filepath.Dir(w.Dir)} {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			gone := strings.Contains(strings.Join(names, " "), movedAway)
			if gone && len(names) != 1+strings.Count(strings.Join(names, " "), movedAway) {
				t.Errorf("stopped after %d: %s has %q", after, dir, names)
			}
			if packs, _ := w.mirror.packs(); dir == w.mirror.dir && err == nil && len(packs) != 2 {
				t.Errorf("stopped after %d: the mirror has %q, and packs %q", after, names, packs)
			}
		}
		left, err := filepath.Glob(filepath.Join(store.dir, "mirrors", movedAway+"*"))
		slots, _ := filepath.Glob(filepath.Join(store.dir, "workspaces", "*", "*", movedAway+"*"))
		if err != nil || len(left)+len(slots) > 0 && !stopped {
			t.Errorf("not stopped, but there are %q %q, %v", left, slots, err)
		}
		parts += len(left) + len(slots)

		checkout(t, store, r)
		if kept, _ := os.ReadDir(filepath.Join(w.Dir, "kept")); len(kept) != 0 && len(kept) != 3 {
			t.Errorf("stopped after %d: a part of the job's files is there: %v", after, kept)
		}
		if slots, _ := filepath.Glob(filepath.Join(store.dir, "workspaces", "*", "*", movedAway+"*")); len(slots) > 0 {
			t.Errorf("after a job there are %q", slots)
		}
		if _, _, err := store.Evict(t.Context(), 1<<40); err != nil {
			t.Error(err)
		}
		if left, err := filepath.Glob(filepath.Join(store.dir, "[mw]*", "*")); err != nil || len(left) > 0 {
			t.Errorf("left: %q, %v", left, err)
		}
	}
	if parts == 0 {
		t.Error("it was never stopped half way")
	}
}

// TestMaintainRemovesTheRest: of a mirror that was being removed, whatever its age.
func TestMaintainRemovesTheRest(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	sha := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"})
	w, _ := checkout(t, store, srv.pipeline(t, 1, sha))
	if err := os.Rename(w.mirror.dir, filepath.Join(filepath.Dir(w.mirror.dir), movedAway+"X")); err != nil {
		t.Fatal(err)
	}
	if err := store.Maintain(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(store.dir, "mirrors", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// TestDamagedMirror: one that lacks what its refs say that it has is fetched again, for the job that finds out.
func TestDamagedMirror(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	if !store.git.refetch {
		t.Skip("this Git fetches nothing that it believes to have")
	}
	damage := func(project int64) (r Request) {
		first := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a", "b": "b"})
		r = srv.pipeline(t, 1, first)
		r.ProjectID = project
		w, _ := checkout(t, store, r)
		old, err := w.mirror.packs()
		if err != nil || len(old) != 1 {
			t.Fatal(old, err)
		}
		second := srv.commit(t, "refs/heads/main", first, map[string]string{"a": "a2", "b": "b"})
		r.Git = srv.pipeline(t, 2, second).Git
		checkout(t, store, r)
		files, err := filepath.Glob(strings.TrimSuffix(old[0], "pack") + "*")
		for _, f := range files {
			err = errors.Join(err, os.Remove(f))
		}
		if err != nil {
			t.Fatal(err)
		}
		r.Slot = "7"
		return r
	}
	r := damage(1)
	_, out := checkout(t, store, r) // the commit that is there in part
	if !strings.Contains(out, "is damaged") {
		t.Errorf("the log has\n%s", out)
	}
	if _, out := checkout(t, store, r); strings.Contains(out, "is damaged") {
		t.Errorf("the log has\n%s", out)
	}
	r = damage(2)
	next := srv.commit(t, "refs/heads/main", r.Git.SHA, map[string]string{"a": "a3", "b": "b"})
	r.Git = srv.pipeline(t, 3, next).Git
	checkout(t, store, r)
}

// TestDamageIsFetchedOnce: also if several jobs find it at once, and not again within an hour, unless for another branch.
func TestDamageIsFetchedOnce(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	if !store.git.refetch {
		t.Skip("this Git fetches nothing that it believes to have")
	}
	first := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a", "b": "b"})
	r := srv.pipeline(t, 1, first)
	w, _ := checkout(t, store, r)
	second := srv.commit(t, "refs/heads/main", first, map[string]string{"a": "a2", "b": "b"})
	gitIn(t, srv.Repo, "branch", "other", second)
	known, err := w.mirror.packs()
	if err != nil || len(known) != 1 {
		t.Fatal(known, err)
	}
	r.Git = srv.pipeline(t, 2, second).Git
	checkout(t, store, r)
	r.Git.Depth = 1    // nothing lacks that is looked at before a checkout
	damage := func() { // only what second has more than first stays
		t.Helper()
		for _, pack := range known {
			files, err := filepath.Glob(strings.TrimSuffix(pack, "pack") + "*")
			for _, f := range files {
				err = errors.Join(err, os.Remove(f))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	damage()
	small, err := w.mirror.packs()
	if err != nil || len(small) != 1 {
		t.Fatal(small, err)
	}

	const jobs = 4
	var found atomic.Int64
	all := make(chan struct{})
	srv.taken()
	srv.set(testToken, func(http.ResponseWriter, *http.Request) bool {
		select {
		case <-all:
		case <-time.After(3 * time.Minute):
			t.Error("not all jobs found the damage")
		}
		return false
	})
	var wait sync.WaitGroup
	for i := range jobs {
		r := r
		r.Slot = fmt.Sprintf("at-once-%d", i)
		w := open(t, store, r)
		wait.Go(func() {
			var log bytes.Buffer
			if err := w.Checkout(t.Context(), io.MultiWriter(&log, writerFunc(func(line []byte) {
				if bytes.Contains(line, []byte("is damaged")) && found.Add(1) == jobs {
					close(all)
				}
			}))); err != nil {
				t.Errorf("%v\n%s", err, log.String())
			}
		})
	}
	wait.Wait()
	fetches := func() (n int) {
		for _, q := range srv.taken() {
			if strings.Contains(q.URL.RawQuery, "git-upload-pack") && q.Header.Get("Authorization") != "" {
				n++
			}
		}
		return n
	}
	if n := fetches(); n != 1 {
		t.Errorf("%d fetches by %d jobs", n, jobs)
	}

	if known, err = w.mirror.packs(); err != nil {
		t.Fatal(err)
	}
	known = slices.DeleteFunc(known, func(pack string) bool { return pack == small[0] })
	damage()
	r.Slot = "again"
	w = open(t, store, r)
	var log bytes.Buffer
	if err := w.Checkout(t.Context(), &log); err == nil || fetches() != 0 || strings.Contains(log.String(), "is damaged") {
		t.Errorf("got %v\n%s", err, log.String())
	}
	other := r
	other.Slot, other.Git.Ref, other.Git.Refspecs = "other", "other", []string{"+refs/heads/other:refs/remotes/origin/other"}
	checkout(t, store, other)
	if fetches() == 0 {
		t.Error("nothing was fetched for another branch")
	}

	if known, err = w.mirror.packs(); err != nil {
		t.Fatal(err)
	}
	known = slices.DeleteFunc(known, func(pack string) bool { return pack == small[0] })
	damage()
	for _, past := range []time.Duration{2 * time.Hour, -2 * time.Hour} { // the clock was set back
		text, err := json.Marshal(map[string]time.Time{r.refetchName(): time.Now().Add(-past)})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(w.mirror.dir, refetchNote), text, 0o600); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, out := checkout(t, store, r); !strings.Contains(out, "is damaged") {
			t.Errorf("after %s the log has\n%s", past, out)
		}
		if known, err = w.mirror.packs(); err != nil {
			t.Fatal(err)
		}
		known = slices.DeleteFunc(known, func(pack string) bool { return pack == small[0] })
		damage()
		r.Slot += "x"
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// TestNamesAreNoDamage: Git quotes names of files in what it says.
func TestNamesAreNoDamage(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	for _, name := range []string{"unable to read ", "error: bad object ", "fatal: unable to read tree "} {
		sha := srv.commit(t, "refs/heads/main", "", map[string]string{name + strings.Repeat("x", 300): "x"})
		w := open(t, store, srv.pipeline(t, 1, sha))
		var log bytes.Buffer
		err := w.Checkout(t.Context(), &log)
		w.Close()
		if err == nil || !strings.Contains(log.String(), "File name too long") || strings.Contains(log.String(), "damaged") {
			t.Errorf("%q: got %v\n%s", name, err, log.String())
		}
	}
}

// TestLacksObjects: in Git's own words.
func TestLacksObjects(t *testing.T) {
	t.Parallel()
	oid := strings.Repeat("0123abcd", 5)
	for _, line := range []string{
		"error: unable to read sha1 file of dir/a (" + oid + ")", "fatal: unable to read tree " + oid, "fatal: unable to read tree (" + oid + ")",
		"error: unable to read tree (" + oid + strings.Repeat("0", 24) + ")", "fatal: unable to read " + oid, "fatal: failed to unpack tree object " + oid,
		"fatal: pack has 1 unresolved delta", "fatal: pack has 12 unresolved deltas", "fatal: unresolved deltas left after unpacking",
		"error: https://gitlab.example/a/b.git did not send all necessary objects", "fatal: remote did not send all necessary objects",
		"fatal: bad object refs/heads/main", "error: Could not read " + oid,
	} {
		if !lacksObjects(&gitError{stderr: "warning: x\n" + line + "\nfatal: the end\n"}) {
			t.Errorf("not taken for damage: %s", line)
		}
	}
	for _, line := range []string{
		"error: unable to create file unable to read tree " + oid + ": File name too long", "error: invalid path 'error: bad object " + oid + "'",
		"fatal: unable to read askpass response from 'x'", "remote: fatal: bad object " + oid, "fatal: remote error: did not send all necessary objects",
	} {
		if lacksObjects(&gitError{stderr: line + "\n"}) {
			t.Errorf("taken for damage: %s", line)
		}
	}
}
