package runner

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

func strict(r *config.Runner) { r.StrictCheckInterval = true }

func limited(n int) func(*config.Runner) { return func(r *config.Runner) { r.Limit = n } }

func asking(n int) func(*config.Runner) {
	return func(r *config.Runner) {
		r.RequestConcurrency = n
		r.FeatureFlags = map[string]bool{adaptiveFlag: false}
	}
}

func TestJobsComeOneAfterTheOther(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		concurrent int
		change     []func(*config.Runner)
		seconds    int // of each job
		want       string
	}{
		{"at once while there are slots", 3, nil, 60, "1@0 2@0 3@0"},
		{"a free slot is used at once", 1, nil, 5, "1@0 2@5 3@10"},
		{"limit of the runner", 3, []func(*config.Runner){limited(2)}, 5, "1@0 2@0 3@5"},
		{"strict_check_interval", 3, []func(*config.Runner){strict}, 60, "1@0 2@3 3@6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := &queue{}
				q.push(spec(1, tt.seconds), spec(2, tt.seconds), spec(3, tt.seconds))
				r := oneQueue(t, tt.concurrent, q, tt.change...)
				r.at(20)
				if got := r.started(); got != tt.want {
					t.Errorf("jobs started %s, want %s", got, tt.want)
				}
			})
		})
	}
}

func TestRequestsToAnEmptyQueue(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		queue  *queue
		change []func(*config.Runner)
		until  float64
		want   []float64
	}{
		// The first three find out whether the server holds requests.
		{"check_interval without long polling", &queue{}, nil, 9, []float64{0, 0, 0, 3, 6, 9}},
		{"strict_check_interval", &queue{}, []func(*config.Runner){strict}, 9, []float64{0, 3, 6, 9}},
		{"long polling asks again at once", &queue{hold: gitlabHold}, nil, 110, []float64{0, 50, 100}},
		{"long polling and strict_check_interval", &queue{hold: gitlabHold}, []func(*config.Runner){strict}, 110, []float64{0, 53, 106}},
		{"request_concurrency", &queue{hold: gitlabHold}, []func(*config.Runner){asking(2)}, 60, []float64{0, 0, 50, 50}},
		{"adaptive request_concurrency is one without jobs", &queue{hold: gitlabHold}, []func(*config.Runner){func(r *config.Runner) { r.RequestConcurrency = 2 }}, 60, []float64{0, 50}},
		{"taken by another", &queue{answer: func(n int) error { return [...]error{job.ErrConflict, job.ErrConflict, nil, nil, nil, nil}[n] }}, nil, 3, []float64{0, 1, 2, 2, 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := oneQueue(t, 4, tt.queue, tt.change...)
				r.at(tt.until)
				if diff := cmp.Diff(tt.want, tt.queue.askedAt(r.start)); diff != "" {
					t.Errorf("requests at other times (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestRequestsAreCloserWhileActive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		r := oneQueue(t, 2, q)
		r.at(10)
		q.push(spec(1, 20)) // fetched at 12, ends at 32
		asked := func(from, to float64) int {
			r.at(from + 0.5)
			before := q.requests()
			r.at(to + 0.5)
			return q.requests() - before
		}
		if got := asked(13, 23); got != 10 {
			t.Errorf("%d requests in ten seconds after a job came, want 10", got)
		}
		if got := asked(80, 90); got != 10 {
			t.Errorf("%d requests in ten seconds within a minute after a job's end, want 10", got)
		}
		if got := asked(100, 130); got != 10 {
			t.Errorf("%d requests in thirty seconds without a job, want 10", got)
		}
	})
}

func TestTheEndOfAJobShortensTheWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		cfg := machine(2, section("a"))
		cfg.CheckInterval = 30 * time.Second
		r := startRig(t, cfg, map[string]*queue{"a": q})
		r.at(1)
		q.push(spec(1, 101)) // fetched at 30, ends at 131
		r.at(131)
		q.push(spec(2, 1))
		r.at(150)
		if got, want := r.started(), "1@30 2@141"; got != want {
			t.Errorf("jobs started %s, want %s", got, want)
		}
	})
}

func TestLongPollBringsAJobAtOnce(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			q := &queue{hold: gitlabHold, direct: direct}
			r := oneQueue(t, 2, q)
			for i, at := range []float64{20, 20.4, 70.3, 200} {
				r.at(at)
				q.push(spec(int64(i+1), 60))
			}
			r.at(300)
			if got, want := r.started(), "1@20 2@20.4 3@80 4@200"; got != want {
				t.Errorf("direct=%v: jobs started %s, want %s", direct, got, want)
			}
		})
	}
}

func TestSlotNumbers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{hold: gitlabHold}
		r := oneQueue(t, 4, q)
		for i, project := range []int64{7, 7, 8, 7} {
			s := spec(int64(i+1), 3600)
			s.JobInfo.ProjectID = project
			if i == 1 {
				s.RunnerInfo.Timeout = 10
			}
			q.push(s)
		}
		r.at(20)
		s := spec(5, 1)
		s.JobInfo.ProjectID = 8
		q.push(s)
		r.at(21)
		got := map[int64][2]int{}
		for _, x := range r.runs {
			got[x.ID] = x.Slot
		}
		want := map[int64][2]int{1: {0, 0}, 2: {1, 1}, 3: {2, 0}, 4: {3, 2}, 5: {1, 1}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("slots (-want +got):\n%s", diff)
		}
	})
}

func TestUnsupportedRunnersAreSkipped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := &queue{}, &queue{}
		b.push(spec(1, 1))
		r := startRig(t, machine(1, section("a", func(r *config.Runner) { r.Unsupported = "no such executor" }), section("b")),
			map[string]*queue{"a": a, "b": b})
		r.at(10)
		if a.requests() != 0 || r.started() != "1@0" {
			t.Errorf("%d requests for the unsupported runner; jobs started %s", a.requests(), r.started())
		}
	})
}
