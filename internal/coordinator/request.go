package coordinator

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// requestJob hands out the oldest job that the runner may have. Without one it holds the request if the runner already
// knows that (its last_update is the current one), until there may be one or the time is over.
func (c *Coordinator) requestJob(x *exchange) reply {
	body, ok := x.parseRunner()
	if !ok {
		return message(http.StatusBadRequest, "the body is not JSON")
	}
	timer := time.NewTimer(max(c.opts.LongPoll, 0))
	defer timer.Stop()
	for first := true; ; first = false {
		rep, wake := c.tryRequest(x, body, first)
		if wake == nil {
			return rep
		}
		select {
		case <-wake:
		case <-timer.C:
			return rep
		case <-c.closed:
			return rep
		case <-x.r.Context().Done():
			return reply{} // nobody is listening any more
		}
	}
}

// tryRequest answers a request as things are now. If it may be held, wake is what to wait for.
func (c *Coordinator) tryRequest(x *exchange, body runnerBody, first bool) (rep reply, wake <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.runnerByToken(body.Token)
	if r == nil {
		return message(http.StatusForbidden, ""), nil
	}
	if first {
		r.seen(body)
	}
	if j := c.next(r); j != nil && x.r.Context().Err() == nil {
		return c.handOut(j, r, x, body).with(r.lastUpdate()), nil
	}
	rep = reply{status: http.StatusNoContent}.with(r.lastUpdate())
	// GitLab: the first answer after a change is at once, even if another runner was faster.
	if !first || c.opts.LongPoll < 0 || body.LastUpdate != rep.header["X-GitLab-Last-Update"] {
		return rep, nil
	}
	return rep, r.wake
}

// next is the oldest job in the queue that the runner may have.
func (c *Coordinator) next(r *runner) *Job {
	if r.Paused {
		return nil
	}
	for _, j := range c.queue {
		if r.takes(j.tags) {
			return j
		}
	}
	return nil
}

func (c *Coordinator) handOut(j *Job, r *runner, x *exchange, body runnerBody) reply {
	before := j.spec
	c.fillPayload(j, r, c.baseURL(x.r))
	payload, err := json.Marshal(j.spec)
	if err != nil {
		j.finish(job.Failed, job.UnknownFailure, 0)
		return message(http.StatusInternalServerError, err.Error())
	}
	c.queue = slices.DeleteFunc(c.queue, func(q *Job) bool { return q == j })
	j.state, j.features, j.door, j.times.HandedOut = job.Running, body.Info.Features, body.Session, time.Now()
	j.notify()
	return reply{
		status: http.StatusCreated, contentType: "application/json", body: payload,
		undelivered: func() { c.putBack(j, before) },
	}
}

// putBack returns a job to the head of the queue when the runner that it was meant for has gone.
func (c *Coordinator) putBack(j *Job, spec job.Spec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if j.state != job.Running || len(j.requests) > 0 {
		return
	}
	queued := j.times.Queued
	c.enqueue(j)
	c.queue = append([]*Job{j}, c.queue[:len(c.queue)-1]...)
	j.spec, j.features, j.door, j.times = spec, nil, Door{}, Times{Queued: queued}
}
