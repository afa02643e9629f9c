package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

// holdAfter is the age from which an unanswered request is taken for one that the server holds. GitLab answers what
// it does not hold in a fraction of this.
const holdAfter = time.Second

// poller asks for the jobs of one [[runners]] section. Its fields are guarded by the manager's mutex.
type poller struct {
	runner   *config.Runner
	log      *slog.Logger
	conn     *conn
	removed  bool       // no longer configured; goes when its last job has ended
	requests []*request // in flight, those of former connections too
	places   places     // of its jobs, running or waiting for a slot
	turn     uint64     // of its last request; the lowest of all pollers asks next
	next     time.Time  // no request before
	pace     pace
	health   health
	check    *bootCheck // to be passed before it asks; nil = none
	trying   bool       // a try of a check is under way, maybe of a former one
	rate     adaptive
}

// request is one request for a job, on its way.
type request struct {
	poller *poller
	conn   *conn
	runner *config.Runner
	start  time.Time
}

// due reports whether the poller may ask now, as far as it is up to itself.
func (p *poller) due(now time.Time) bool {
	return !p.removed && p.check == nil && !now.Before(p.wakeAt()) && p.current() < p.rate.limit() &&
		(p.runner.Limit <= 0 || len(p.places)+len(p.requests) < p.runner.Limit)
}

// wakeAt is when the poller may ask again.
func (p *poller) wakeAt() time.Time {
	if p.health.until.After(p.next) {
		return p.health.until
	}
	return p.next
}

// current counts the requests in flight on the current connection. Those of a former one (another token) may be held
// for long and must not keep the new one waiting.
func (p *poller) current() int {
	n := 0
	for _, q := range p.requests {
		if q.conn == p.conn {
			n++
		}
	}
	return n
}

// young counts the requests that are not held yet and so need their slots, and says when the first of them will be.
func (p *poller) young(now time.Time) (n int, held time.Time) {
	for _, q := range p.requests {
		if t := q.start.Add(holdAfter); now.Before(t) {
			n, held = n+1, earlier(held, t)
		}
	}
	return n, held
}

// idle reports that nothing of the poller is under way.
func (p *poller) idle() bool { return len(p.requests) == 0 && len(p.places) == 0 && !p.trying }

func (p *poller) ask(now time.Time) *request {
	q := &request{poller: p, conn: p.conn, runner: p.runner, start: now}
	p.requests = append(p.requests, q)
	return q
}

// answered takes a request off the list and draws the conclusions of its answer. That of a former connection says
// nothing about the current one.
func (p *poller) answered(q *request, spec *job.Spec, err error, now time.Time, interval time.Duration) {
	p.requests = slices.DeleteFunc(p.requests, func(r *request) bool { return r == q })
	if spec != nil {
		p.pace.active = now
	}
	if q.conn != p.conn {
		return
	}
	var unbuilt *connectError
	switch {
	case errors.Is(err, job.ErrForbidden), errors.As(err, &unbuilt):
		p.next = now.Add(interval)
		p.refused(err, now)
		return
	case errors.Is(err, job.ErrConflict):
		p.next = now.Add(minWait) // there are jobs, and others who ask
	case err != nil:
		if errors.Is(err, job.ErrPushback) {
			p.rate.pushedBack()
		}
		if p.health.failed(now) {
			p.log.Warn("asking for jobs fails", "error", err,
				"hint", fmt.Sprintf("tried again with pauses from %s to %s until it works", backoffMin, backoffMax))
		}
		return
	case spec != nil:
		p.rate.gotJob()
		p.next = now
	default:
		p.rate.gotNothing()
		p.next = p.pace.afterEmpty(now, now.Sub(q.start), interval)
	}
	if p.runner.StrictCheckInterval {
		p.next = now.Add(interval)
	}
	if trouble, recovered := p.health.ok(now); recovered {
		p.log.Info("asking for jobs works again", "after", trouble.Round(time.Second))
	}
}

func (p *poller) refused(err error, now time.Time) {
	limit, interval := p.runner.UnhealthyRequestsLimit, p.runner.UnhealthyInterval
	first, paused := p.health.refuse(now, limit, interval)
	switch {
	case paused:
		p.log.Error("runner paused", "error", err, "refusals", p.health.refused,
			"until", p.health.until.Format(time.RFC3339),
			"hint", "check url, token and TLS files of this runner in the configuration, and that it still exists in GitLab; "+
				"reload (SIGHUP) to try at once; unhealthy_requests_limit and unhealthy_interval set when and how long it pauses")
	case first:
		p.log.Warn("the runner is refused", "error", err, "pauses_after", limit)
	}
}

// jobEnded gives the job's place back. The end of a job is often the beginning of the next one of its pipeline.
func (p *poller) jobEnded(pl *place, now time.Time, interval time.Duration) {
	p.places.release(pl)
	p.pace.active = now
	if t := now.Add(p.pace.wait(now, interval)); !p.runner.StrictCheckInterval && t.Before(p.next) {
		p.next = t
	}
}

// conn is the client of a runner as it was configured once, made at the first request.
type conn struct {
	runner  *config.Runner
	connect func(*config.Runner) (Server, error)

	mu     sync.Mutex
	server Server
}

// connectError says that there is no client to ask with.
type connectError struct{ err error }

func (e *connectError) Error() string { return "set up the connection: " + e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

func (c *conn) requestJob(ctx context.Context) (*job.Spec, error) {
	server, err := c.dial()
	if err != nil {
		return nil, &connectError{err}
	}
	return server.RequestJob(ctx)
}

func (c *conn) dial() (Server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server != nil {
		return c.server, nil
	}
	server, err := c.connect(c.runner)
	if err == nil {
		c.server = server
	}
	return server, err
}

// earlier returns the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
