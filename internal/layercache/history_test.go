package layercache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	h := NewHistory(filepath.Join(root, "project"))
	if b, err := h.Last(t.Context(), "k"); b != nil || err != nil {
		t.Fatalf("before the first build: %v, %v", b, err)
	}
	want := sample()
	if err := h.Keep(t.Context(), "k", want); err != nil {
		t.Fatal(err)
	}
	got, err := h.Last(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Build{})); diff != "" {
		t.Errorf("read again (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(root, "project")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info, err)
	}

	if err := os.WriteFile(h.path("k"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := h.Last(t.Context(), "k"); b != nil || err == nil || !strings.Contains(err.Error(), h.path("k")) {
		t.Errorf("a broken record: %v, %v", b, err)
	}
	if err := h.Keep(t.Context(), "k", want); err != nil {
		t.Errorf("a broken record is not replaced: %v", err)
	}

	for i := range maxBuilds + 5 {
		if err := h.Keep(t.Context(), fmt.Sprint(i), want); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-maxBuilds) * time.Hour)
		if err := os.Chtimes(h.path(fmt.Sprint(i)), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Keep(t.Context(), "last", want); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir(h.dir)
	if err != nil || len(all) != maxBuilds {
		t.Errorf("%d records are kept, %v", len(all), err)
	}
	if b, err := h.Last(t.Context(), "0"); b != nil || err != nil {
		t.Errorf("the oldest record is there still: %v, %v", b, err)
	}

	for _, jump := range []time.Duration{-24 * time.Hour, 24 * time.Hour, -2 * Unused} { // the clock was set
		if err := Expire(root, time.Now().Add(jump), Unused); err != nil {
			t.Error(err)
		}
	}
	if all, err := os.ReadDir(h.dir); err != nil || len(all) != maxBuilds {
		t.Errorf("%d records are kept, %v", len(all), err)
	}
	if err := Expire(root, time.Now().Add(Unused+100*time.Hour), Unused); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("left after the last has expired: %v, %v", left, err)
	}
	if err := Expire(filepath.Join(root, "none"), time.Now(), Unused); err != nil {
		t.Error(err)
	}
	if err := h.Keep(t.Context(), "k", want); err != nil {
		t.Errorf("after the folder has gone: %v", err)
	}
}

// TestEvict: the oldest of all projects first, only until there is enough, and nothing that is being written.
func TestEvict(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	place := func(name string, age time.Duration) {
		t.Helper()
		project, key, _ := strings.Cut(name, "/")
		h := NewHistory(filepath.Join(root, project))
		if err := h.Keep(t.Context(), key, sample()); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(h.path(key), when, when); err != nil {
			t.Fatal(err)
		}
	}
	place("p/young", time.Hour)
	place("q/old", 3*time.Hour)
	place("p/older", 4*time.Hour)
	for name, age := range map[string]time.Duration{"p/" + unfinished + "now": 0, "p/" + unfinished + "then": 2 * time.Hour} {
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(filepath.Join(root, name), []byte("x"), 0o600), os.Chtimes(filepath.Join(root, name), at, at)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		need int64
		gone int
		left string
	}{
		{0, 0, "p/.new-now p/.new-then p/older.json.gz p/young.json.gz q/old.json.gz"},
		{1, 1, "p/.new-now p/.new-then p/young.json.gz q/old.json.gz"},
		{1, 1, "p/.new-now p/.new-then p/young.json.gz"},
		{1 << 30, 2, "p/.new-now"},
		{1 << 30, 0, "p/.new-now"},
	} {
		n, freed, err := Evict(t.Context(), root, c.need)
		files, globErr := filepath.Glob(filepath.Join(root, "*", "*"))
		for i := range files {
			files[i] = strings.TrimPrefix(files[i], root+"/")
		}
		if left := strings.Join(files, " "); err != nil || globErr != nil || n != c.gone || n > 0 != (freed > 0) || left != c.left {
			t.Errorf("%d bytes are needed: %d are gone, %d bytes, %v; left: %s, not %s", c.need, n, freed, err, left, c.left)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	place("q/old", time.Hour)
	if n, _, err := Evict(ended, root, 1); n != 0 || err != nil {
		t.Errorf("after the end: %d, %v", n, err)
	}
	if n, _, err := Evict(t.Context(), filepath.Join(root, "none"), 1); n != 0 || err != nil {
		t.Errorf("before the first build: %d, %v", n, err)
	}
}

func TestTakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source, name string
		want         bool
	}{
		{".", "a/b", true},
		{"/", "a/b", true},
		{"./a", "a/b", true},
		{"a/", "a/b", true},
		{"a", "ab", false},
		{"a/b", "a", false},
		{"*.go", "main.go", true},
		{"*.go", "cmd/main.go", false},
		{"cmd/*", "cmd/x/y", true},
		{"[", "x", false},
		{"../a", "a", true},
		{"a/*/c", "a/b/c/x", true},
		{"a/*/c", "a/b", false},
		{"x[1]", "x[1]", true},
		{"x[1]", "x1", true},
		{"a/b", "a/bc", false},

		{"caf\xe9", "caf?/x", true},
	} {
		if got := compile([]string{"none", "a/b/c/d", c.source}).takes(c.name); got != c.want {
			t.Errorf("%s takes %s: %v", c.source, c.name, got)
		}
	}
}

// TestCollectorIsBounded: a client may tell of any number of files, of any length.
func TestCollectorIsBounded(t *testing.T) {
	t.Parallel()
	var many, long, links Collector
	more := true
	for i := range 2 * maxFiles {
		more = many.Add(fmt.Sprint(i), File{})
	}
	for i := range 10 {
		more = long.Add(strings.Repeat("x", maxNames/5)+fmt.Sprint(i), File{Link: "x"}) || more
	}
	for i := range 10 { // of names that are there already
		links.Add(fmt.Sprint(i), File{})
	}
	for i := range 10 {
		more = links.Add(fmt.Sprint(i), File{Link: strings.Repeat("x", maxNames/5)}) || more && i == 9
	}
	if more {
		t.Error("more is asked for")
	}
	var one Collector
	for range 10 { // the same file again and again is one
		one.Add("x", File{Link: strings.Repeat("y", maxNames/2)})
	}
	if len(one.Files()) != 1 {
		t.Error("a file that comes again counts again")
	}
	for name, c := range map[string]*Collector{"many": &many, "long": &long, "links": &links} {
		if f := c.Files(); f != nil || c.files != nil {
			t.Errorf("%s: %d files are kept", name, len(f))
		}
	}
}

// TestRecordsAreBounded: whatever a build is made of, its record is small, and is compared in no time.
func TestRecordsAreBounded(t *testing.T) {
	t.Parallel()
	much := strings.Repeat("&", 4<<20)
	var paths []string
	files := Files{}
	for i := range maxFiles {
		paths = append(paths, fmt.Sprint("q/", i))
		files[fmt.Sprint("all/", i)] = File{Link: strings.Repeat("\x01", maxNames/maxFiles-10)}
	}
	args := map[string]string{}
	for i := range 10_000 {
		args[fmt.Sprint("A", i)] = "x"
	}
	step := func(s Step) *Build {
		s.Works, s.Outcome = true, Done
		return &Build{Time: time.Now(), Args: args, Files: files, Stages: []Stage{
			{Base: -1, Steps: []Step{{Text: "RUN " + much}}}, // is not needed
			{Base: -1, Needed: true, Steps: []Step{s}},
		}}
	}
	for name, build := range map[string]func() *Build{
		"text":    func() *Build { return step(Step{Text: "RUN " + much}) },
		"sources": func() *Build { return step(Step{Text: "COPY x", Sources: paths}) },
		"globs":   func() *Build { return step(Step{Text: "COPY x", Sources: []string{strings.Repeat("*a", 1<<20)}}) },
		"stages":  func() *Build { return step(Step{Text: "RUN x", Stages: make([]int, 1<<20)}) },
		"images":  func() *Build { return step(Step{Text: "RUN x", Images: []string{much}}) },
		"steps": func() *Build {
			b := step(Step{Text: "RUN x"})
			for i := range 10_000 {
				b.Stages[1].Steps = append(b.Stages[1].Steps, Step{Text: fmt.Sprintf("RUN %d %s", i, much[:1000])})
			}
			return b
		},
	} {
		h := NewHistory(t.TempDir())
		last, now := build(), build()
		last.Compare(nil, same)
		if err := h.Keep(t.Context(), "k", last); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(h.path("k")); err == nil && info.Size() > maxRecord {
			t.Errorf("%s: %d bytes", name, info.Size())
		}
		kept, err := h.Last(t.Context(), "k")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		now.Files["all/x"] = File{}
		for _, m := range now.Compare(kept, same).Misses {
			if strings.HasPrefix(m.Text, "COPY") && m.Why != "files may have changed; there are too many to say which" {
				t.Errorf("%s: %+v", name, m)
			}
		}
	}
}
