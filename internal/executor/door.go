package executor

import (
	"context"
	"io"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/script"
	"github.com/slipway-ci/slipway/internal/trace"
)

// notRunning is how long somebody may wait for a container that is about to be started, or has ended for good.
const notRunning = 30 * time.Second

// openDoor lets people into the job's container from now on. What they see there is not masked: who may go in may change the
// job's script, too.
func (e *Executor) openDoor(p *plan, s *session) {
	c, ok := s.place.(*container)
	if p.slot.Door == nil || !ok {
		return
	}
	p.slot.Door.Attach(func(ctx context.Context, in io.Reader, out io.Writer) error {
		for began := time.Now(); ; {
			err := e.Engine.Terminal(ctx, c.id, p.dir, in, out, script.Shell(e.Settings.Shell)...)
			if !docker.IsNotRunning(err) || time.Since(began) > notRunning {
				return err
			}
			select { // it is about to be started, for the first time or again
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
}

// holdDoor keeps the job's container for whoever is in it.
//
// GitLab: the same, for session_timeout.
func (e *Executor) holdDoor(ctx context.Context, tr *trace.Trace, p *plan) {
	if p.slot.Door == nil {
		return
	}
	p.slot.Door.Hold(ctx, func(timeout time.Duration) {
		tr.Printf("Terminal is connected, will time out in %s...", timeout)
		tr.Flush()
	})
}
