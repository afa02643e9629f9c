package demo

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestReachable(t *testing.T) {
	t.Parallel()
	serve := func(status int, header string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if header != "" {
				w.Header().Set("Docker-Distribution-Api-Version", header)
			}
			w.WriteHeader(status)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	for _, tc := range []struct {
		name, url string
		want      bool
	}{
		{"a registry that asks for a login", serve(http.StatusUnauthorized, "registry/2.0"), true},
		{"an open registry", serve(http.StatusOK, "registry/2.0"), true},
		{"a registry out of order", serve(http.StatusBadGateway, "registry/2.0"), false},
		{"somebody else's web page", serve(http.StatusOK, ""), false},
		{"nobody", "http://127.0.0.1:1", false},
		{"no address", "::", false},
	} {
		if got := reachable(t.Context(), tc.url); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
