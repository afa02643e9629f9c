package archive

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// tree makes a folder: names that end with / are folders, "a->b" is a link, all else a file with its name as content.
func tree(t testing.TB, names ...string) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		link, to, isLink := strings.Cut(name, "->")
		p := filepath.Join(dir, link)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case isLink:
			err = os.Symlink(to, p)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, []byte(name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, dir
}

func TestFind(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	root, _ := tree(t, "out/a.txt", "out/deep/b.txt", "out/.hidden", "top.txt", "src/main.go", ".git/config", "vendor/lib/.git/HEAD", "vendor/lib/x", "empty/",
		"latest->out", "away->"+outside, "out/loop->..", "a[b].txt")
	if err := os.WriteFile(filepath.Join(outside, "secret"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tracked := func(name string) bool { return strings.HasPrefix(name, "src/") || name == "top.txt" }
	out := []string{"out", "out/.hidden", "out/a.txt", "out/deep", "out/deep/b.txt", "out/loop"}
	for name, c := range map[string]struct {
		sel  Selection
		want []string
		bad  string // the path that has an error
	}{
		"a folder":                     {Selection{Paths: []string{"out"}}, out, ""},
		"with a slash":                 {Selection{Paths: []string{"./out/"}}, out, ""},
		"absolute":                     {Selection{Paths: []string{"/builds/p/out"}}, out, ""},
		"absolute, elsewhere":          {Selection{Paths: []string{"/etc/passwd"}}, nil, "/etc/passwd"},
		"up":                           {Selection{Paths: []string{"../x", "out/../../x"}}, nil, "../x"},
		"a beginning of the name":      {Selection{Paths: []string{"/builds/parts"}}, nil, "/builds/parts"},
		"a glob":                       {Selection{Paths: []string{"**/*.txt"}}, []string{"a[b].txt", "out/a.txt", "out/deep/b.txt", "top.txt"}, ""},
		"braces":                       {Selection{Paths: []string{"{top,none}.txt", "out/[a].txt"}}, []string{"out/a.txt", "top.txt"}, ""},
		"no glob":                      {Selection{Paths: []string{"out/["}}, nil, "out/["},
		"nothing there":                {Selection{Paths: []string{"none", "none/**"}}, nil, ""},
		"excluded":                     {Selection{Paths: []string{"out"}, Exclude: []string{"out/**/*.txt", "out/.hidden"}}, []string{"out", "out/deep", "out/loop"}, ""},
		"a link":                       {Selection{Paths: []string{"latest"}}, []string{"latest"}, ""},
		"through a link":               {Selection{Paths: []string{"latest/*.txt"}}, []string{"latest/a.txt"}, ""},
		"a link out of the folder":     {Selection{Paths: []string{"away"}}, []string{"away"}, ""},
		"through it":                   {Selection{Paths: []string{"away/secret", "away/*", "away/**"}}, nil, ""},
		"untracked":                    {Selection{Tracked: tracked}, []string{"a[b].txt", "away", "latest", "out/.hidden", "out/a.txt", "out/deep/b.txt", "out/loop"}, ""},
		"untracked, excluded and more": {Selection{Tracked: tracked, Exclude: []string{"out/**", "a*", "latest"}, Paths: []string{"top.txt"}}, []string{"top.txt"}, ""},
	} {
		c.sel.Dir = "/builds/p"
		found, err := Find(t.Context(), root, c.sel)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.Equal(found.Names, c.want) && !(name == "through it" && !slices.ContainsFunc(found.Names, func(n string) bool { return n != "away" })) {
			t.Errorf("%s: found %q, not %q", name, found.Names, c.want)
		}
		bad := slices.IndexFunc(found.Matches, func(m Match) bool { return m.Err != nil && m.Path == c.bad })
		if c.bad != "" && bad < 0 || c.bad == "" && bad >= 0 {
			t.Errorf("%s: %+v", name, found.Matches)
		}
	}
	all, err := Find(t.Context(), root, Selection{Paths: []string{"."}})
	if err != nil || !slices.Contains(all.Names, ".git/config") || slices.ContainsFunc(all.Names, func(n string) bool { return strings.Contains(n, "secret") }) {
		t.Errorf("all: %v %q", err, all.Names)
	}
	stopped, cancel := context.WithCancelCause(t.Context())
	cancel(errStopped)
	if _, err := Find(stopped, root, Selection{Paths: []string{"**"}}); !errors.Is(err, errStopped) {
		t.Errorf("a search that was stopped: %v", err)
	}
}

var errStopped = errors.New("stopped")

// TestOnlyPlainFilesAreOpened finds what waits or acts when it is opened.
func TestOnlyPlainFilesAreOpened(t *testing.T) {
	t.Parallel()
	root, dir := tree(t, "out/a", "link->out/a")
	if err := unix.Mkfifo(filepath.Join(dir, "out/pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := unix.Mknod(filepath.Join(dir, "out/device"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))); err != nil {
			t.Log(err)
		}
	}
	found, err := Find(t.Context(), root, Selection{Paths: []string{"out"}})
	if err != nil || !slices.Equal(found.Names, []string{"out", "out/a"}) || found.Matches[0].Skip == "" {
		t.Errorf("%+v %v", found, err)
	}
	// They may take a file's place after it was found.
	var b bytes.Buffer
	outside := filepath.Join(dir, "outside") // as may links to elsewhere, and files, that of a folder
	if err := os.Symlink(t.TempDir(), outside); err != nil {
		t.Fatal(err)
	}
	sum, err := Contents{Root: root, Names: []string{"out/pipe", "out/device", "gone", "outside/secret", "out/a/b", "out/a"}}.WriteZip(t.Context(), &b)
	if err != nil || sum.Files != 1 || len(sum.Skipped) != 5 {
		t.Errorf("%+v %v", sum, err)
	}
	for _, name := range []string{"out/pipe", "link", "out"} {
		if f, _, err := open(root, name); !errors.Is(err, errNoFile) {
			t.Errorf("%s was opened: %v %v", name, f, err)
		}
	}
	sum, err = Contents{Root: root, Names: []string{"out/pipe", "link", "out", "out/a", "gone"}}.WriteRaw(t.Context(), &b)
	if err != nil || sum.Files != 1 {
		t.Errorf("%+v %v", sum, err)
	}
}

// contents of a folder: name, kind, mode, time and content.
func contents(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %s %d:%d", strings.TrimPrefix(p, dir), info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", info.ModTime().Unix(), data[:min(len(data), 100)])
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			line += " " + to
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// big writes a file of several blocks, of which some can be compressed and some cannot.
func big(t testing.TB, name string, size int) []byte {
	t.Helper()
	data := bytes.Repeat([]byte("what repeats can be compressed\n"), size/31+1)[:size]
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(data[size/3 : size/2]) // never fails
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestZipAndUnzip(t *testing.T) {
	t.Parallel()
	root, dir := tree(t, "a", "sub/deep/b", "sub/tool", "empty/", "link->sub/deep", "broken->../../nowhere", "ümlaut", "bad\xff", "closed/x", "empty.txt")
	data := big(t, filepath.Join(dir, "big"), 5*blockSize+12345)
	big(t, filepath.Join(dir, "exact"), 2*blockSize)
	old := time.Unix(1_000_000_001, 0)
	for _, err := range []error{
		os.Chmod(filepath.Join(dir, "sub/tool"), 0o4755), os.Truncate(filepath.Join(dir, "empty.txt"), 0), os.Chtimes(filepath.Join(dir, "a"), old, old),
		os.Chmod(filepath.Join(dir, "closed/x"), 0o200), os.Chmod(filepath.Join(dir, "closed"), 0o500),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(filepath.Join(dir, "a"), 1234, 2345); err != nil {
			t.Fatal(err)
		}
	} else if err := os.Chmod(filepath.Join(dir, "closed/x"), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := Find(t.Context(), root, Selection{Paths: []string{"**"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []Level{"fastest", "fast", "default", "slow", "slowest", "nonsense"} {
		var b bytes.Buffer
		var seen int64
		sum, err := Contents{Root: root, Names: found.Names, Level: level, Progress: func(n int64) { seen += n }}.WriteZip(t.Context(), &b)
		if err != nil || sum.Files != len(found.Names) || len(sum.Skipped) > 0 || seen < int64(len(data)) {
			t.Fatalf("%s: %+v %v, read %d", level, sum, err, seen)
		}
		if b.Len() > len(data)/2 {
			t.Errorf("%s: nothing was compressed: %d", level, b.Len())
		}
		into := t.TempDir()
		to, err := os.OpenRoot(into)
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		for range 2 { // the second time over what is there
			if _, err := Unzip(t.Context(), to, bytes.NewReader(b.Bytes()), int64(b.Len()), Options{Owners: os.Geteuid() == 0}); err != nil {
				t.Fatal(err)
			}
		}
		want := contents(t, dir)
		for i := range want {
			want[i] = strings.Replace(want[i], "urwxr-xr-x", "-rwxr-xr-x", 1) // no more set-uid
		}
		if got := contents(t, into); !slices.Equal(got, want) {
			t.Errorf("%s: unpacked\n%s\nnot\n%s", level, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if got, err := os.ReadFile(filepath.Join(into, "big")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the large file is another: %v", err)
		}
		if os.Geteuid() == 0 {
			_ = os.Chmod(filepath.Join(into, "closed"), 0o700)
		}
	}
	_ = os.Chmod(filepath.Join(dir, "closed"), 0o700) // for the clean-up
}

// TestOwnersOfUnpacked: an archive names owners only where that was said, and only those that it may.
func TestOwnersOfUnpacked(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	root, dir := tree(t, "root", "first", "second", "last", "beyond", "halfway", "sub/file")
	for name, ids := range map[string][2]int{"first": {1000, 2000}, "second": {1001, 2005}, "last": {1099, 2099}, "beyond": {1100, 2000}, "halfway": {1000, 5}} {
		if err := os.Lchown(filepath.Join(dir, name), ids[0], ids[1]); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"beyond", "first", "halfway", "last", "root", "second", "sub/file"} // without sub: it is made for its file
	var b bytes.Buffer
	if _, err := (Contents{Root: root, Names: names, Level: "fast", Progress: func(int64) {}}).WriteZip(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	const all = "beyond 1000:2000, first 1000:2000, halfway 1000:2000, last 1000:2000, root 1000:2000, second 1000:2000, sub 1000:2000, sub/file 1000:2000"
	one := &Owner{UID: 1000, GID: 2000}
	for name, c := range map[string]struct {
		opts Options
		want string
	}{
		"nobody":     {Options{}, "beyond 0:0, first 0:0, halfway 0:0, last 0:0, root 0:0, second 0:0, sub 0:0, sub/file 0:0"},
		"all":        {Options{Owners: true}, "beyond 1100:2000, first 1000:2000, halfway 1000:5, last 1099:2099, root 0:0, second 1001:2005, sub 0:0, sub/file 0:0"},
		"one":        {Options{Owners: true, Owner: one}, all},
		"one of one": {Options{Owner: one, Users: 1}, all},
		"a range":    {Options{Owner: one, Users: 100}, strings.NewReplacer("last 1000:2000", "last 1099:2099", "second 1000:2000", "second 1001:2005").Replace(all)},
	} {
		into := t.TempDir()
		to, err := os.OpenRoot(into)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Unzip(t.Context(), to, bytes.NewReader(b.Bytes()), int64(b.Len()), c.opts); err != nil {
			t.Fatal(err)
		}
		to.Close()
		var got []string
		for _, n := range append(names, "sub") {
			info, err := os.Lstat(filepath.Join(into, n))
			if err != nil {
				t.Fatal(err)
			}
			uid, gid := owner(info)
			got = append(got, fmt.Sprintf("%s %d:%d", n, uid, gid))
		}
		slices.Sort(got)
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s:\n%s, not\n%s", name, text, c.want)
		}
	}
}

// TestOthersUnderstandIt has other programs read the archives: GitLab's server does, and people.
func TestOthersUnderstandIt(t *testing.T) {
	t.Parallel()
	root, dir := tree(t, "a", "sub/b", "link->a")
	data := big(t, filepath.Join(dir, "big"), 3*blockSize+1)
	var b bytes.Buffer
	if _, err := (Contents{Root: root, Names: []string{"a", "big", "link", "sub", "sub/b"}}).WriteZip(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len())) // of the standard library, with its own deflate
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(f.Name, err)
		}
		got, err := io.ReadAll(r)
		if err != nil || f.Name == "big" && !bytes.Equal(got, data) || f.Name == "sub/b" && string(got) != "sub/b" {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to read it with as well")
	}
	file := filepath.Join(t.TempDir(), "x.zip")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(python, "-m", "zipfile", "--test", file).CombinedOutput(); err != nil || strings.Contains(string(out), "corrupt") {
		t.Errorf("%s %v", out, err)
	}
}

func TestGzipAndRaw(t *testing.T) {
	t.Parallel()
	root, _ := tree(t, "a.xml", "b/c.xml", "link->a.xml")
	var b bytes.Buffer
	sum, err := Contents{Root: root, Names: []string{"a.xml", "b", "b/c.xml", "link"}}.WriteGzip(t.Context(), &b)
	if err != nil || sum.Files != 2 || sum.Bytes != 12 {
		t.Fatalf("%+v %v", sum, err)
	}
	z, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false)
	first, err := io.ReadAll(z)
	if err != nil || string(first) != "a.xml" || z.Name != "a.xml" {
		t.Errorf("%q %q %v", z.Name, first, err)
	}
	if err := z.Reset(&b); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(z); err != nil || string(rest) != "b/c.xml" || z.Name != "b/c.xml" {
		t.Errorf("%q %q %v", z.Name, rest, err)
	}
	var raw bytes.Buffer
	if sum, err := (Contents{Root: root, Names: []string{"a.xml"}}).WriteRaw(t.Context(), &raw); err != nil || sum.Files != 1 || raw.String() != "a.xml" {
		t.Errorf("%q %+v %v", raw.String(), sum, err)
	}
}

// TestStopped stops an archive in its midst, and lets its reader go away: no file stays open.
func TestStopped(t *testing.T) {
	t.Parallel()
	root, dir := tree(t)
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprint(i))
		big(t, filepath.Join(dir, fmt.Sprint(i)), 1+i%2*(blockSize+100))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	seen := int64(0)
	_, err := Contents{Root: root, Names: names, Progress: func(n int64) {
		if seen += n; seen > 10*blockSize {
			cancel(errStopped)
		}
	}}.WriteZip(ctx, io.Discard)
	if !errors.Is(err, errStopped) {
		t.Errorf("%v", err)
	}
	r, w := io.Pipe()
	go func() {
		_, _ = io.CopyN(io.Discard, r, 1000) // what it says is of no use here
		r.CloseWithError(errStopped)
	}()
	if _, err := (Contents{Root: root, Names: names}).WriteZip(t.Context(), w); !errors.Is(err, errStopped) {
		t.Errorf("%v", err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, dir+"/") {
			t.Errorf("%s is still open", to)
		}
	}
}

type file struct {
	name, content string
	mode          fs.FileMode
}

func zipOf(t *testing.T, files ...file) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		h.SetMode(f.mode | 0o644)
		to, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(to, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

// TestFoldersOfAllKinds: programs write folders without a mode, and archives may imply more of them than they have entries.
func TestFoldersOfAllKinds(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range []string{"dir/", "dir/sub/"} {
		if _, err := w.Create(name); err != nil { // as Java's does: no attributes
			t.Fatal(err)
		}
	}
	to, err := w.Create("dir/sub/file")
	if err == nil {
		_, err = io.WriteString(to, "x")
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := Unzip(t.Context(), root, bytes.NewReader(b.Bytes()), int64(b.Len()), Options{}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "dir/sub")); err != nil || !info.IsDir() || info.Mode().Perm() != 0o777 {
		t.Errorf("%v %v", info, err)
	}
	// Who is not wanted any more stops, however much there is.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Unzip(gone, root, bytes.NewReader(b.Bytes()), int64(b.Len()), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestHostileArchives unpacks what would write elsewhere.
func TestHostileArchives(t *testing.T) {
	t.Parallel()
	for name, files := range map[string][]file{
		"up":                      {{name: "../evil", content: "x"}},
		"up, in the midst":        {{name: "a/../../evil", content: "x"}},
		"absolute":                {{name: "/evil", content: "x"}},
		"a NUL":                   {{name: "a\x00b", content: "x"}},
		"a deep name":             {{name: strings.Repeat("x/", 300) + "x"}},
		"a long name":             {{name: strings.Repeat("x/", 2100) + "x"}},
		"through its own link":    {{name: "l", content: "..", mode: fs.ModeSymlink}, {name: "l/evil", content: "x"}},
		"through the folder's":    {{name: "away/evil", content: "x"}},
		"in the place of a dir":   {{name: "dir", content: "x"}},
		"below a file":            {{name: "file/evil", content: "x"}},
		"a folder over a link":    {{name: "away/", mode: fs.ModeDir}},
		"a folder over a file":    {{name: "file/", mode: fs.ModeDir}},
		"a link and a file below": {{name: "l/evil", content: "x"}, {name: "l", content: "/tmp", mode: fs.ModeSymlink}},
	} {
		outer := t.TempDir()
		dir := filepath.Join(outer, "project")
		for _, err := range []error{
			os.MkdirAll(filepath.Join(dir, "dir/sub"), 0o755), os.WriteFile(filepath.Join(dir, "file"), nil, 0o644), os.Mkdir(filepath.Join(outer, "elsewhere"), 0o755),
			os.Symlink(filepath.Join(outer, "elsewhere"), filepath.Join(dir, "away")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		in := zipOf(t, files...)
		if _, err := Unzip(t.Context(), root, in, in.Size(), Options{}); err == nil {
			t.Errorf("%s: it was unpacked", name)
		}
		root.Close()
		err = filepath.WalkDir(outer, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "evil" && !strings.HasPrefix(p, dir+"/l/") {
				t.Errorf("%s: %s was written", name, p)
			}
			return err
		})
		if err != nil {
			t.Error(name, err)
		}
	}
}

// TestLinksAndKindsOfArchives unpacks links, which lead where they will, and what is no file.
func TestLinksAndKindsOfArchives(t *testing.T) {
	t.Parallel()
	root, dir := tree(t, "old->a", "was")
	in := zipOf(t, file{name: "l", content: "/etc/passwd", mode: fs.ModeSymlink}, file{name: "old", content: "new"}, file{name: "was", content: "x", mode: fs.ModeSymlink},
		file{name: "pipe", mode: fs.ModeNamedPipe}, file{name: "device", mode: fs.ModeDevice}, file{name: "twice", content: "1"}, file{name: "./twice", content: "2"}, file{name: "./"})
	sum, err := Unzip(t.Context(), root, in, in.Size(), Options{})
	if err != nil || sum.Files != 4 || len(sum.Skipped) != 2 {
		t.Fatalf("%+v %v", sum, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "l")); err != nil || to != "/etc/passwd" {
		t.Errorf("%s %v", to, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "old")); err != nil || string(got) != "new" {
		t.Errorf("%s %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "twice")); err != nil || string(got) != "2" {
		t.Errorf("%s %v", got, err)
	}
	for _, broken := range []string{"", "no archive", strings.Repeat("PK\x03\x04", 100)} {
		if _, err := Unzip(t.Context(), root, strings.NewReader(broken), int64(len(broken)), Options{}); err == nil {
			t.Errorf("%.10q was unpacked", broken)
		}
	}
	whole, _ := io.ReadAll(in)
	for i := 0; i < len(whole); i += 7 { // no damage may panic
		bent := bytes.Clone(whole)
		bent[i] ^= 0x55
		_, _ = Unzip(t.Context(), root, bytes.NewReader(bent), int64(len(bent)), Options{})
	}
}

// TestNote: an archive's last file tells of the others what is really in it.
func TestNote(t *testing.T) {
	t.Parallel()
	root, dir := tree(t, "a", "sub/b", "empty.txt", "link->a", "about.json", "about/file")
	if err := os.Truncate(filepath.Join(dir, "empty.txt"), 0); err != nil {
		t.Fatal(err)
	}
	big(t, filepath.Join(dir, "big"), 3*blockSize+1)
	var b bytes.Buffer
	note := Note{Name: "about.json", Write: func(w io.Writer, files []Sum) error { return json.NewEncoder(w).Encode(files) }}
	sum, err := Contents{Root: root, Names: []string{"a", "about.json", "big", "empty.txt", "gone", "link", "sub", "sub/b"}, Note: &note}.WriteZip(t.Context(), &b)
	if err != nil || sum.Files != 7 || len(sum.Skipped) != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	var want, got []Sum
	for i, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		switch {
		case err != nil:
			t.Fatal(f.Name, err)
		case i == len(z.File)-1:
			if err := json.Unmarshal(data, &got); err != nil || f.Name != "about.json" || f.Mode() != 0o644 {
				t.Errorf("at the end is %s, %s: %v", f.Name, f.Mode(), err)
			}
		case f.Mode().IsRegular():
			want = append(want, Sum{f.Name, sha256.Sum256(data)})
		}
	}
	if len(want) != 4 || !slices.Equal(got, want) {
		t.Errorf("told are\n%v\nnot\n%v", got, want)
	}
	// It takes the place of a folder, too: who unpacks the archive could not have both.
	note.Name = "about"
	b.Reset()
	if sum, err := (Contents{Root: root, Names: []string{"a", "about", "about.json", "about/file"}, Note: &note}).WriteZip(t.Context(), &b); err != nil || sum.Files != 3 {
		t.Fatalf("%+v, %v", sum, err)
	}
	into, _ := tree(t)
	if sum, err := Unzip(t.Context(), into, bytes.NewReader(b.Bytes()), int64(b.Len()), Options{}); err != nil || sum.Files != 3 {
		t.Errorf("%+v, %v", sum, err)
	}
	note.Write = func(io.Writer, []Sum) error { return io.ErrNoProgress }
	if _, err := (Contents{Root: root, Names: []string{"a"}, Note: &note}).WriteZip(t.Context(), io.Discard); !errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
}
