package source

import (
	"bytes"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCustomCA: a server whose certificate nobody knows is reached with tls-ca-file, and with nothing else.
func TestCustomCA(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	sha := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"})
	inside, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(inside))
	t.Cleanup(front.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	r := srv.pipeline(t, 1, sha)
	r.Server, r.RemoteURL = front.URL, front.URL+"/group/demo.git"
	w := open(t, store, r)
	if err := w.Checkout(t.Context(), new(bytes.Buffer)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("without the certificate: got %v", err)
	}
	w.Close()
	r.CAFile = ca
	w, _ = checkout(t, store, r)
	if _, err := os.Stat(filepath.Join(w.Dir, "a")); err != nil {
		t.Error(err)
	}
}

// TestCAFileWithoutCertificate: it is named, in place of servers that nobody trusts all of a sudden.
func TestCAFileWithoutCertificate(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("# to be filled in\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{empty: "read tls-ca-file " + empty + ": it holds no PEM certificate", empty + "x": "read tls-ca-file: open "} {
		if _, err := (&Request{CAFile: path}).transport(false); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
