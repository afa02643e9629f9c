package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
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

// jobSocket is the socket of a job's own, and what belongs to it. A nil one does nothing.
type jobSocket struct {
	*guard.Guard
	token  string
	dir    string     // of the guard
	cgroup *jobCgroup // nil = none
	engine *docker.Engine
	log    *slog.Logger
}

// openSocket makes the job's socket and mounts it where the configuration has the Engine's. mounts are what else of the
// host the container gets. It is nil if the job has no socket of its own.
func (e *Executor) openSocket(ctx context.Context, tr *trace.Trace, p *plan, c *docker.Container, mounts []guard.Mount) (*jobSocket, error) {
	s := e.Settings
	if !s.guarded(p) {
		return nil, nil
	}
	for _, m := range c.Mounts {
		mounts = append(mounts, guard.Mount{Destination: path.Clean(m.Target), Source: m.Source, ReadOnly: m.ReadOnly})
	}
	token := randomHex(tokenBytes)
	socket := &jobSocket{
		token: token, dir: filepath.Join(s.Guard.Dir, token), cgroup: s.cgroupOf(c.Limits, token), engine: e.Engine, log: e.Log,
	}
	if cg := socket.cgroup; cg != nil {
		if err := cg.make(c.Limits); err != nil {
			e.Log.Warn("memory and cpus of [runners.docker] hold for each container of a job, not for all together", "error", errors.Join(err, cg.remove()))
			socket.cgroup = nil
		} else {
			c.Limits.CgroupParent = cg.path
		}
	}
	var daemon *guard.Daemon
	if p.dind != nil && p.dind.ports {
		daemon = &guard.Daemon{Names: p.dind.names}
	}
	g, err := guard.Open(ctx, guard.Options{
		Daemon: daemon,
		Dial:   e.Engine.Dial, Dir: socket.dir, Policy: s.guardPolicy(p, *c, mounts, token),
		Images: s.Guard.Ledger, Log: e.Log.With("job", p.spec.ID, "project", p.spec.JobInfo.ProjectID), Report: reporter(tr),
		Denied: p.slot.Watch.Denied, Built: p.slot.Watch.Built, Saved: p.slot.Watch.Saved, History: s.buildHistory(p.spec), Masked: p.masked(),
	})
	if err != nil {
		socket.removeCgroup()
		return nil, fmt.Errorf("open the job's socket: %w", err)
	}
	socket.Guard = g
	if daemon != nil {
		for _, folder := range p.dind.certs {
			c.Mounts = append(c.Mounts, docker.Mount{Source: g.Certificates(), Target: folder, ReadOnly: true})
		}
	}
	for _, v := range p.volumes {
		if v.socket {
			c.Mounts = append(c.Mounts, docker.Mount{Source: g.Socket(), Target: v.target})
		}
	}
	return socket, nil
}

// close ends the socket and removes what the job made through it.
func (s *jobSocket) close(ctx context.Context) {
	if s == nil {
		return
	}
	if err := s.Close(ctx); err != nil {
		s.log.Warn("something that a job made cannot be removed now; trying again", "error", err)
		go s.sweepLater(context.WithoutCancel(ctx))
	}
	if err := errors.Join(SweepGuards(s.dir), os.Remove(s.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("the folder of a job's socket stays until the next start", "error", err)
	}
}

// sweepLater goes on trying: the Engine may be away for a while.
func (s *jobSocket) sweepLater(ctx context.Context) {
	mine := func(labels map[string]string) bool { return labels[guard.LabelGuard] == s.token }
	tryLater(ctx, func(ctx context.Context) error { return sweepGuarded(ctx, s.engine, mine, s.log) })
}

// removeCgroup follows when the job's container is gone, too.
func (s *jobSocket) removeCgroup() {
	if s == nil || s.cgroup == nil {
		return
	}
	if err := s.cgroup.remove(); err != nil {
		s.log.Warn("a job's cgroup stays until the next start", "error", err)
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
