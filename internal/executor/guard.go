package executor

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/guard"
	"github.com/slipway-ci/slipway/internal/trace"
)

// tokenBytes make the name of a job on the Engine.
const tokenBytes = 6

// openGuard makes the job's socket and mounts it where the configuration has the Engine's. mounts are what else of the
// host the container gets. There is no guard if the job has no socket of its own.
func (e *Executor) openGuard(ctx context.Context, tr *trace.Trace, p *plan, c *docker.Container, mounts []guard.Mount) (*guard.Guard, error) {
	s := e.Settings
	if !s.guarded(p) {
		return nil, nil
	}
	for _, m := range c.Mounts {
		mounts = append(mounts, guard.Mount{Destination: path.Clean(m.Target), Source: m.Source, ReadOnly: m.ReadOnly})
	}
	token := randomHex(tokenBytes)
	g, err := guard.Open(ctx, guard.Options{
		Dial: e.Engine.Dial, Dir: filepath.Join(s.Guard.Dir, token), Policy: s.guardPolicy(p, *c, mounts, token),
		Images: s.Guard.Ledger, Log: e.Log.With("job", p.spec.ID, "project", p.spec.JobInfo.ProjectID), Report: reporter(tr),
	})
	if err != nil {
		return nil, fmt.Errorf("open the job's socket: %w", err)
	}
	for _, v := range p.volumes {
		if v.socket {
			c.Mounts = append(c.Mounts, docker.Mount{Source: g.Socket(), Target: v.target})
		}
	}
	return g, nil
}

// closeGuard ends the job's socket and removes what the job made through it.
func (e *Executor) closeGuard(ctx context.Context, g *guard.Guard) {
	if g == nil {
		return
	}
	if err := g.Close(ctx); err != nil {
		e.Log.Warn("something that a job made is still there; the next start removes it", "error", err)
	}
}

// mostReports is how many lines of the guard a job's log takes: a job that tries in a loop is not to fill it.
const mostReports = 200

// reporter puts what the guard has to say into the job log.
func reporter(tr *trace.Trace) func(line string) {
	var n atomic.Int64
	return func(line string) {
		switch n := n.Add(1); {
		case n == mostReports:
			tr.Warnf("the guard of the Engine's socket has more to say; the runner's own log has it all")
		case n > mostReports:
		case strings.Contains(line, "denied by slipway ["):
			tr.Warnf("%s", line)
		default:
			tr.Printf("%s", line)
		}
	}
}
