package runner

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"runtime/debug"
	"slices"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
)

// bootCheck is what a runner with boot_verify has to pass before it asks for jobs. The manager's mutex guards it.
type bootCheck struct {
	began  time.Time // the first try; zero = none yet
	next   time.Time // no try before
	wait   time.Duration
	told   string             // what was said of the last failure
	late   bool               // no try succeeded in time, which was said
	cancel context.CancelFunc // ends the try that is under way
}

// trial is one attempt to pass a check.
type trial struct {
	poller *poller
	check  *bootCheck
	runner *config.Runner
	log    *slog.Logger
	ctx    context.Context
}

// require makes a runner pass a check before it asks again, if its section says so. What came of an earlier one counts for nothing.
func (m *Manager) require(p *poller, r *config.Runner) {
	p.excuse()
	if v := r.Experimental.BootVerify; v.Enabled && m.verify != nil && !m.draining && !m.stopping {
		p.check = &bootCheck{wait: v.AcquireMinBackoff, cancel: func() {}}
	}
}

// excuse ends a check.
func (p *poller) excuse() {
	if p.check != nil {
		p.check.cancel()
		p.check = nil
	}
}

// tries begins what is due of the checks, as many at once as jobs may run, and says when to look again. Who waited longest comes first.
func (m *Manager) tries(ctx context.Context, now time.Time) (trials []*trial, wakeAt time.Time) {
	var due []*poller
	for _, p := range m.pollers {
		if c := p.check; c == nil || p.removed || p.trying {
			continue
		} else if now.Before(c.next) {
			wakeAt = earlier(wakeAt, c.next)
		} else {
			due = append(due, p)
		}
	}
	slices.SortStableFunc(due, func(a, b *poller) int { return a.check.next.Compare(b.check.next) })
	for _, p := range due[:min(len(due), max(0, m.slots.total-m.trying))] {
		c := p.check
		if c.began.IsZero() {
			c.began = now
			p.log.Info("trying a job of our own before asking for others (boot_verify)")
		}
		t := &trial{poller: p, check: c, runner: p.runner, log: p.log}
		t.ctx, c.cancel = context.WithCancel(ctx)
		p.trying = true
		m.trying++
		trials = append(trials, t)
	}
	return trials, wakeAt
}

// attempt makes a try and draws the conclusions.
func (m *Manager) attempt(t *trial) {
	err := m.verified(t)
	givenUp := t.ctx.Err() != nil
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.poke()
	t.check.cancel()
	p, c, v := t.poller, t.check, t.runner.Experimental.BootVerify
	p.trying = false
	m.trying--
	m.forget()
	if givenUp || p.check != c {
		return
	}
	now := time.Now()
	took := now.Sub(c.began).Round(time.Millisecond)
	if err == nil {
		p.check = nil
		p.log.Info("a job of our own succeeded: asking for others now (boot_verify)", "after", took)
		return
	}
	c.next = now.Add(c.wait)
	switch {
	case !c.late && took >= v.Timeout:
		c.late = true
		p.log.Error("no job of our own succeeded within the timeout of boot_verify: the runner asks for no jobs until one does", "error", err, "timeout", v.Timeout,
			"hint", fmt.Sprintf("correct what the error says; it is tried again every %s, and at once when this [[runners]] changes", v.AcquireMaxBackoff))
	case err.Error() != c.told:
		p.log.Warn("a job of our own fails: asking for no others until one succeeds (boot_verify)", "error", err, "again_in", c.wait)
	}
	c.told = err.Error()
	c.wait = min(2*c.wait, v.AcquireMaxBackoff)
}

// verified makes an error of a panic.
func (m *Manager) verified(t *trial) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it panicked; please report this as a bug: %v", r)
			t.log.Error("a job of our own panicked", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	return m.verify(t.ctx, t.runner)
}

// sameButCredentials reports whether what was found out by jobs of the one section holds for the other: a renewed token
// changes nothing about them.
func sameButCredentials(a, b *config.Runner) bool {
	x, y := *a, *b
	for _, r := range []*config.Runner{&x, &y} {
		r.Pos, r.ID, r.Token, r.TokenObtainedAt, r.TokenExpiresAt = config.Position{}, 0, "", time.Time{}, time.Time{}
	}
	return reflect.DeepEqual(x, y)
}
