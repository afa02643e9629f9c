package source

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

// outside is an address of this machine that is not its loopback.
func outside(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && checkAddress(p.Addr()) == nil {
			return p.Addr().String()
		}
	}
	t.Skip("this machine has no address but its loopback")
	return ""
}

// foreignServer is a server on such an address.
func foreignServer(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp", outside(t)+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

// TestForeignModule: a submodule of another server comes without any credentials, from where that server redirects to,
// but not from the inside of this machine.
func TestForeignModule(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	lib := srv.another(t, "other/lib")
	libSHA := lib.commit(t, "refs/heads/main", "", map[string]string{"lib": "lib"})
	root := filepath.Dir(filepath.Dir(srv.Repo))
	backend := &cgi.Handler{
		Stderr: io.Discard, Path: filepath.Join(gitIn(t, root, "--exec-path"), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	var mu sync.Mutex
	asked, credentials := 0, ""
	foreign := foreignServer(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked++
		credentials += r.Header.Get("Authorization")
		mu.Unlock()
		if rest, ok := strings.CutPrefix(r.URL.Path, "/moved/"); ok {
			http.Redirect(w, r, "/other/"+rest+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
		} else if rest, ok := strings.CutPrefix(r.URL.Path, "/inside/"); ok {
			http.Redirect(w, r, srv.URL+"/other/"+rest+"?"+r.URL.RawQuery, http.StatusFound)
		} else {
			backend.ServeHTTP(w, r)
		}
	})

	request := func(path string) Request {
		sha := srv.commit(t, "refs/heads/main", "", map[string]string{
			"lib@module": libSHA, ".gitmodules": "[submodule \"lib\"]\n\tpath = lib\n\turl = " + foreign.URL + path + "\n",
		})
		return withModules(store, srv.pipeline(t, 1, sha), "normal")
	}
	for _, path := range []string{"/other/lib.git", "/moved/lib.git"} {
		w, _ := checkout(t, store, request(path))
		if diff := cmp.Diff([]string{".gitmodules", "lib/.git", "lib/lib"}, names(t, w.Dir)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	// What anybody may have need not be asked for again.
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
	before := count()
	checkout(t, store, request("/other/lib.git"))
	if n := count(); n != before || before == 0 {
		t.Errorf("%d requests, then %d", before, n)
	}
	mu.Lock()
	if credentials != "" {
		t.Errorf("the other server got %q", credentials)
	}
	mu.Unlock()

	srv.taken()
	w := open(t, store, request("/inside/lib.git"))
	err := w.Checkout(t.Context(), new(bytes.Buffer))
	var je *job.Error
	if !errors.Is(err, errNotForJobs) || !errors.As(err, &je) || je.Reason != job.ScriptFailure {
		t.Errorf("redirect to the loopback: got %v", err)
	}
	for _, r := range srv.taken() {
		if strings.Contains(r.URL.Path, "/other/") {
			t.Errorf("the loopback was asked for %s", r.URL)
		}
	}
}
