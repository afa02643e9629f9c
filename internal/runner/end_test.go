package runner

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

func TestDrain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		queue *queue
		jobs  []*job.Spec // there from the beginning
		late  *job.Spec   // comes at 20 s, after the drain at 10 s
		ran   string
		ends  float64
	}{
		{"the running jobs end", &queue{}, []*job.Spec{spec(1, 100), spec(2, 30)}, spec(3, 1), "1@0 2@0", 100},
		{"a request in flight brings nothing", &queue{hold: gitlabHold}, nil, nil, "", 50},
		{"a request in flight brings a job", &queue{hold: gitlabHold, direct: true}, nil, spec(3, 40), "3@20", 60},
		{"nothing to do", &queue{}, nil, nil, "", 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tt.queue.push(tt.jobs...)
				r := oneQueue(t, 3, tt.queue)
				r.at(10)
				r.m.Drain()
				asked := tt.queue.requests()
				r.at(20)
				if tt.late != nil {
					tt.queue.push(tt.late)
				}
				ends, err := r.wait()
				if err != nil || ends != max(tt.ends, 20) {
					t.Errorf("Run returned %v at %g s, want at %g s", err, ends, tt.ends)
				}
				if got := r.started(); got != tt.ran {
					t.Errorf("jobs ran %q, want %q", got, tt.ran)
				}
				if n := tt.queue.requests() - asked; n != 0 {
					t.Errorf("%d requests after the drain", n)
				}
				for _, x := range r.runs {
					if x.End != nil {
						t.Errorf("job %d was stopped: %v", x.ID, x.End)
					}
				}
			})
		})
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{hold: gitlabHold}
		q.push(spec(1, 600), spec(2, 600))
		r := oneQueue(t, 3, q)
		r.at(10)
		r.stop()
		ends, err := r.wait()
		if err != nil || ends != 11 {
			t.Errorf("Run returned %v at %g s, want at 11 s, when the request in flight is given up", err, ends)
		}
		for _, x := range r.runs {
			if x.Cause != nil || !errors.Is(x.End, job.ErrShutdown) {
				t.Errorf("job %d: context ended because of %v, want ErrShutdown", x.ID, x.End)
			}
		}
		if q.requests() != 4 || q.gaveUp != 1 {
			t.Errorf("%d requests, of which %d were given up; want 4 and 1", q.requests(), q.gaveUp)
		}
	})
}

func TestShutdownWhileDraining(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		q.push(spec(1, 600))
		r := oneQueue(t, 1, q)
		r.at(10)
		r.m.Drain()
		r.at(20)
		r.stop()
		if ends, err := r.wait(); err != nil || ends != 20 || !errors.Is(r.runs[0].End, job.ErrShutdown) {
			t.Errorf("Run returned %v at %g s, the job ended because of %v", err, ends, r.runs[0].End)
		}
	})
}

func TestShutdownTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		q.push(named("stubborn", spec(1, 600)))
		r := oneQueue(t, 1, q)
		r.at(10)
		r.stop()
		ends, err := r.wait()
		if err == nil || !strings.Contains(err.Error(), "1 jobs have not ended within 30s") || ends != 40 {
			t.Errorf("Run returned %v at %g s", err, ends)
		}
		r.at(601) // nothing blocks the job's own end after that
	})
}

// A request that is given up is nothing to complain about, however little time there is.
func TestShutdownTimeoutWithoutJobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{hold: gitlabHold}
		cfg := machine(1, section("a"))
		cfg.ShutdownTimeout = answerGrace / 2
		r := startRig(t, cfg, map[string]*queue{"a": q})
		r.at(10)
		r.stop()
		if ends, err := r.wait(); err != nil || ends != 10.5 {
			t.Errorf("Run returned %v at %g s", err, ends)
		}
		r.at(12) // the request ends a moment later
	})
}

// A job that the server hands out at the very end is run with a dead context, so that it is reported.
func TestJobHandedOutAtTheEndIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{latency: 800 * time.Millisecond}
		r := oneQueue(t, 1, q)
		r.at(0)
		q.push(spec(1, 600))
		r.stop()
		ends, err := r.wait()
		if err != nil || ends != 0.8 {
			t.Errorf("Run returned %v at %g s, want at 0.8 s", err, ends)
		}
		if got, want := r.started(), "1@0.8"; got != want {
			t.Fatalf("jobs started %s, want %s", got, want)
		}
		if cause := r.runs[0].Cause; !errors.Is(cause, job.ErrShutdown) {
			t.Errorf("the job began with a context that ended because of %v, want ErrShutdown", cause)
		}
	})
}

// So is one that still waits for a slot, even if none becomes free.
func TestWaitingJobIsReportedAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := &queue{hold: gitlabHold, direct: true}, &queue{hold: gitlabHold, direct: true}
		r := startRig(t, machine(1, section("a"), section("b")), map[string]*queue{"a": a, "b": b})
		r.at(10)
		a.push(named("stubborn", spec(1, 30)))
		r.at(11)
		b.push(spec(2, 600))
		r.at(12)
		if got, want := r.started(), "1@10"; got != want {
			t.Errorf("before the end, jobs started %s, want %s", got, want)
		}
		r.stop()
		if ends, err := r.wait(); err != nil || ends != 40 {
			t.Errorf("Run returned %v at %g s, want at 40 s", err, ends)
		}
		if got, want := r.started(), "1@10 2@12"; got != want {
			t.Fatalf("jobs started %s, want %s", got, want)
		}
		if cause := r.runs[1].Cause; !errors.Is(cause, job.ErrShutdown) {
			t.Errorf("the waiting job began with a context that ended because of %v, want ErrShutdown", cause)
		}
	})
}

func TestPanicStaysInItsJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		q.push(spec(1, 60), named("panic", spec(2, 1)), spec(3, 60))
		r := oneQueue(t, 2, q)
		r.at(30)
		if got, want := r.started(), "1@0 2@0 3@0"; got != want {
			t.Errorf("jobs started %s, want %s", got, want)
		}
		if r.logged("a job panicked") != 1 || r.logged("rig_test.go") != 1 {
			t.Errorf("no stack in the log:\n%s", r.log.String())
		}
		r.at(70)
		if s := r.m.Status(); s.Running != 0 {
			t.Errorf("%d slots are still taken", s.Running)
		}
	})
}
