package archive

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	s := Store{Dir: filepath.Join(t.TempDir(), "caches")}
	if _, err := s.Open("p", "k"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	tag := ""
	put := func(project, key, content string) {
		t.Helper()
		n, err := s.Put(project, key, func(f *os.File) (string, error) { _, err := f.WriteString(content); return tag, err })
		if err != nil || n != int64(len(content)) {
			t.Fatalf("%d %v", n, err)
		}
	}
	get := func(project, key string) string {
		t.Helper()
		a, err := s.Open(project, key)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		data, err := io.ReadAll(io.NewSectionReader(a, 0, a.Size))
		if err != nil || a.Tag != tag {
			t.Errorf("tag %q, not %q, %v", a.Tag, tag, err)
		}
		return string(data)
	}
	long := strings.Repeat("../x\x00", 1000)
	put("p", "k", "1")
	put("p", long, "2")
	put("q", "k", "3")
	put("p", "k", "4")
	if got := []string{get("p", "k"), get("p", long), get("q", "k")}; !slices.Equal(got, []string{"4", "2", "3"}) {
		t.Errorf("%q", got)
	}
	if _, err := s.Put("p", "k", func(*os.File) (string, error) { return "", errStopped }); !errors.Is(err, errStopped) || get("p", "k") != "4" {
		t.Errorf("what was not finished took a whole one's place: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir, "p", "new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.path("p", long), old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.Expire(time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("p", long); !errors.Is(err, fs.ErrNotExist) || get("p", "k") != "4" {
		t.Errorf("%v", err)
	}
	if err := os.Chtimes(s.path("p", "k"), old, old); err != nil {
		t.Fatal(err)
	}
	get("p", "k") // it is used
	if err := s.Expire(time.Minute); err != nil || get("p", "k") != "4" {
		t.Errorf("%v", err)
	}
	for _, jump := range []time.Duration{24 * time.Hour, 1000 * time.Hour} { // it was used before the clock was set back
		later := time.Now().Add(jump)
		if err := os.Chtimes(s.path("p", "k"), later, later); err != nil {
			t.Fatal(err)
		}
		if err := s.Expire(time.Minute); err != nil || get("p", "k") != "4" {
			t.Errorf("%v", err)
		}
	}
	for _, content := range []string{"", "x", "as if: x\x05\x00" + tagMark, tagMark} {
		tag = "0123456789abcdef-12"
		put("p", "k", content)
		if got := get("p", "k"); got != content {
			t.Errorf("%q is not %q", got, content)
		}
	}
	for range 2 {
		if err := s.Remove("p", "k"); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Open("p", "k"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestEvict: the longest unused first, only until there is enough, and none that is being read or written.
func TestEvict(t *testing.T) {
	t.Parallel()
	s := Store{Dir: filepath.Join(t.TempDir(), "caches")}
	const size = 64 << 10
	put := func(project, key string, age time.Duration) {
		t.Helper()
		_, err := s.Put(project, key, func(f *os.File) (string, error) { _, err := f.Write(make([]byte, size)); return "", err })
		when := time.Now().Add(-age)
		if err := errors.Join(err, os.Chtimes(s.path(project, key), when, when)); err != nil {
			t.Fatal(err)
		}
	}
	left := func() string {
		var names []string
		for _, at := range []string{"p/a", "q/b", "p/c", "p/d"} {
			project, key, _ := strings.Cut(at, "/")
			if _, err := os.Stat(s.path(project, key)); err == nil {
				names = append(names, at)
			}
		}
		return strings.Join(names, " ")
	}
	put("p", "c", time.Hour)
	put("q", "b", 2*time.Hour)
	put("p", "a", 3*time.Hour)
	put("p", "d", 0)
	evict := func(need int64, wantFreed int, wantLeft string) {
		t.Helper()
		n, freed, err := s.Evict(t.Context(), need)
		if err != nil || n != wantFreed || freed < int64(n*size) || left() != wantLeft {
			t.Errorf("%d archives of %d bytes are gone, %v; left: %s, not %s", n, freed, err, left(), wantLeft)
		}
	}
	evict(0, 0, "p/a q/b p/c p/d")
	evict(1, 1, "q/b p/c p/d")
	_, err := s.Put("p", "new", func(f *os.File) (string, error) {
		if _, err := f.Write(make([]byte, size)); err != nil {
			return "", err
		}
		read, err := s.Open("p", "c")
		if err != nil {
			return "", err
		}
		defer read.Close()
		put("p", "a", 3*time.Hour)
		evict(10*size, 3, "p/c")
		if _, err := io.ReadAll(read); err != nil {
			t.Error(err)
		}
		return "", nil
	})
	if err != nil {
		t.Error(err)
	}
	abandoned := filepath.Join(s.Dir, "p", unfinished+"1")
	long := time.Now().Add(-2 * abandonedAfter)
	if err := errors.Join(os.WriteFile(abandoned, make([]byte, size), 0o600), os.Chtimes(abandoned, long, long)); err != nil {
		t.Fatal(err)
	}
	evict(10*size, 3, "") // with the new one
	if _, err := s.Open("p", "new"); err == nil {
		t.Error("the new one is left")
	}
}

// TestEvictBesidePut: an archive that takes the place of an old one stays, whenever the old one is removed.
func TestEvictBesidePut(t *testing.T) {
	t.Parallel()
	s := Store{Dir: t.TempDir()}
	put := func() {
		if _, err := s.Put("p", "k", func(*os.File) (string, error) { return "", nil }); err != nil {
			t.Error(err)
		}
	}
	name, long := s.path("p", "k"), time.Now().Add(-time.Hour).Truncate(time.Second)
	for range 2000 {
		put()
		if err := os.Chtimes(name, long, long); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(put)
		both.Go(func() {
			if _, err := removeUnread(name, long); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		if _, err := os.Stat(name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFastZipAndSame(t *testing.T) {
	t.Parallel()
	root, dir := tree(t, "a", "sub/b", "link->a", "empty/")
	data := big(t, filepath.Join(dir, "big"), 3*blockSize+1)
	found, err := Find(t.Context(), root, Selection{Paths: []string{"**"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []Level{"", "slow", "slowest"} {
		var b bytes.Buffer
		if sum, err := (Contents{Root: root, Names: found.Names, Level: level}).WriteFastZip(t.Context(), &b); err != nil || sum.Files != len(found.Names) {
			t.Fatalf("%+v %v", sum, err)
		}
		if b.Len() > len(data)/2 {
			t.Errorf("nothing was compressed: %d", b.Len())
		}
		into := t.TempDir()
		to, err := os.OpenRoot(into)
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		if _, err := Unzip(t.Context(), to, bytes.NewReader(b.Bytes()), int64(b.Len()), Options{}); err != nil {
			t.Fatal(err)
		}
		if got, want := contents(t, into), contents(t, dir); !slices.Equal(got, want) {
			t.Errorf("unpacked\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		same := func(names []string) bool {
			t.Helper()
			ok, err := Same(bytes.NewReader(b.Bytes()), int64(b.Len()), to, names)
			if err != nil {
				t.Error(err)
			}
			return ok
		}
		if !same(found.Names) {
			t.Error("what was unpacked is not what was packed")
		}
		if same(found.Names[1:]) || same(append([]string{"other"}, found.Names[1:]...)) {
			t.Error("other names are the same")
		}
		for what, change := range map[string]func() error{
			"time": func() error { return to.Chtimes("a", time.Unix(5, 0), time.Unix(5, 0)) },
			"mode": func() error { return to.Chmod("sub/b", 0o700) },
			"size": func() error { return os.Truncate(filepath.Join(into, "big"), 5) },
			"link": func() error { return errors.Join(to.Remove("link"), to.Symlink("b", "link")) },
			"kind": func() error { return errors.Join(to.Remove("empty"), to.Symlink("b", "empty")) },
			"gone": func() error { return to.Remove("a") },
		} {
			if _, err := Unzip(t.Context(), to, bytes.NewReader(b.Bytes()), int64(b.Len()), Options{}); err != nil {
				_ = to.RemoveAll("empty")
				if _, err := Unzip(t.Context(), to, bytes.NewReader(b.Bytes()), int64(b.Len()), Options{}); err != nil {
					t.Fatal(err)
				}
			}
			if !same(found.Names) {
				t.Fatalf("before the change of the %s", what)
			}
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if same(found.Names) {
				t.Errorf("a changed %s is the same", what)
			}
		}
	}
}
