package gitlab

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// TestObserve: each answer is counted under GitLab's word for the call, those that are tried again too.
func TestObserve(t *testing.T) {
	t.Parallel()
	first := true
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v4/jobs/request" && first {
			first = false
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	var mu sync.Mutex
	var got []string
	c := newClient(t, Options{URL: srv.URL, Token: wireToken, Observe: func(endpoint, method string, status int, _ time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprint(endpoint, " ", method, " ", status))
	}})
	_, _ = c.RequestJob(t.Context(), nil)
	_, _ = c.Job(1, "x").Update(t.Context(), job.Update{State: job.Running})
	_, _ = c.Job(1, "x").PatchTrace(t.Context(), 0, []byte("x"), false)
	_, _ = c.Verify(t.Context())
	_ = c.Unregister(t.Context())
	want := []string{
		"request_job post 503", "request_job post 204", "update_job put 204", "patch_trace patch 204", "verify_runner post 204", "unregister_runner delete 204",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
