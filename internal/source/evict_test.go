package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
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
