package source

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

func put(tb testing.TB, dir string, files map[string]string) {
	tb.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(text), 0o666)); err != nil {
			tb.Fatal(err)
		}
	}
}

func exists(tb testing.TB, path string) bool {
	tb.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	return err == nil
}

func TestStrategies(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a", ".gitignore": "*.o\n"}))
	w, _ := checkout(t, store, r)
	left := map[string]string{"x.o": "x", "new/x": "x", "a": "changed"}

	t.Run("none", func(t *testing.T) {
		put(t, w.Dir, left)
		before := snapshot(t, w.Dir)
		r := r
		r.Strategy = None
		srv.taken()
		_, log := checkout(t, store, r)
		if diff := cmp.Diff(before, snapshot(t, w.Dir)); diff != "" {
			t.Error(diff)
		}
		if len(srv.taken()) > 0 || !strings.Contains(log, "Skipping Git repository setup") {
			t.Errorf("log: %q", log)
		}
	})
	t.Run("empty", func(t *testing.T) {
		r := r
		r.Strategy = Empty
		for range 2 {
			e, _ := checkout(t, store, r)
			if e.Dir != w.Dir+"-empty" {
				t.Errorf("the folder is %s, want %s-empty", e.Dir, w.Dir)
			}
			if diff := cmp.Diff(map[string]string{".": "drwxrwxrwx "}, snapshot(t, e.Dir)); diff != "" {
				t.Error(diff)
			}
			put(t, e.Dir, left)
		}
	})
	t.Run("no checkout", func(t *testing.T) {
		put(t, w.Dir, left)
		r := srv.pipeline(t, 2, srv.commit(t, "refs/heads/main", r.Git.SHA, map[string]string{"b": "b"}))
		r.Checkout = false
		_, log := checkout(t, store, r)
		if got := tree(t, w.Dir); got["a"] != "-rw-rw-rw- changed" || got["x.o"] == "" || got["b"] != "" {
			t.Errorf("the work tree was touched: %v", got)
		}
		if !strings.Contains(log, "Skipping Git checkout") {
			t.Errorf("log: %q", log)
		}
		if got := inJob(t, w, "status", "--porcelain"); got != "M a\n?? new/" {
			t.Errorf("git status: %q", got)
		}
		inJob(t, w, "checkout", "-qfB", "main", "origin/main")
		if got := inJob(t, w, "rev-list", "main"); got != r.Git.SHA+"\n"+inJob(t, w, "rev-parse", "main~") {
			t.Errorf("git rev-list: %q", got)
		}
	})
	t.Run("clone", func(t *testing.T) {
		put(t, w.Dir, left)
		r := r
		r.Strategy, r.CleanFlags = Clone, []string{"none"}
		checkout(t, store, r)
		want := map[string]string{".": "drwxrwxrwx ", "a": "-rw-rw-rw- a", ".gitignore": "-rw-rw-rw- *.o\n"}
		if diff := cmp.Diff(want, tree(t, w.Dir)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("first without checkout", func(t *testing.T) {
		r := r
		r.Slot, r.Checkout = "fresh", false
		w, _ := checkout(t, store, r)
		if got := inJob(t, w, "rev-parse", "origin/main"); got != r.Git.SHA {
			t.Errorf("origin/main is %s", got)
		}
		inJob(t, w, "checkout", "-q", r.Git.SHA)
	})
	t.Run("temporary folder", func(t *testing.T) {
		put(t, w.TempDir, left)
		w := open(t, store, r)
		if diff := cmp.Diff(map[string]string{".": "drwxrwxrwx "}, snapshot(t, w.TempDir)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCleanFlags(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a", ".gitignore": "*.o\n", "dir/b": "b"}))
	for i, c := range []struct{ flags, want, log string }{
		{"", "", "Removing keep/\n"},
		{"-ffdx", "", "Removing x.o\n"},
		{"-f -d -x -f", "", "Removing dir/y\n"},
		{"none", "dir/y keep/.git/HEAD keep/z x.o", ""},
		{"-ffd", "x.o", "Removing dir/y\n"},
		{"-ffdX", "dir/y keep/.git/HEAD keep/z", "Removing x.o\n"},
		{"-ffdx -e keep/", "keep/.git/HEAD keep/z", "Removing x.o\n"},
		{`-ffdx --exclude="dir/y"`, "dir/y", "Removing keep/\n"},
		{"-ffdxe 'keep'", "keep/.git/HEAD keep/z", ""},
		{"-ffx", "keep/.git/HEAD keep/z", "Removing x.o\n"},
		{"-ffdn", "dir/y keep/.git/HEAD keep/z x.o", "Would remove dir/y\n"},
	} {
		t.Run(c.flags, func(t *testing.T) {
			t.Parallel()
			r := r
			r.Slot, r.CleanFlags = strconv.Itoa(i), Words(c.flags)
			w, _ := checkout(t, store, r)
			put(t, w.Dir, map[string]string{"x.o": "", "dir/y": "", "keep/z": "", "keep/.git/HEAD": "ref: refs/heads/x"})
			_, log := checkout(t, store, r)
			var got []string
			for name := range strings.FieldsSeq("dir/y keep/.git/HEAD keep/z x.o") {
				if exists(t, filepath.Join(w.Dir, name)) {
					got = append(got, name)
				}
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
			if !strings.Contains(log, c.log) {
				t.Errorf("log %q, want %q in it", log, c.log)
			}
		})
	}
}

func TestBadCleanFlags(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"}))
	for _, flags := range []string{"-i", "--interactive", "a", "-- a", "-ffdx -e", "-c core.pager=x", "--git-dir=/x", "-ffdxz", "--exec=x", "-", "''", "none -x"} {
		r.CleanFlags = Words(flags)
		w := open(t, store, r)
		err := w.Checkout(t.Context(), io.Discard)
		var je *job.Error
		if !errors.Is(err, ErrFlags) || !errors.As(err, &je) || je.Reason != job.ScriptFailure || je.Hint == "" {
			t.Errorf("%q: got %v, want ErrFlags with a hint", flags, err)
		}
		w.Close()
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"":                       nil,
		"  ":                     nil,
		"-ffdx":                  {"-ffdx"},
		" -a\t-b\n-c ":           {"-a", "-b", "-c"},
		`-e 'a b' -e "c d"`:      {"-e", "a b", "-e", "c d"},
		`a\ b '' "x\"y" 'p\q'`:   {"a b", "", `x"y`, `p\q`},
		`$(touch x) ; rm -rf ~`:  {"$(touch", "x)", ";", "rm", "-rf", "~"},
		`--exclude="node modul"`: {"--exclude=node modul"},
	} {
		if diff := cmp.Diff(want, Words(in)); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}

func TestParseStrategy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value string
		allow bool
		want  Strategy
		ok    bool
	}{
		{"", true, Fetch, true},
		{"", false, Clone, true},
		{"clone", true, Clone, true},
		{"fetch", false, Fetch, true},
		{"none", true, None, true},
		{"empty", true, Empty, true},
		{"Fetch", false, Clone, false},
		{"x", true, Fetch, false},
	} {
		if got, ok := ParseStrategy(c.value, c.allow); got != c.want || ok != c.ok {
			t.Errorf("%q, %t: got %s, %t, want %s, %t", c.value, c.allow, got, ok, c.want, c.ok)
		}
	}
}

// GitLab: the second attempt at the sources starts from an empty folder.
func TestSecondAttempt(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"}))
	r.CleanFlags = []string{"none"}
	w := open(t, store, r)
	srv.set("another", nil)
	if err := w.Checkout(t.Context(), io.Discard); !errors.Is(err, ErrAuth) {
		t.Fatalf("got %v, want ErrAuth", err)
	}
	put(t, w.Dir, map[string]string{"half": "x"})
	srv.set(testToken, nil)
	var out bytes.Buffer
	if err := w.Checkout(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{".": "drwxrwxrwx ", "a": "-rw-rw-rw- a"}, tree(t, w.Dir)); diff != "" {
		t.Error(diff)
	}
}

func TestOperatorsFolder(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"}))
	r.Root, r.Rel = tempDir(t), "0/group/demo"
	w, _ := checkout(t, store, r)
	if w.Dir != r.Root+"/0/group/demo" || w.TempDir != w.Dir+".tmp" {
		t.Errorf("the folders are %s and %s", w.Dir, w.TempDir)
	}
	// A job that has all of Root can turn folders above its own into links.
	outside := tempDir(t)
	if err := errors.Join(os.RemoveAll(r.Root+"/0"), os.Symlink(outside, r.Root+"/0")); err != nil {
		t.Fatal(err)
	}
	checkout(t, store, r)
	if diff := cmp.Diff(map[string]string{".": "drwxrwxrwx ", "a": "-rw-rw-rw- a"}, tree(t, w.Dir)); diff != "" {
		t.Error(diff)
	}
	if got := len(snapshot(t, outside)); got != 1 {
		t.Errorf("%d entries outside", got)
	}

	// It can also move the folder away while it is worked on.
	w = open(t, store, r)
	if err := errors.Join(os.Rename(r.Root+"/0", r.Root+"/1"), os.Symlink(outside, r.Root+"/0"), os.MkdirAll(outside+"/group/demo", 0o777)); err != nil {
		t.Fatal(err)
	}
	put(t, r.Root+"/1/group/demo", map[string]string{"a": "changed", "rubbish": ""})
	if err := w.Checkout(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{".": "drwxrwxrwx ", "a": "-rw-rw-rw- a"}, tree(t, r.Root+"/1/group/demo")); diff != "" {
		t.Error(diff)
	}
	if got := len(snapshot(t, outside)); got != 3 {
		t.Errorf("%d entries outside", got)
	}
}
