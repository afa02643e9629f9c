package e2e

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// deafRegistry takes connections and never answers, until the test ends.
func deafRegistry(t *testing.T) (host string) {
	t.Helper()
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(over); server.Close() })
	return strings.TrimPrefix(server.URL, "http://")
}

// emptyRepository is a bare repository without commits.
func emptyRepository(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "empty.git")
	if out, err := exec.Command("git", "init", "--quiet", "--bare", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}
