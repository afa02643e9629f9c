package runner

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

// failing answers with err as long as it is not healed.
type failing struct {
	err    error
	healed atomic.Bool
}

func (f *failing) answer(int) error {
	if f.healed.Load() {
		return nil
	}
	return f.err
}

func TestRefusedRunnerPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &failing{err: job.ErrForbidden}
		q := &queue{answer: f.answer}
		q.push(spec(1, 60))
		r := oneQueue(t, 1, q)
		r.at(3700)
		if diff := cmp.Diff([]float64{0, 3, 6, 3606}, q.askedAt(r.start)); diff != "" {
			t.Errorf("requests at other times (-want +got):\n%s", diff)
		}
		if s := r.m.Status().Runners[0]; !s.PausedUntil.Equal(r.start.Add(7206*time.Second)) || !s.FailsSince.Equal(r.start) {
			t.Errorf("status says: paused until %s, fails since %s", s.PausedUntil, s.FailsSince)
		}
		f.healed.Store(true)
		r.at(7300)
		if got, want := r.started(), "1@7206"; got != want {
			t.Errorf("jobs started %s, want %s", got, want)
		}
		if s := r.m.Status().Runners[0]; !s.PausedUntil.IsZero() || !s.FailsSince.IsZero() {
			t.Errorf("status still says: paused until %s, fails since %s", s.PausedUntil, s.FailsSince)
		}
		for text, want := range map[string]int{
			"the runner is refused": 1, "runner paused": 2, "asking for jobs works again": 1,
			"until=" + r.start.Add(3606*time.Second).Format(time.RFC3339): 1, "reload (SIGHUP)": 2,
		} {
			if got := r.logged(text); got != want {
				t.Errorf("%d log lines with %q, want %d", got, text, want)
			}
		}
	})
}

func TestARefusalNowAndThenPausesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{answer: func(n int) error {
			if n%3 == 2 {
				return nil
			}
			return job.ErrForbidden
		}}
		r := oneQueue(t, 1, q)
		r.at(300)
		if n := r.logged("runner paused"); n != 0 || q.requests() < 90 {
			t.Errorf("paused %d times, %d requests", n, q.requests())
		}
	})
}

func TestFailingServerIsAskedLessAndLess(t *testing.T) {
	t.Parallel()
	for _, err := range []error{job.ErrPushback, errors.New("connection refused")} {
		synctest.Test(t, func(t *testing.T) {
			f := &failing{err: err}
			q := &queue{answer: f.answer}
			q.push(spec(1, 60))
			r := oneQueue(t, 1, q)
			r.at(100)
			if diff := cmp.Diff([]float64{0, 1, 3, 7, 15, 31, 61, 91}, q.askedAt(r.start)); diff != "" {
				t.Errorf("%v: requests at other times (-want +got):\n%s", err, diff)
			}
			f.healed.Store(true)
			r.at(130)
			f.healed.Store(false)
			r.at(185)
			// The job ended at 181, and the back-off starts from the beginning.
			if diff := cmp.Diff([]float64{121, 181, 182, 184}, q.askedAt(r.start)[8:]); diff != "" {
				t.Errorf("%v: requests at other times after it recovered (-want +got):\n%s", err, diff)
			}
			if fails, works := r.logged("asking for jobs fails"), r.logged("asking for jobs works again"); fails != 2 || works != 1 {
				t.Errorf("%v: %d lines about failures and %d about recoveries, want 2 and 1", err, fails, works)
			}
		})
	}
}

// Requests that fail together are one failure.
func TestBackoffCountsMomentsNotRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{answer: (&failing{err: job.ErrPushback}).answer}
		r := oneQueue(t, 3, q, asking(3))
		r.at(8)
		if diff := cmp.Diff([]float64{0, 0, 0, 1, 1, 1, 3, 3, 3, 7, 7, 7}, q.askedAt(r.start)); diff != "" {
			t.Errorf("requests at other times (-want +got):\n%s", diff)
		}
	})
}

func TestFailingRunnerLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := &queue{answer: (&failing{err: job.ErrForbidden}).answer}, &queue{hold: gitlabHold}
		r := startRig(t, machine(1, section("a"), section("b")), map[string]*queue{"a": a, "b": b})
		r.at(20)
		b.push(spec(1, 1))
		r.at(21)
		if got, want := r.started(), "1@20"; got != want {
			t.Errorf("jobs started %s, want %s", got, want)
		}
	})
}

func TestNoConnectionCountsAsRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startRig(t, machine(1, section("a")), nil)
		r.at(100)
		if len(r.connects) != 3 || r.logged("runner paused") != 1 || r.logged("no such server") == 0 {
			t.Errorf("%d tries to connect; the log:\n%s", len(r.connects), r.log.String())
		}
	})
}

func TestReloadEndsThePause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{answer: (&failing{err: job.ErrForbidden}).answer}
		cfg := machine(1, section("a"))
		r := startRig(t, cfg, map[string]*queue{"a": q})
		r.at(100)
		r.m.Reload(cfg)
		r.at(200)
		if diff := cmp.Diff([]float64{0, 3, 6, 100}, q.askedAt(r.start)); diff != "" {
			t.Errorf("requests at other times (-want +got):\n%s", diff)
		}
	})
}

// That a request was canceled at the end says nothing about its server.
func TestGivenUpRequestIsNoFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{hold: gitlabHold}
		r := oneQueue(t, 1, q)
		r.at(10)
		r.stop()
		if _, err := r.wait(); err != nil {
			t.Error(err)
		}
		if n := r.logged(context.Canceled.Error()); n != 0 {
			t.Errorf("%d lines about our own cancellation in the log", n)
		}
	})
}

func TestAdaptiveRequests(t *testing.T) {
	t.Parallel()
	repeat := func(n int, f func(*adaptive)) func(*adaptive) {
		return func(a *adaptive) {
			for range n {
				f(a)
			}
		}
	}
	tests := []struct {
		name        string
		concurrency int
		flags       map[string]bool
		after       func(*adaptive)
		want        int
	}{
		{"begins with one", 10, nil, repeat(0, nil), 1},
		{"grows by a tenth with each job", 10, nil, repeat(8, (*adaptive).gotJob), 2},
		{"not above request_concurrency", 4, nil, repeat(100, (*adaptive).gotJob), 4},
		{"shrinks with empty answers", 4, nil, func(a *adaptive) {
			repeat(100, (*adaptive).gotJob)(a)
			repeat(6, (*adaptive).gotNothing)(a)
		}, 2},
		{"halves when the server pushes back", 8, nil, func(a *adaptive) {
			repeat(100, (*adaptive).gotJob)(a)
			a.pushedBack()
		}, 4},
		{"not below one", 8, nil, repeat(100, (*adaptive).pushedBack), 1},
		{"comes back from the floor", 8, nil, func(a *adaptive) {
			repeat(100, (*adaptive).gotNothing)(a)
			repeat(8, (*adaptive).gotJob)(a)
		}, 2},
		{"flag off", 8, map[string]bool{adaptiveFlag: false}, repeat(100, (*adaptive).gotNothing), 8},
		{"flag on", 8, map[string]bool{adaptiveFlag: true}, repeat(0, nil), 1},
		{"no request_concurrency", 0, map[string]bool{adaptiveFlag: false}, repeat(0, nil), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAdaptive(tt.concurrency, tt.flags)
			tt.after(&a)
			if got := a.limit(); got != tt.want {
				t.Errorf("%d requests at once, want %d", got, tt.want)
			}
		})
	}
}

func TestAdaptiveRequestsInUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{latency: 100 * time.Millisecond}
		for id := range int64(40) {
			q.push(spec(id+1, 600))
		}
		r := oneQueue(t, 40, q, func(r *config.Runner) { r.RequestConcurrency = 4 })
		r.at(10)
		if len(r.runs) != 40 || q.most != 4 {
			t.Errorf("%d of 40 jobs run, fetched by %d requests at once, want 4", len(r.runs), q.most)
		}
	})
}
