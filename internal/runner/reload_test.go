package runner

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

func TestReloadConcurrent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		for id := range int64(6) {
			q.push(spec(id+1, 30))
		}
		r := oneQueue(t, 1, q)
		r.at(10)
		r.m.Reload(machine(3, section("a")))
		r.at(20)
		if got, want := r.started(), "1@0 2@10 3@10"; got != want {
			t.Errorf("after concurrent was raised, jobs started %s, want %s", got, want)
		}
		r.m.Reload(machine(1, section("a")))
		r.at(69)
		if got, want := r.started(), "1@0 2@10 3@10 4@40"; got != want {
			t.Errorf("after concurrent was lowered, jobs started %s, want %s", got, want)
		}
		if len(r.connects) != 1 {
			t.Errorf("connected %d times", len(r.connects))
		}
	})
}

func TestReloadLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		q.push(spec(1, 30), spec(2, 30), spec(3, 30))
		r := oneQueue(t, 3, q, limited(1))
		r.at(10)
		r.m.Reload(machine(3, section("a", limited(2))))
		r.at(29)
		if got, want := r.started(), "1@0 2@10"; got != want {
			t.Errorf("jobs started %s, want %s", got, want)
		}
		if got := r.runs[len(r.runs)-1].Slot[0]; got != 1 {
			t.Errorf("slot %d of the second job, want 1", got)
		}
	})
}

func TestReloadKeepsThePollOfAnUnchangedRunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := &queue{hold: gitlabHold}, &queue{hold: gitlabHold}
		r := startRig(t, machine(2, section("a")), map[string]*queue{"a": a, "b": b})
		r.at(10)
		moved := section("a", func(r *config.Runner) { r.Pos.Line = 40 })
		r.m.Reload(machine(2, section("b"), moved))
		r.at(20)
		if a.requests() != 1 || a.gaveUp != 0 || b.requests() != 1 {
			t.Errorf("%d requests of the old runner, of which %d canceled, %d of the new one", a.requests(), a.gaveUp, b.requests())
		}
		if diff := cmp.Diff([]string{"a", "b"}, r.connects); diff != "" {
			t.Errorf("connections (-want +got):\n%s", diff)
		}
		if r.logged("runner added") != 1 || r.logged("runner changed") != 0 {
			t.Errorf("the log:\n%s", r.log.String())
		}
	})
}

func TestReloadRemovesARunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{hold: gitlabHold, direct: true}
		q.push(spec(1, 60))
		r := oneQueue(t, 2, q)
		r.at(10)
		r.m.Reload(machine(2))
		r.m.Reload(machine(2))
		q.push(spec(2, 60), spec(3, 1)) // the request in flight brings one of them
		r.at(30)
		if s := r.m.Status(); len(s.Runners) != 1 || !s.Runners[0].Removed || s.Running != 2 {
			t.Errorf("status: %+v", s)
		}
		r.at(100)
		if got, want := r.started(), "1@0 2@10"; got != want || r.runs[0].End != nil {
			t.Errorf("jobs started %s, want %s; the first ended with %v", got, want, r.runs[0].End)
		}
		if s := r.m.Status(); len(s.Runners) != 0 {
			t.Errorf("the removed runner is still there: %+v", s)
		}
		if n := r.logged("runner removed"); n != 1 {
			t.Errorf("%d log lines about the removal", n)
		}
		r.m.Reload(machine(2, section("a")))
		r.at(101)
		if got, want := r.started(), "1@0 2@10 3@100"; got != want {
			t.Errorf("jobs started %s, want %s", got, want)
		}
	})
}

func TestReloadBringsARunnerBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		q.push(spec(1, 60))
		cfg := machine(2, section("a", limited(1)))
		r := startRig(t, cfg, map[string]*queue{"a": q})
		r.at(10)
		q.push(spec(2, 60), spec(3, 60))
		r.m.Reload(machine(2))
		r.at(20)
		r.m.Reload(cfg)
		r.at(70)
		if got, want := r.started(), "1@0 2@60"; got != want {
			t.Errorf("jobs started %s, want %s: the job of before counts for the limit", got, want)
		}
	})
}

// The request with the old token is held for long; the new one is used at once, and the slots of running jobs stay.
func TestReloadToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		renewed := func(r *config.Runner) { r.Token = "b" }
		a, b := &queue{hold: gitlabHold}, &queue{}
		r := startRig(t, machine(3, section("a")), map[string]*queue{"a": a, "b": b})
		a.push(spec(1, 600))
		r.at(10)
		b.push(spec(2, 600))
		r.m.Reload(machine(3, section("a", renewed)))
		r.at(20)
		if got, want := r.started(), "1@0 2@10"; got != want {
			t.Fatalf("jobs started %s, want %s", got, want)
		}
		if got, want := r.runs[1].Slot, [2]int{1, 1}; got != want {
			t.Errorf("slot %v, want %v", got, want)
		}
		asked := a.requests()
		r.at(100)
		if a.requests() != asked || a.gaveUp != 0 {
			t.Errorf("%d more requests with the old token, %d canceled", a.requests()-asked, a.gaveUp)
		}
	})
}

// What the old token is told no longer matters.
func TestReloadForgetsRefusalsOfTheOldToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &queue{latency: 50e9, answer: func(int) error { return job.ErrForbidden }}
		b := &queue{}
		r := startRig(t, machine(2, section("a")), map[string]*queue{"a": a, "b": b})
		r.at(10)
		r.m.Reload(machine(2, section("a", func(r *config.Runner) { r.Token, r.UnhealthyRequestsLimit = "b", 1 })))
		r.at(60)
		if r.logged("paused") != 0 || !r.m.Status().Runners[0].FailsSince.IsZero() {
			t.Errorf("the log:\n%s", r.log.String())
		}
	})
}

func TestMatch(t *testing.T) {
	t.Parallel()
	mk := func(url, token, name string, id int64) *config.Runner {
		return &config.Runner{URL: url, Token: config.Secret(token), Name: name, ID: id}
	}
	tests := []struct {
		name     string
		old, new []*config.Runner
		want     []int // of the old; -1 = none
	}{
		{"order", []*config.Runner{mk("u", "1", "a", 0), mk("u", "2", "b", 0)}, []*config.Runner{mk("u", "2", "b", 0), mk("u", "1", "a", 0)}, []int{1, 0}},
		{"another server", []*config.Runner{mk("u", "1", "a", 1)}, []*config.Runner{mk("v", "1", "a", 1)}, []int{-1}},
		{"renewed token", []*config.Runner{mk("u", "1", "a", 5)}, []*config.Runner{mk("u", "2", "b", 5)}, []int{0}},
		{"same name", []*config.Runner{mk("u", "1", "a", 0)}, []*config.Runner{mk("u", "2", "a", 6)}, []int{0}},
		{"token before name", []*config.Runner{mk("u", "1", "a", 0), mk("u", "2", "b", 0)}, []*config.Runner{mk("u", "2", "a", 0), mk("u", "3", "b", 0)}, []int{1, -1}},
		{"one token twice", []*config.Runner{mk("u", "1", "a", 0)}, []*config.Runner{mk("u", "1", "a", 0), mk("u", "1", "b", 0)}, []int{0, -1}},
		{"nothing in common", []*config.Runner{mk("u", "1", "", 0)}, []*config.Runner{mk("u", "2", "", 0)}, []int{-1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var pollers []*poller
			at := map[*poller]int{nil: -1}
			for i, r := range tt.old {
				p := &poller{runner: r}
				pollers, at[p] = append(pollers, p), i
			}
			var got []int
			for _, p := range match(pollers, tt.new) {
				got = append(got, at[p])
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("matched (-want +got):\n%s", diff)
			}
		})
	}
}
