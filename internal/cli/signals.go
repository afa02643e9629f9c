package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

// manager is what signals and an edited config act on: *runner.Manager.
type manager interface {
	// Drain stops taking jobs; Run returns when those that run have ended.
	Drain()
	// Reload takes over another configuration.
	Reload(*config.Config)
}

// control carries signals to a manager that may not be there yet.
type control struct {
	mu       sync.Mutex
	manager  manager
	draining bool
}

// attach gives the control its manager, once it exists.
func (c *control) attach(m manager) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.manager = m
	if c.draining {
		m.Drain()
	}
}

func (c *control) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if c.manager != nil {
		c.manager.Drain()
	}
}

func (c *control) reload(cfg *config.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.manager != nil {
		c.manager.Reload(cfg)
	}
}

// signalActions is what the signals of a running slipway do.
//
// GitLab: SIGQUIT lets jobs finish, SIGTERM and SIGINT abort them, a second one of those ends the process at once,
// SIGHUP reads the config again.
type signalActions struct {
	drain  func()
	reload func()
	abort  func(os.Signal)
	exit   func(os.Signal)
}

// handle acts on signals until ctx ends.
func (s signalActions) handle(ctx context.Context, signals <-chan os.Signal) {
	aborted := false
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-signals:
			switch {
			case sig == syscall.SIGQUIT:
				s.drain()
			case sig == syscall.SIGHUP:
				s.reload()
			case aborted:
				s.exit(sig)
			default:
				aborted = true
				s.abort(sig)
			}
		}
	}
}

// notify starts to catch the signals. stop gives them back to the system.
func notify(sigs ...os.Signal) (signals <-chan os.Signal, stop func()) {
	ch := make(chan os.Signal, 4) // nobody types faster
	signal.Notify(ch, sigs...)
	return ch, func() { signal.Stop(ch) }
}

// exitAtOnce ends the process without any clean-up, as a shell would count the signal.
func exitAtOnce(sig os.Signal) {
	code := exitInterrupted
	if sig == syscall.SIGTERM {
		code = 128 + int(syscall.SIGTERM)
	}
	os.Exit(code)
}

// untilInterrupt is a context for a command that answers Ctrl-C by stopping cleanly.
func untilInterrupt(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
}

// shutdownOf reports whether a run ended because a signal asked for it.
func shutdownOf(err error) bool {
	return errors.Is(err, job.ErrShutdown) || errors.Is(err, context.Canceled)
}
