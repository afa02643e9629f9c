package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

func TestRequestJobStatuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		want   error // nil = no job, no error
		plain  bool  // an error that is none of the known ones
	}{
		{status: 204},
		{status: 403, want: job.ErrForbidden},
		{status: 409, want: job.ErrConflict},
		{status: 200, plain: true},
		{status: 400, plain: true},
		{status: 401, plain: true},
		{status: 404, plain: true},
		{status: 501, plain: true},
	}
	for _, tt := range tests {
		t.Run(http.StatusText(tt.status), func(t *testing.T) {
			t.Parallel()
			spec, err := serve(t, answer(tt.status, asJSON, "")).RequestJob(t.Context(), nil)
			if spec != nil || (err == nil) != (tt.want == nil && !tt.plain) {
				t.Fatalf("got %v, %v", spec, err)
			}
			for _, known := range []error{job.ErrForbidden, job.ErrConflict, job.ErrPushback} {
				if got := errors.Is(err, known); got != (known == tt.want) {
					t.Errorf("is %q: %v", known, got)
				}
			}
		})
	}
}

// TestRequestID: the name that the server has for a request goes with the job that it brought.
func TestRequestID(t *testing.T) {
	t.Parallel()
	spec, err := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", asJSON)
		w.Header().Set("X-Request-Id", "01HX")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"id":7,"token":"tok"}`)
	}).RequestJob(t.Context(), nil)
	if err != nil || spec.RequestID != "01HX" {
		t.Errorf("%+v %v", spec, err)
	}
}

// TestUnreadablePayload: a job that was handed out is never lost, whatever it looks like.
func TestUnreadablePayload(t *testing.T) {
	t.Parallel()
	const asText = "text/plain"
	tests := []struct {
		name, contentType, body string
		id                      int64
		token                   job.Secret
	}{
		{"wrong type in a field", asJSON, `{"id":7,"token":"tok","runner_info":{"timeout":"long"}}`, 7, "tok"},
		{"wrong type before", asJSON, `{"variables":{"a":1},"steps":7,"id":7,"token":"tok"}`, 7, "tok"},
		{"breaks off", asJSON, `{"id":7,"token":"tok","job_info":{"na`, 7, "tok"},
		{"breaks off in a key", asJSON, `{"id":7,"token":"tok","jo`, 7, "tok"},
		{"ID in quotes", asJSON, `{"id":"7","token":"tok"}`, 7, "tok"},
		{"not called JSON", asText, `{"id":7,"token":"tok"}`, 7, "tok"},
		{"nested IDs do not count", asJSON, `{"job_info":{"id":8,"token":"no"},"id":7,"token":"tok","steps":1}`, 7, "tok"},
		{"no token", asJSON, `{"id":7}`, 0, ""},
		{"no ID", asJSON, `{"token":"tok"}`, 0, ""},
		{"token of another type", asJSON, `{"id":7,"token":["tok"]}`, 0, ""},
		{"no object", asJSON, `[1]`, 0, ""},
		{"nothing", asJSON, ``, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec, err := serve(t, answer(201, tt.contentType, tt.body)).RequestJob(t.Context(), nil)
			if spec != nil || err == nil {
				t.Fatalf("got %v, %v", spec, err)
			}
			var payload *PayloadError
			if !errors.As(err, &payload) {
				payload = &PayloadError{}
			}
			if payload.ID != tt.id || payload.Token != tt.token {
				t.Errorf("got job %d with token %q, want %d, %q (%v)",
					payload.ID, payload.Token.Reveal(), tt.id, tt.token.Reveal(), err)
			}
		})
	}
}

// TestPayloadCutByTheNetwork: the connection ends in the middle of the payload.
func TestPayloadCutByTheNetwork(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", asJSON)
		w.Header().Set("Content-Length", "5000")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"id":7,"token":"tok","job_info":{`)
	})
	_, err := c.RequestJob(t.Context(), nil)
	var payload *PayloadError
	if !errors.As(err, &payload) || payload.ID != 7 || payload.Token != "tok" {
		t.Fatalf("got %v", err)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the error hides why: %v", err)
	}
}

// TestLastUpdate: the newest X-GitLab-Last-Update of any call comes back in the next request for a job.
func TestLastUpdate(t *testing.T) {
	t.Parallel()
	var got []string
	next := []string{"a", "", "b", ""}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			LastUpdate *string `json:"last_update"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		sent := "(none)"
		if body.LastUpdate != nil {
			sent = *body.LastUpdate
		}
		got = append(got, sent)
		if v := next[0]; v != "" {
			w.Header().Set("X-GitLab-Last-Update", v)
		}
		next = next[1:]
		if r.URL.Path == "/api/v4/runners/verify" {
			answer(200, asJSON, `{"id":1}`)(w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	request := func(ctx context.Context) error { _, err := c.RequestJob(ctx, nil); return err }
	verify := func(ctx context.Context) error { _, err := c.Verify(ctx); return err }
	for _, call := range []func(context.Context) error{request, request, verify, request} {
		if err := call(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"(none)", "a", "(none)", "b"}, got); diff != "" {
		t.Errorf("last_update (-want +got):\n%s", diff)
	}
}
