package pin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	work, cache := t.TempDir(), t.TempDir()
	write(t, work+"/sub/file", "hello")
	write(t, cache+"/deep/file", "cached")
	link(t, "sub", work+"/near")
	link(t, "/builds/demo/sub/file", work+"/absolute")
	link(t, "/etc", work+"/etc")
	link(t, "../../../../etc/passwd", work+"/up")
	link(t, "../../cache/deep", work+"/other")
	link(t, "sub/../../demo/./near//", work+"/winding")
	link(t, "loop", work+"/loop")
	link(t, "/proc/self/root/etc", work+"/proc")
	link(t, "/run/engine.sock", work+"/sock")
	view := View{
		{At: "/builds/demo", Source: work},
		{At: "/cache", Source: cache, ReadOnly: true},
		{At: "/builds/demo/inner", Source: cache},
	}
	for _, c := range []struct {
		name, path string
		place      int
		outside    string
		err        error
	}{
		{name: "/builds/demo", path: "", place: 0},
		{name: "/builds/demo/", path: "", place: 0},
		{name: "/builds/demo/sub/file", path: "sub/file", place: 0},
		{name: "/builds/demo/near", path: "sub", place: 0},
		{name: "/builds/demo/near/file", path: "sub/file", place: 0},
		{name: "/builds/demo/absolute", path: "sub/file", place: 0},
		{name: "/builds/demo/winding", path: "sub", place: 0},
		{name: "/builds/demo/sub/../sub/./file", path: "sub/file", place: 0},
		{name: "/builds/demo/other", path: "deep", place: 1},
		{name: "/builds/demo/inner/deep", path: "deep", place: 2},
		{name: "/builds/demo/inner", path: "", place: 2},
		{name: "/builds/demo/etc", outside: "/etc"},
		{name: "/builds/demo/etc/passwd", outside: "/etc/passwd"},
		{name: "/builds/demo/up", outside: "/etc/passwd"},
		{name: "/builds/demo/proc", outside: "/proc/self/root/etc"},
		{name: "/builds/demo/sock", outside: "/run/engine.sock"},
		{name: "/builds/demo/../..", outside: "/"},
		{name: "/", outside: "/"},
		{name: "/builds", outside: "/builds"},
		{name: "/builds/demolition", outside: "/builds/demolition"},
		{name: "/builds/demo/loop", err: unix.ELOOP},
		{name: "/builds/demo/none", err: fs.ErrNotExist},
		{name: "/builds/demo/sub/file/", err: unix.ENOTDIR},
		{name: "/builds/demo/sub/file/..", err: unix.ENOTDIR},
		{name: "/builds/demo/sub/file/more", err: unix.ENOTDIR},
		{name: "relative", err: fs.ErrInvalid},
		{name: "/builds/demo/a\x00b", err: fs.ErrInvalid},
		{name: "/builds/demo/" + strings.Repeat("x/", 300), err: fs.ErrNotExist},
		{name: strings.Repeat("/x", 300), err: unix.ENAMETOOLONG},
		{name: "/builds/demo/" + strings.Repeat("x", 300), err: unix.ENAMETOOLONG},
	} {
		f, err := view.Open(c.name, false)
		var out *OutsideError
		switch {
		case c.err != nil:
			if !errors.Is(err, c.err) {
				t.Errorf("%s: %v, not %v", c.name, err, c.err)
			}
		case c.outside != "":
			if !errors.As(err, &out) || out.Path != c.outside {
				t.Errorf("%s: %v, not outside at %s", c.name, err, c.outside)
			}
		case err != nil || f.Path != c.path || f.Place != c.place:
			t.Errorf("%s: %+v %v, not %q in %d", c.name, f, err, c.path, c.place)
		}
		if f != nil {
			f.Close()
		}
	}
}

func TestCreateMissing(t *testing.T) {
	t.Parallel()
	work, fixed := t.TempDir(), t.TempDir()
	link(t, "/outside", work+"/link")
	view := View{{At: "/w", Source: work}, {At: "/fixed", Source: fixed, ReadOnly: true}}
	f, err := view.Open("/w/a/b c/\"d\"\n", true)
	if err != nil || f.Path != "a/b c/\"d\"\n" || !f.Dir {
		t.Fatalf("%+v %v", f, err)
	}
	f.Close()
	if st, err := os.Stat(work + "/a/b c/\"d\"\n"); err != nil || !st.IsDir() {
		t.Error(err)
	}
	if _, err := view.Open("/fixed/a", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made in a read-only place: %v", err)
	}
	if _, err := view.Open("/w"+strings.Repeat("/x", 300), true); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("%v", err)
	}
	if _, err := view.Open("/w/link/x", true); !errors.As(err, new(*OutsideError)) {
		t.Errorf("%v", err)
	}
}

// TestMount pins a folder and a file, and swaps their names for links afterwards.
func TestMount(t *testing.T) {
	needRoot(t)
	t.Parallel()
	work, own, secret := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, work+"/dir/file", "hello")
	write(t, work+"/single", "alone")
	write(t, secret+"/file", "secret")
	view := View{{At: "/w", Source: work}}
	for name, at := range map[string]string{"/w/dir": own + "/m1", "/w/single": own + "/m2"} {
		f, err := view.Open(name, false)
		if err != nil {
			t.Fatal(err)
		}
		if name == "/w/dir" { // between open and mount
			swap(t, work+"/dir", secret)
		}
		if err := f.Mount(at); err != nil {
			t.Fatal(err)
		}
		if err := f.Mount(at); err == nil {
			t.Error("mounted twice at one place")
		}
		f.Close()
	}
	// The second call must not have touched the mount of the first.
	swap(t, work+"/single", secret+"/file")
	for name, text := range map[string]string{"/m1/file": "hello", "/m2": "alone"} {
		if got, err := os.ReadFile(own + name); err != nil || string(got) != text {
			t.Errorf("%s is %q %v", name, got, err)
		}
	}
	if err := os.WriteFile(own+"/m1/new", nil, 0o644); err != nil {
		t.Error(err)
	}
	if err := Unmount(own + "/m1"); err != nil {
		t.Error(err)
	}
	elsewhere := t.TempDir() + "/link"
	link(t, own, elsewhere)
	if err := errors.Join(UnmountBelow(elsewhere), UnmountBelow(elsewhere+"/none")); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(own); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if _, err := os.Stat(work + "/dir.old/new"); err != nil {
		t.Errorf("what was written through the pin is gone: %v", err)
	}
}

// swap moves a name away and puts a link there.
func swap(t *testing.T, name, target string) {
	t.Helper()
	if err := os.Rename(name, name+".old"); err != nil {
		t.Fatal(err)
	}
	link(t, target, name)
}

// TestRace exchanges a folder and a link to a secret one as fast as it can while the folder is pinned 200 times: at its
// own name and with a part behind it.
func TestRace(t *testing.T) {
	needRoot(t)
	t.Parallel()
	work, own, secret := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, work+"/x/sub/mark", "mine")
	write(t, secret+"/sub/mark", "secret")
	link(t, secret, work+"/y")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, work+"/x", unix.AT_FDCWD, work+"/y", unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() { close(stop); <-done }()
	view := View{{At: "/w", Source: work}}
	pinned, refused := 0, 0
	begin := time.Now()
	for n := 0; n < 200 || pinned == 0 || refused == 0; n++ {
		if time.Since(begin) > 5*time.Minute {
			t.Fatalf("the race was never lost or never won: %d pinned, %d refused", pinned, refused)
		}
		f, err := view.Open("/w/x/sub", n%2 == 0)
		if err != nil {
			if !errors.As(err, new(*OutsideError)) {
				t.Fatal(err)
			}
			refused++
			continue
		}
		at := own + "/m"
		if err := f.Mount(at); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if got, err := os.ReadFile(at + "/mark"); err != nil || string(got) != "mine" {
			t.Fatalf("run %d: %q %v", n, got, err)
		}
		if err := Unmount(at); err != nil {
			t.Fatal(err)
		}
		pinned++
	}
	t.Logf("%d pinned, %d refused", pinned, refused)
}
