package runner

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

// answerGrace is how long a request in flight may still be answered after the context of Run has ended.
const answerGrace = time.Second

// Manager polls for the jobs of all configured runners and runs them. Its methods may be called at any time and from
// any goroutine; Run once.
type Manager struct {
	connect func(*config.Runner) (Server, error)
	run     func(ctx context.Context, slot Slot, spec *job.Spec)
	verify  func(ctx context.Context, r *config.Runner) error
	log     *slog.Logger
	wake    chan struct{} // something changed; has room for one

	mu       sync.Mutex
	cfg      *config.Config
	slots    slots
	pollers  []*poller
	turn     uint64 // of the last request
	trying   int    // tries of checks that are under way
	draining bool
	stopping bool
}

// New makes a manager; nothing happens before Run.
func New(o Options) *Manager {
	m := &Manager{connect: o.Connect, run: o.Run, verify: o.Verify, log: o.Log, wake: make(chan struct{}, 1)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.apply(o.Config)
	return m
}

// Run polls and runs jobs until ctx ends or, after Drain, nothing is left to do. When ctx ends, the jobs' contexts end
// with the cause job.ErrShutdown, and Run waits for them for shutdown_timeout at most; jobs that take longer are its
// error.
func (m *Manager) Run(ctx context.Context) error {
	jobs, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		requests, tries, wakeAt, done := m.plan(ctx, time.Now())
		if done {
			return nil
		}
		for _, t := range tries {
			go m.attempt(t)
		}
		for _, q := range requests {
			go m.serve(ctx, jobs, q)
		}
		timer.Stop()
		if !wakeAt.IsZero() {
			timer.Reset(time.Until(wakeAt))
		}
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-timer.C:
		}
	}
	return m.shutdown(abort)
}

// Drain ends the polling; Run returns when the last job has ended. Requests in flight are not given up: a job that
// comes back with one is run.
func (m *Manager) Drain() {
	m.mu.Lock()
	m.draining = true
	m.excuse()
	m.mu.Unlock()
	m.poke()
}

// excuse ends all checks: who takes no more jobs need not pass any.
func (m *Manager) excuse() {
	for _, p := range m.pollers {
		p.excuse()
	}
}

// plan decides who asks now and which checks are tried, when to look again unless something happens before (zero = then only), and whether
// everything is done.
func (m *Manager) plan(ctx context.Context, now time.Time) (requests []*request, tries []*trial, wakeAt time.Time, done bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draining {
		return nil, nil, time.Time{}, m.idle()
	}
	tries, wakeAt = m.tries(ctx, now)
	for p := m.first(now); p != nil; p = m.first(now) {
		m.turn++
		p.turn = m.turn
		requests = append(requests, p.ask(now))
	}
	for _, p := range m.pollers {
		if t := p.wakeAt(); t.After(now) && !p.removed {
			wakeAt = earlier(wakeAt, t)
		}
		_, held := p.young(now)
		wakeAt = earlier(wakeAt, held)
	}
	return requests, tries, wakeAt, false
}

// first returns who asks next: of those that may and have a slot for the job, the one that asked longest ago.
func (m *Manager) first(now time.Time) *poller {
	var best *poller
	for _, p := range m.pollers {
		if p.due(now) && m.room(p, now) > 0 && (best == nil || p.turn < best.turn) {
			best = p
		}
	}
	return best
}

// room is the number of slots that are left for a further request of p. All its own requests need one, those of the
// others only while they are young: see the package comment.
func (m *Manager) room(p *poller, now time.Time) int {
	n := m.slots.free() - len(p.requests)
	for _, other := range m.pollers {
		if other != p {
			young, _ := other.young(now)
			n -= young
		}
	}
	return n
}

// serve makes one request and runs the job that it brings.
func (m *Manager) serve(ctx, jobs context.Context, q *request) {
	reqCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(answerGrace):
		case <-reqCtx.Done():
		}
		cancel()
	})
	spec, err := q.conn.requestJob(reqCtx)
	stop()
	cancel()
	pl, ready := m.answered(q, spec, err)
	if spec == nil {
		return
	}
	defer m.ended(q.poller, pl)
	<-ready
	m.runJob(jobs, Slot{Runner: q.runner, ID: pl.id, ProjectID: pl.projectID, Leave: func() { m.leave(pl) }}, spec)
}

// leave frees the numbers of a job's slot, not the slot.
func (m *Manager) leave(pl *place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pl.left = true
}

// answered books what a request brought. A job may start when ready is closed.
func (m *Manager) answered(q *request, spec *job.Spec, err error) (pl *place, ready <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.poke()
	p := q.poller
	if m.stopping && spec == nil {
		err = nil // most likely that we gave it up
	}
	p.answered(q, spec, err, time.Now(), m.interval())
	if spec == nil {
		m.forget()
		return nil, nil
	}
	log := p.log.With("job", spec.ID, "project", spec.JobInfo.ProjectFullPath)
	log.Info("got a job", "name", spec.JobInfo.Name)
	pl, ready = p.places.take(spec.JobInfo.ProjectID), m.slots.take()
	if waiting := len(m.slots.waiting); waiting > 0 {
		log.Warn("the job waits for a slot", "concurrent", m.slots.total, "waiting", waiting,
			"hint", "the server answered a held request with a job; raise concurrent if this happens often")
	}
	return pl, ready
}

// runJob keeps a panic to the job it is in. The job is not reported then: what is kept of it on disk is, at the next
// start, as after a crash.
func (m *Manager) runJob(ctx context.Context, slot Slot, spec *job.Spec) {
	defer func() {
		if r := recover(); r != nil {
			m.log.Error("a job panicked; please report this as a bug", "runner", slot.Runner.Name, "job", spec.ID,
				"panic", r, "stack", string(debug.Stack()))
		}
	}()
	m.run(ctx, slot, spec)
}

func (m *Manager) ended(p *poller, pl *place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.poke()
	m.slots.release()
	p.jobEnded(pl, time.Now(), m.interval())
	m.forget()
}

// shutdown aborts the jobs and waits for them, and for the last answers.
func (m *Manager) shutdown(abort context.CancelCauseFunc) error {
	abort(job.ErrShutdown)
	m.mu.Lock()
	m.stopping = true
	m.excuse()
	m.slots.openAll()
	running, timeout := m.slots.running, m.cfg.ShutdownTimeout
	m.mu.Unlock()
	if running > 0 {
		m.log.Warn("shutting down, jobs are aborted", "jobs", running, "timeout", timeout)
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		m.mu.Lock()
		idle := m.idle()
		running = m.slots.running
		m.mu.Unlock()
		if idle {
			return nil
		}
		select {
		case <-m.wake:
		case <-deadline.C:
			if running == 0 {
				return nil // only requests are under way, and they are given up
			}
			return fmt.Errorf("shut down: %d jobs have not ended within %s (shutdown_timeout)", running, timeout)
		}
	}
}

// idle reports that no request, no job and no check is under way.
func (m *Manager) idle() bool {
	for _, p := range m.pollers {
		if !p.idle() {
			return false
		}
	}
	return true
}

// interval is check_interval.
func (m *Manager) interval() time.Duration { return max(m.cfg.CheckInterval, minWait) }

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
