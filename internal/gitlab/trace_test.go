package gitlab

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

// reply with a status and headers ("Key: value").
func respond(status int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, h := range headers {
			k, v, _ := strings.Cut(h, ": ")
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
	}
}

func TestUpdateAnswers(t *testing.T) {
	t.Parallel()
	const status, interval = "Job-Status: ", "X-GitLab-Trace-Update-Interval: "
	tests := []struct {
		name    string
		state   job.State
		handler http.HandlerFunc
		want    job.Ack
	}{
		{"done", job.Success, respond(200, status+"success"), job.Ack{}},
		{"running", job.Running, respond(200, status+"running"), job.Ack{}},
		{"not ready", job.Success, respond(202, status+"running", interval+"5"), job.Ack{Verdict: job.NotReady, Interval: 5 * time.Second}},
		{"resend", job.Success, respond(412), job.Ack{Verdict: job.Resend}},
		{"not found", job.Running, respond(404), job.Ack{Verdict: job.NotFound, Standing: job.Aborted}},
		{"forbidden", job.Running, respond(403), job.Ack{Verdict: job.Forbidden, Standing: job.Aborted}},
		{"forbidden, says running", job.Running, respond(403, status+"running"), job.Ack{Verdict: job.Forbidden, Standing: job.Aborted}},
		{"canceling", job.Running, respond(200, status+"canceling"), job.Ack{Standing: job.Canceling}},
		{"canceled", job.Running, respond(200, status+"canceled"), job.Ack{Standing: job.Aborted}},
		{"failed by the server", job.Running, respond(200, status+"failed"), job.Ack{Standing: job.Aborted}},
		{"failed by us", job.Failed, respond(200, status+"failed"), job.Ack{}},
		{"success, but the server failed it", job.Success, respond(200, status+"failed"), job.Ack{Standing: job.Aborted}},
		{"unknown status", job.Running, respond(200, status+"waiting_for_callback"), job.Ack{}},
		{"interval at the limit", job.Running, respond(200, interval+"900"), job.Ack{Interval: 15 * time.Minute}},
		{"interval above the limit", job.Running, respond(200, interval+"901"), job.Ack{Interval: 15 * time.Minute}},
		{"huge interval", job.Running, respond(200, interval+"9223372036854775807"), job.Ack{Interval: 15 * time.Minute}},
		{"interval 0", job.Running, respond(200, interval+"0"), job.Ack{}},
		{"negative interval", job.Running, respond(200, interval+"-3"), job.Ack{}},
		{"no number", job.Running, respond(200, interval+"soon"), job.Ack{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := serve(t, tt.handler).Job(1, "t").Update(t.Context(), job.Update{State: tt.state})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestUpdateSends holds the conditional fields; the rest is in the recordings.
func TestUpdateSends(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		update job.Update
		want   string // what follows the token
	}{
		{"exit code 0", job.Update{State: job.Failed, Reason: job.SystemFailure}, `"state":"failed","failure_reason":"runner_system_failure","output":{}}`},
		{"reason without a failure", job.Update{State: job.Success, Reason: job.ScriptFailure}, `"state":"success","output":{}}`},
		{
			"checksum",
			job.Update{State: job.Running, Checksum: "crc32:00000001", ByteSize: 5},
			`"state":"running","checksum":"crc32:00000001","output":{"checksum":"crc32:00000001","bytesize":5}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if _, got, _ := strings.Cut(string(b), `"token":"t",`); got != tt.want {
					t.Errorf("sent %s, want %s", got, tt.want)
				}
			})
			if _, err := c.Job(1, "t").Update(t.Context(), tt.update); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPatchTraceAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    job.Ack
		err     string
	}{
		{"accepted", respond(202, "Range: 0-105", "Job-Status: running"), job.Ack{Offset: 105}, ""},
		{"accepted in part", respond(202, "Range: 0-103"), job.Ack{Offset: 103}, ""},
		{"accepted without a range", respond(202), job.Ack{Offset: 105}, ""},
		{"accepted with a bad range", respond(202, "Range: many"), job.Ack{Offset: 105}, ""},
		{"canceling", respond(202, "Range: 0-105", "Job-Status: canceling"), job.Ack{Offset: 105, Standing: job.Canceling}, ""},
		{"canceled", respond(202, "Range: 0-105", "Job-Status: canceled"), job.Ack{Offset: 105, Standing: job.Aborted}, ""},
		{"failed", respond(202, "Range: 0-105", "Job-Status: failed"), job.Ack{Offset: 105, Standing: job.Aborted}, ""},
		{
			"interval", respond(202, "Range: 0-105", "X-GitLab-Trace-Update-Interval: 60"),
			job.Ack{Offset: 105, Interval: time.Minute},
			"",
		},
		{"out of range", respond(416, "Range: 0-42"), job.Ack{Verdict: job.OutOfRange, Offset: 42}, ""},
		{"out of range, server has nothing", respond(416, "Range: 0-0"), job.Ack{Verdict: job.OutOfRange}, ""},
		{"out of range without a range", respond(416), job.Ack{}, `does not say how much it has (Range: "")`},
		{"out of range with a bad range", respond(416, "Range: 0--1"), job.Ack{}, `does not say how much it has (Range: "0--1")`},
		{"not found", respond(404), job.Ack{Verdict: job.NotFound}, ""},
		{"forbidden", respond(403), job.Ack{Verdict: job.Forbidden, Standing: job.Aborted}, ""},
		{"bad request", respond(400), job.Ack{}, "send the log of job 1: 400 Bad Request"},
		{"ok is not for logs", respond(200), job.Ack{}, "send the log of job 1: 200 OK"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := serve(t, tt.handler).Job(1, "t").PatchTrace(t.Context(), 100, []byte("12345"), false)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPatchTraceSends(t *testing.T) {
	t.Parallel()
	tests := []struct {
		start int64
		chunk string
		debug bool
		want  string
	}{
		{0, "a", false, "/api/v4/jobs/5/trace?debug_trace=false 0-0 a"},
		{5_000_000_000, "\x00\xff\n", true, "/api/v4/jobs/5/trace?debug_trace=true 5000000000-5000000002 \x00\xff\n"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.start), func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if got := fmt.Sprintf("%s %s %s", r.RequestURI, r.Header.Get("Content-Range"), b); got != tt.want {
					t.Errorf("sent %q, want %q", got, tt.want)
				}
				w.WriteHeader(http.StatusAccepted)
			})
			if _, err := c.Job(5, "t").PatchTrace(t.Context(), tt.start, []byte(tt.chunk), tt.debug); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPatchTraceNothing(t *testing.T) {
	t.Parallel()
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("an empty piece was sent") })
	if _, err := c.Job(5, "t").PatchTrace(t.Context(), 0, nil, false); err == nil {
		t.Error("no error")
	}
}

// TestReportsAreRetried: what is worth a retry is retried, and then an error.
func TestReportsAreRetried(t *testing.T) {
	t.Parallel()
	for _, status := range []int{408, 429, 500, 502, 503, 504, 512, 599} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				c, _ := serveInBubble(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
					calls++
					w.Header().Set("Job-Status", "running")
					w.WriteHeader(status)
				})
				j := c.Job(1, "t")
				if ack, err := j.Update(t.Context(), job.Update{State: job.Running}); !errors.Is(err, job.ErrPushback) || ack != (job.Ack{}) {
					t.Errorf("update: %+v, %v", ack, err)
				}
				if ack, err := j.PatchTrace(t.Context(), 0, []byte("x"), false); !errors.Is(err, job.ErrPushback) || ack != (job.Ack{}) {
					t.Errorf("patch: %+v, %v", ack, err)
				}
				if calls != 2*maxAttempts {
					t.Errorf("%d calls", calls)
				}
			})
		})
	}
}
