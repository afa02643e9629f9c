package runner

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/slipway-ci/slipway/internal/config"
)

func TestHeldPollBlocksNoOther(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		concurrent int
	}{
		{"a slot for each", 2},
		{"one slot for both", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, b := &queue{hold: gitlabHold}, &queue{hold: gitlabHold}
				r := startRig(t, machine(tt.concurrent, section("a"), section("b")), map[string]*queue{"a": a, "b": b})
				for i, step := range []struct {
					at float64
					q  *queue
				}{{10, b}, {20, a}, {33, b}, {46, b}, {70, a}, {90, b}} {
					r.at(step.at)
					step.q.push(spec(int64(i+1), 5))
				}
				r.at(200)
				if got, want := r.started(), "1@10 2@20 3@33 4@46 5@70 6@90"; got != want {
					t.Errorf("jobs started %s, want %s", got, want)
				}
				if n := r.logged("waits for a slot"); n != 0 {
					t.Errorf("%d jobs were taken without a slot", n)
				}
				if a.gaveUp+b.gaveUp != 0 {
					t.Errorf("%d requests canceled: their jobs could be lost", a.gaveUp+b.gaveUp)
				}
			})
		})
	}
}

// Both have work all the time and there is one slot: they take turns, and nothing is taken that cannot start.
func TestTurnsWithOneSlot(t *testing.T) {
	t.Parallel()
	for _, hold := range []time.Duration{0, gitlabHold} {
		synctest.Test(t, func(t *testing.T) {
			a, b := &queue{hold: hold}, &queue{hold: hold}
			for i := range int64(5) {
				a.push(spec(1+i, 10))
				b.push(spec(11+i, 10))
			}
			r := startRig(t, machine(1, section("a"), section("b")), map[string]*queue{"a": a, "b": b})
			r.at(100)
			if got, want := r.started(), "1@0 11@10 2@20 12@30 3@40 13@50 4@60 14@70 5@80 15@90"; got != want {
				t.Errorf("jobs started %s, want %s", got, want)
			}
			if r.mostAll != 1 {
				t.Errorf("%d jobs at once", r.mostAll)
			}
		})
	}
}

// A burst for one runner gets all slots although the requests of the others are held.
func TestHeldPollsLeaveTheirSlotsToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b, c := &queue{hold: gitlabHold}, &queue{hold: gitlabHold}, &queue{hold: gitlabHold}
		r := startRig(t, machine(4, section("a"), section("b"), section("c")), map[string]*queue{"a": a, "b": b, "c": c})
		r.at(10)
		for id := range int64(5) {
			a.push(spec(id+1, 60))
		}
		b.push(spec(9, 60))
		r.at(12)
		if got := len(r.runs); got != 4 {
			t.Errorf("%d jobs run, want 4: %s", got, r.started())
		}
		if n := r.m.Status().Waiting; n != 0 {
			t.Errorf("%d jobs were taken without a slot", n)
		}
	})
}

// A server that answers held requests with jobs can hand out more than there are slots for. None is lost, and none
// runs beside the limit.
func TestJobWithoutSlotWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := &queue{hold: gitlabHold, direct: true}, &queue{hold: gitlabHold, direct: true}
		r := startRig(t, machine(1, section("a"), section("b")), map[string]*queue{"a": a, "b": b})
		r.at(10)
		a.push(spec(1, 30))
		r.at(11)
		b.push(spec(2, 30), spec(3, 30))
		r.at(12)
		if s := r.m.Status(); s.Running != 1 || s.Waiting != 1 {
			t.Errorf("%d jobs run and %d wait, want 1 and 1", s.Running, s.Waiting)
		}
		if n := r.logged("the job waits for a slot"); n != 1 {
			t.Errorf("%d lines about it in the log", n)
		}
		a.push(spec(4, 30))
		r.at(130)
		if got, want := r.started(), "1@10 2@40 4@70 3@100"; got != want {
			t.Errorf("jobs started %s, want %s", got, want)
		}
	})
}

func TestLimitsHold(t *testing.T) {
	type arrival struct {
		after   time.Duration
		queue   int
		seconds int
	}
	rapid.Check(t, func(rt *rapid.T) {
		concurrent := rapid.IntRange(1, 5).Draw(rt, "concurrent")
		runners := rapid.IntRange(1, 4).Draw(rt, "runners")
		gitlab := rapid.Bool().Draw(rt, "all servers behave like GitLab")
		queues, sections := map[string]*queue{}, []*config.Runner(nil)
		for i := range runners {
			name := fmt.Sprint("r", i)
			q := &queue{
				hold:    rapid.SampledFrom([]time.Duration{0, gitlabHold}).Draw(rt, "hold"),
				latency: rapid.SampledFrom([]time.Duration{0, 50, 400, 900}).Draw(rt, "latency") * time.Millisecond,
			}
			if !gitlab {
				q.direct = rapid.Bool().Draw(rt, "direct")
				q.latency *= 3
			}
			queues[name] = q
			sections = append(sections, section(name, func(r *config.Runner) {
				r.Limit = rapid.IntRange(0, 3).Draw(rt, "limit")
				r.RequestConcurrency = rapid.IntRange(1, 3).Draw(rt, "request_concurrency")
				r.FeatureFlags = map[string]bool{adaptiveFlag: rapid.Bool().Draw(rt, "adaptive")}
				r.StrictCheckInterval = rapid.Bool().Draw(rt, "strict")
			}))
		}
		arrivals := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) arrival {
			return arrival{
				after:   time.Duration(rapid.IntRange(0, 8000).Draw(rt, "after ms")) * time.Millisecond,
				queue:   rapid.IntRange(0, runners-1).Draw(rt, "queue"),
				seconds: rapid.IntRange(1, 90).Draw(rt, "seconds"),
			}
		}), 0, 40).Draw(rt, "arrivals")

		var faults []string
		fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
		synctest.Test(t, func(t *testing.T) {
			r := startRig(t, machine(concurrent, sections...), queues)
			for i, a := range arrivals {
				<-time.After(a.after)
				queues[fmt.Sprint("r", a.queue)].push(spec(int64(i+1), a.seconds))
			}
			<-time.After(time.Hour)
			synctest.Wait()
			if r.mostAll > concurrent {
				fault("%d jobs at once with concurrent = %d", r.mostAll, concurrent)
			}
			for _, s := range sections {
				q := queues[s.Name]
				if s.Limit > 0 && r.mostOf[s.Name] > s.Limit {
					fault("%d jobs of a runner at once with limit = %d", r.mostOf[s.Name], s.Limit)
				}
				if q.most > s.RequestConcurrency {
					fault("%d requests at once with request_concurrency = %d", q.most, s.RequestConcurrency)
				}
				if q.gaveUp > 0 {
					fault("%d requests canceled", q.gaveUp)
				}
			}
			ran := map[int64]int{}
			for _, x := range r.runs {
				ran[x.ID]++
			}
			for i := range arrivals {
				if ran[int64(i+1)] != 1 {
					fault("job %d ran %d times", i+1, ran[int64(i+1)])
				}
			}
			if n := r.logged("waits for a slot"); gitlab && n > 0 {
				fault("%d jobs taken without a slot", n)
			}
			if s := r.m.Status(); s.Running != 0 || s.Waiting != 0 {
				fault("in the end %d jobs run and %d wait", s.Running, s.Waiting)
			}
		})
		if len(faults) > 0 {
			rt.Fatal(faults)
		}
	})
}
