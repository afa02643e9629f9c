package runner

import (
	"time"

	"github.com/slipway-ci/slipway/internal/config"
)

// Status is what a manager is doing at one moment.
type Status struct {
	Concurrent int
	Running    int  // jobs
	Waiting    int  // jobs that were taken but have no slot yet
	Draining   bool // no more jobs are taken
	Stopping   bool // those that run are aborted
	Runners    []RunnerStatus
}

// RunnerStatus is the part of one runner.
type RunnerStatus struct {
	Config      *config.Runner // its section
	Jobs        int            // running or waiting for a slot
	Requests    int            // in flight
	Removed     bool
	FailsSince  time.Time // since when asking for jobs fails; zero = it does not
	PausedUntil time.Time // for refused requests; zero = not paused
	Checked     bool      // nothing keeps it from asking that boot_verify asks for
}

// Status says what is going on.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{
		Concurrent: m.slots.total, Running: m.slots.running, Waiting: len(m.slots.waiting),
		Draining: m.draining || m.stopping, Stopping: m.stopping,
	}
	for _, p := range m.pollers {
		r := RunnerStatus{
			Config: p.runner, Jobs: len(p.places), Requests: len(p.requests), Removed: p.removed,
			FailsSince: p.health.since, Checked: p.check == nil,
		}
		if p.health.paused {
			r.PausedUntil = p.health.until
		}
		s.Runners = append(s.Runners, r)
	}
	return s
}
