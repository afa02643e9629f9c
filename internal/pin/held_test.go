package pin

import (
	"os"
	"testing"
)

// TestHeld: a file is mounted once for all who use it, and for as long as somebody does.
func TestHeld(t *testing.T) {
	needRoot(t)
	t.Parallel()
	work, own := t.TempDir(), t.TempDir()
	write(t, work+"/a", "a")
	write(t, work+"/b", "b")
	view := View{{At: "/w", Source: work}}
	h := NewHeld(own)
	mount := func(user, name string) string {
		t.Helper()
		f, err := view.Open(name, false)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		at, err := h.Mount(user, f)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	holds := func(n int) {
		t.Helper()
		left, err := os.ReadDir(own)
		if err != nil || len(left) != n || h.Len() != n {
			t.Fatalf("%d are held at %v, not %d: %v", h.Len(), left, n, err)
		}
	}
	release := func(user string) {
		t.Helper()
		if err := h.Release(user); err != nil {
			t.Fatal(err)
		}
	}
	first := mount("one", "/w/a")
	coming := h.User()
	if again := mount(coming, "/w/a"); again != first {
		t.Errorf("the same file is at %s and at %s", first, again)
	}
	mount(coming, "/w/b")
	holds(2)
	h.Hand(coming, "two")
	release(coming)
	holds(2)
	h.Hand(h.User(), "three", "two")
	release("one")
	release("two")
	holds(2)
	if text, err := os.ReadFile(first); err != nil || string(text) != "a" {
		t.Errorf("%q, %v", text, err)
	}
	release("three")
	release("three")
	holds(0)
	mount("four", "/w/b")
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	holds(0)
}
