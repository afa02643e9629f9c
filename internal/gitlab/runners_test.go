package gitlab

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	expires := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    Registration
	}{
		{"current", answer(200, asJSON, `{"id":4,"token":"glrt-new","token_expires_at":"2027-01-02T03:04:05.000Z"}`), Registration{4, "glrt-new", &expires}},
		{"never expires", answer(200, asJSON, `{"id":4,"token":"glrt-new","token_expires_at":null}`), Registration{4, "glrt-new", nil}},
		{"no token", answer(200, asJSON, `{"id":4}`), Registration{4, wireToken, nil}},
		{"old server", answer(200, "text/plain", "200"), Registration{0, wireToken, nil}},
		{"old server, JSON", answer(200, asJSON, `"200"`), Registration{0, wireToken, nil}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := serve(t, tt.handler).Verify(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRegisterSends holds the fields that the recording does not have.
func TestRegisterSends(t *testing.T) {
	t.Parallel()
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		for _, line := range plainBody(t, exchange{header: r.Header, body: b}) {
			if line == ".info {" {
				break
			}
			got = append(got, line)
		}
		answer(201, asJSON, `{"id":9,"token":"secret"}`)(w, r)
	})
	_, err := c.Register(t.Context(), RegisterOptions{
		Description: "d", MaintenanceNote: "n", Tags: []string{"a", "b"}, RunUntagged: true,
		AccessLevel: "ref_protected", MaximumTimeout: 600, Paused: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		" {", ".description = d", ".maintenance_note = n", ".tag_list = a,b", ".run_untagged = true", ".locked = false",
		".access_level = ref_protected", ".maximum_timeout = 600", ".paused = true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRegisterAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    error
	}{
		{"forbidden", answer(403, asJSON, `{"message":"403 Forbidden - invalid token supplied"}`), job.ErrForbidden},
		{"gone", answer(410, asJSON, `{"message":"410 Gone"}`), nil},
		{"no token", answer(201, asJSON, `{"id":1}`), nil},
		{"no JSON", answer(201, "text/html", `{"id":1,"token":"x"}`), nil},
		{"wrong status", answer(200, asJSON, `{"id":1,"token":"x"}`), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := serve(t, tt.handler).Register(t.Context(), RegisterOptions{})
			if err == nil || got != (Registration{}) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if errors.Is(err, job.ErrForbidden) != (tt.want != nil) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestUnregister(t *testing.T) {
	t.Parallel()
	errAny := errors.New("any")
	tests := []struct {
		name, token, path, body string
		status                  int
		want                    error
	}{
		{
			"created in the pages", "glrt-abc", "DELETE /api/v4/runners/managers",
			`{"token":"glrt-abc","system_id":"` + wireSystem + `"}`, 204, nil,
		},
		{
			"not one of the machines", "glrt-abc", "DELETE /api/v4/runners/managers",
			`{"token":"glrt-abc","system_id":"` + wireSystem + `"}`, 404, nil,
		},
		{"nowhere", "abc", "DELETE /api/v4/runners", `{"token":"abc"}`, 404, errAny},
		{"registered", "abc", "DELETE /api/v4/runners", `{"token":"abc"}`, 204, nil},
		{"forbidden", "abc", "DELETE /api/v4/runners", `{"token":"abc"}`, 403, job.ErrForbidden},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if got := r.Method + " " + r.RequestURI; got != tt.path || string(b) != tt.body {
					t.Errorf("got %s with %s, want %s with %s", got, b, tt.path, tt.body)
				}
				w.WriteHeader(tt.status)
			}))
			defer srv.Close()
			c := newClient(t, Options{URL: srv.URL, Token: tt.token, SystemID: wireSystem})
			if err := c.Unregister(t.Context()); (err == nil) != (tt.want == nil) || tt.want != errAny && !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestResetToken(t *testing.T) {
	t.Parallel()
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = append([]string{r.Method, r.URL.Path, r.Header.Get("Runner-Token")}, plainBody(t, exchange{header: r.Header, body: b})...)
		answer(201, asJSON, `{"token":"glrt-new","token_expires_at":"2027-01-02T03:04:05.000Z"}`)(w, r)
	})
	reg, err := c.ResetToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expires := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	if diff := cmp.Diff(Registration{Token: "glrt-new", ExpiresAt: &expires}, reg); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := []string{"POST", "/api/v4/runners/reset_authentication_token", wireToken}
	if diff := cmp.Diff(want, got[:3]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := serve(t, answer(403, asJSON, `{"message":"403 Forbidden"}`)).ResetToken(t.Context()); !errors.Is(err, job.ErrForbidden) {
		t.Errorf("got %v, want it forbidden", err)
	}
	if _, err := serve(t, answer(201, asJSON, `{}`)).ResetToken(t.Context()); err == nil {
		t.Error("an answer without a token is taken")
	}
}

// TestResetTokenAs: a person asks, and the runner's own token is not sent.
func TestResetTokenAs(t *testing.T) {
	t.Parallel()
	type sent struct {
		method, path, person, runner string
		body                         string
	}
	var got sent
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = sent{r.Method, r.URL.Path, r.Header.Get("Private-Token"), r.Header.Get("Runner-Token"), string(b)}
		answer(201, asJSON, `{"token":"glrt-new","token_expires_at":null}`)(w, r)
	})
	reg, err := c.ResetTokenAs(t.Context(), 42, "glpat-x")
	if err != nil || reg != (Registration{Token: "glrt-new"}) {
		t.Fatalf("%+v, %v", reg, err)
	}
	if want := (sent{"POST", "/api/v4/runners/42/reset_authentication_token", "glpat-x", "", ""}); got != want {
		t.Errorf("sent %+v", got)
	}
	_, err = serve(t, answer(403, asJSON, `{"message":"403 Forbidden glpat-x"}`)).ResetTokenAs(t.Context(), 42, "glpat-x")
	if !errors.Is(err, job.ErrForbidden) || strings.Contains(err.Error(), "glpat-x") {
		t.Errorf("got %v, want it forbidden", err)
	}
}
