package cli

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/runner"
	"github.com/slipway-ci/slipway/internal/web"
)

// observer ties the monitor to what it monitors, which comes later.
type observer struct {
	*web.Monitor

	mu       sync.Mutex
	manager  *runner.Manager // nil = not started yet
	disks    func() []web.Disk
	systemID string
}

func newObserver(b Build) *observer {
	o := &observer{}
	o.Monitor = web.New(web.Build{Name: "slipway", Version: b.Version, Revision: b.Revision}, o.now)
	return o
}

// attach gives the observer its manager.
func (o *observer) attach(m *runner.Manager, systemID string, disks func() []web.Disk) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.manager, o.systemID, o.disks = m, systemID, disks
}

// now is what the manager says.
func (o *observer) now() web.Now {
	o.mu.Lock()
	m, disks := o.manager, o.disks
	o.mu.Unlock()
	if m == nil {
		return web.Now{}
	}
	s := m.Status()
	now := web.Now{
		State: web.StateRunning, Ready: !s.Draining, Concurrent: s.Concurrent, Running: s.Running, Waiting: s.Waiting, Disks: disks(),
	}
	switch {
	case s.Stopping:
		now.State = web.StateStopping
	case s.Draining:
		now.State = web.StateDraining
	}
	for _, r := range s.Runners {
		if r.Removed {
			continue
		}
		now.Ready = now.Ready && r.Checked
		now.Runners = append(now.Runners, web.RunnerNow{
			Runner: o.label(r.Config), Limit: r.Config.Limit, RequestConcurrency: r.Config.RequestConcurrency,
			Requests: r.Requests, URL: r.Config.URL, Executor: r.Config.Executor, Jobs: r.Jobs, Checked: r.Checked,
			FailsSince: r.FailsSince, PausedUntil: r.PausedUntil,
		})
	}
	return now
}

// label names a runner.
func (o *observer) label(r *config.Runner) web.Runner {
	o.mu.Lock()
	defer o.mu.Unlock()
	return web.Runner{ShortToken: job.Secret(r.Token.Reveal()).Short(), Name: r.Name, SystemID: o.systemID}
}

// calls is told of the calls of one runner's client.
func (o *observer) calls(r *config.Runner) func(endpoint, method string, status int, took time.Duration) {
	return func(endpoint, method string, status int, took time.Duration) {
		o.Called(o.label(r), endpoint, method, status, took)
	}
}

// quiet is a log in which what is only told for information counts as a detail.
type quiet struct{ slog.Handler }

// Enabled reports whether a line of that level is written.
func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, quieter(l))
}

// Handle writes a line.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = quieter(r.Level)
	return q.Handler.Handle(ctx, r)
}

// WithAttrs returns a handler that adds the attributes to each line.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup returns a handler that puts the name before the keys that follow.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

func quieter(l slog.Level) slog.Level {
	if l == slog.LevelInfo {
		return slog.LevelDebug
	}
	return l
}

// counting is a log that counts its warnings and errors.
type counting struct {
	slog.Handler
	count func(warning bool)
}

// Handle counts a line, then writes it.
func (h counting) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		h.count(r.Level < slog.LevelError)
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs returns a handler that adds the attributes to each line.
func (h counting) WithAttrs(attrs []slog.Attr) slog.Handler {
	return counting{h.Handler.WithAttrs(attrs), h.count}
}

// WithGroup returns a handler that puts the name before the keys that follow.
func (h counting) WithGroup(name string) slog.Handler {
	return counting{h.Handler.WithGroup(name), h.count}
}
