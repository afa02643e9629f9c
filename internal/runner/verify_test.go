package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
)

// trials stand in for jobs of our own: what they say and how long they take is set, who tried when is noted.
type trials struct {
	start time.Time
	takes time.Duration

	mu       sync.Mutex
	fails    map[string]error // by the runner's name
	begun    []string         // "name@seconds"
	now      int
	most     int
	canceled int
}

func (v *trials) verify(ctx context.Context, r *config.Runner) error {
	v.mu.Lock()
	v.begun = append(v.begun, fmt.Sprintf("%s@%g", r.Name, time.Since(v.start).Seconds()))
	v.now++
	v.most = max(v.most, v.now)
	v.mu.Unlock()
	var err error
	select {
	case <-time.After(v.takes):
	case <-ctx.Done():
		<-time.After(time.Second) // cleaning up
		err = ctx.Err()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now--
	if err != nil {
		v.canceled++
		return err
	}
	if r.Name == "panics" {
		panic("a bug")
	}
	return v.fails[r.Name]
}

func (v *trials) say(name string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fails[name] = err
}

func (v *trials) tried() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return fmt.Sprint(v.begun)
}

func verifying(timeout time.Duration) func(*config.Runner) {
	return func(r *config.Runner) {
		r.Experimental.BootVerify = config.BootVerify{Enabled: true, Timeout: timeout, AcquireMinBackoff: time.Second, AcquireMaxBackoff: 4 * time.Second}
	}
}

// startVerified is a rig whose runners have to pass checks first.
func startVerified(t *testing.T, v *trials, cfg *config.Config, queues map[string]*queue) *rig {
	t.Helper()
	v.start, v.fails = time.Now(), map[string]error{}
	for _, r := range cfg.Runners {
		if r.Name == "broken" {
			v.fails["broken"] = errors.New("no such image")
		}
	}
	return startRig(t, cfg, queues, func(o *Options) { o.Verify = v.verify })
}

// TestVerify: a runner asks for jobs once a job of our own has succeeded, which is tried with growing pauses; others do not wait for it.
func TestVerify(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken, plain := &queue{}, &queue{}
		broken.push(spec(1, 1))
		plain.push(spec(2, 1))
		v := &trials{}
		r := startVerified(t, v, machine(4, section("broken", verifying(10*time.Second)), section("plain")), map[string]*queue{"broken": broken, "plain": plain})
		r.at(9)
		if s := r.m.Status(); s.Runners[0].Checked || !s.Runners[1].Checked {
			t.Errorf("status: %+v", s)
		}
		if broken.requests() != 0 || r.started() != "2@0" {
			t.Errorf("%d requests, jobs started %s", broken.requests(), r.started())
		}
		if n := r.logged("no job of our own succeeded within"); n != 0 {
			t.Errorf("%d complaints before the time", n)
		}
		r.at(30)
		if got, want := v.tried(), "[broken@0 broken@1 broken@3 broken@7 broken@11 broken@15 broken@19 broken@23 broken@27]"; got != want {
			t.Errorf("tried %s, want %s", got, want)
		}
		if warned, late := r.logged("a job of our own fails"), r.logged("no job of our own succeeded within"); warned != 1 || late != 1 {
			t.Errorf("%d warnings, %d complaints, want one of each", warned, late)
		}
		v.say("broken", nil)
		r.at(32)
		if got, want := r.started(), "2@0 1@31"; got != want {
			t.Errorf("jobs started %s, want %s", got, want)
		}
		if s := r.m.Status(); !s.Runners[0].Checked || r.logged("asking for others now") != 1 {
			t.Errorf("status: %+v", s)
		}
	})
}

// TestVerifyBound: no more checks at once than jobs may run, and one that hangs does not keep the others from theirs for ever.
func TestVerifyBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := &queue{}, &queue{}
		v := &trials{takes: 5 * time.Second}
		r := startVerified(t, v, machine(1, section("panics", verifying(time.Minute)), section("a", verifying(time.Minute)), section("b", verifying(time.Minute))), map[string]*queue{"a": a, "b": b})
		r.at(16)
		if got, want := v.tried(), "[panics@0 a@5 b@10 panics@15]"; got != want || v.most != 1 {
			t.Errorf("tried %s, want %s; %d at once", got, want, v.most)
		}
		if r.logged("it panicked") != 1 {
			t.Errorf("the log:\n%s", r.log.String())
		}
		r.stop()
		r.wait()
	})
}

// TestVerifyReload: a changed section is tried again, also one that has passed; a renewed token is not, nor is what has no check any more.
func TestVerifyReload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		v := &trials{takes: time.Second}
		checked := verifying(time.Minute)
		r := startVerified(t, v, machine(2, section("a", checked)), map[string]*queue{"a": q, "b": q})
		r.at(2)
		r.m.Reload(machine(2, section("a", checked, func(r *config.Runner) { r.Token = "b" })))
		r.at(4)
		if got, want := v.tried(), "[a@0]"; got != want {
			t.Errorf("tried %s, want %s", got, want)
		}
		changed := func(r *config.Runner) { r.Token, r.Shell = "b", "sh" }
		v.say("a", errors.New("no shell"))
		r.m.Reload(machine(2, section("a", checked, changed)))
		r.at(4.5)
		q.push(spec(1, 1))
		r.at(5.5)
		r.m.Reload(machine(2)) // it is removed and comes back before its next try
		r.m.Reload(machine(2, section("a", checked, changed)))
		r.at(9)
		if got, want := v.tried(), "[a@0 a@4 a@5.5 a@7.5]"; got != want || r.started() != "" {
			t.Errorf("tried %s, want %s; jobs %s", got, want, r.started())
		}
		r.m.Reload(machine(2, section("a", changed)))
		r.at(10)
		if got, want := r.started(), "1@9"; got != want {
			t.Errorf("jobs started %s, want %s", got, want)
		}
		r.m.Reload(machine(2, section("a", checked)))
		r.at(10.5)
		r.m.Reload(machine(2)) // in the middle of a try
		r.at(13)
		if s := r.m.Status(); len(s.Runners) != 0 || v.canceled != 1 {
			t.Errorf("status: %+v, %d canceled", s, v.canceled)
		}
	})
}

// TestVerifyEnds: who is told to end in the middle of a check ends it, and waits until it has cleaned up.
func TestVerifyEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*rig){"drain": func(r *rig) { r.m.Drain() }, "stop": func(r *rig) { r.stop() }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				v := &trials{takes: time.Hour}
				r := startVerified(t, v, machine(1, section("a", verifying(time.Hour))), map[string]*queue{"a": {}})
				r.at(5)
				end(r)
				if at, err := r.wait(); at != 6 || err != nil || v.canceled != 1 {
					t.Errorf("ended after %g s: %v; %d canceled", at, err, v.canceled)
				}
				if r.logged("fails") != 0 {
					t.Errorf("the log:\n%s", r.log.String())
				}
			})
		})
	}
}
