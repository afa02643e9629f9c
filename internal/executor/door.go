package executor

import (
	"context"
	"io"
	"time"

	"github.com/slipway-ci/slipway/internal/trace"
)

// openDoor lets people into the job from now on. What they see there is not masked: who may go in may change the job's script,
// too.
func (e *Executor) openDoor(p *plan, s *session) {
	if p.slot.Door == nil {
		return
	}
	place := s.place
	p.slot.Door.Attach(func(ctx context.Context, in io.Reader, out io.Writer) error { return place.terminal(ctx, p, in, out) })
}

// holdDoor keeps what the job runs in for whoever is inside.
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
