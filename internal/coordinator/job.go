package coordinator

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/pipeline"
)

// The states of a job besides those that a runner reports.
const (
	Created   job.State = "created"   // waits for an earlier stage
	Pending   job.State = "pending"   // waits for a runner
	Canceling job.State = "canceling" // the runner was told to stop; after_script may still run
	Canceled  job.State = "canceled"
	Skipped   job.State = "skipped"
)

// Outcome is how a job ended.
type Outcome struct {
	State         job.State // job.Success, job.Failed, Canceled or Skipped
	FailureReason job.Reason
	ExitCode      int
	AllowFailure  bool // a failure does not count
}

// Times are when things happened to a job, with the monotonic clock; zero = not yet.
type Times struct {
	Queued    time.Time // a runner could have it from here on
	HandedOut time.Time // the answer to the runner's request
	Running   time.Time // the runner's first update
	FirstByte time.Time // of the log
	Final     time.Time // the last update, or the cancelation
}

// Job is one job, from its making to its end.
type Job struct {
	c            *Coordinator
	spec         job.Spec // what the runner gets; completed when it is handed out
	tags         []string
	when         pipeline.When
	allowFailure bool
	project      *Project // nil for a hand-made job of no known project
	run          *run     // nil for a hand-made job

	// All below is guarded by the coordinator's lock.
	state     job.State
	reason    job.Reason
	exitCode  int
	features  map[string]bool // of the runner that has the job
	door      Door            // to its web terminal
	trace     []byte
	artifacts []Artifact
	requests  []*Request
	times     Times
	changed   chan struct{} // closed when anything above changes, and replaced
}

// Door is where the runner that has the job lets people in.
func (j *Job) Door() Door {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	return j.door
}

// Enqueue puts a hand-made job into the queue of the runners that have all the tags. The spec is sent as it is, after
// what is missing was filled in: ID, token, names, timeout, features, and, before its own variables, the predefined ones.
// With the job_info of a known project it also gets that project's credentials and, if it names a commit, its repository;
// without a repository GIT_STRATEGY is none.
func (c *Coordinator) Enqueue(spec *job.Spec, tags ...string) *Job {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := &Job{spec: *spec, tags: slices.Clone(tags), when: pipeline.OnSuccess}
	c.complete(j)
	c.enqueue(j)
	return j
}

// adopt gives a job its ID and token.
func (c *Coordinator) adopt(j *Job) {
	if j.spec.ID == 0 || c.jobs[j.spec.ID] != nil {
		j.spec.ID = c.lastJob + 1
	}
	if j.spec.Token == "" {
		j.spec.Token = newToken("glcbt-")
	}
	c.lastJob = max(c.lastJob, j.spec.ID)
	c.jobs[j.spec.ID] = j
	j.c, j.spec.JobInfo.ID = c, j.spec.ID
	j.state, j.changed = Created, make(chan struct{})
}

// enqueue lets runners have the job.
func (c *Coordinator) enqueue(j *Job) {
	j.state, j.times.Queued = Pending, time.Now()
	j.notify()
	c.queue = append(c.queue, j)
	for _, r := range c.runners {
		if !r.Paused && r.takes(j.tags) {
			r.tick()
		}
	}
}

// notify wakes whoever watches the job.
func (j *Job) notify() {
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *Job) done() bool {
	switch j.state {
	case job.Success, job.Failed, Canceled, Skipped:
		return true
	}
	return false
}

// active reports whether a runner has the job, so that its token is good.
func (j *Job) active() bool { return j.state == job.Running || j.state == Canceling }

// finish ends a job, for good.
func (j *Job) finish(state job.State, reason job.Reason, exitCode int) {
	j.state, j.reason, j.exitCode, j.times.Final = state, reason, exitCode, time.Now()
	j.c.queue = slices.DeleteFunc(j.c.queue, func(q *Job) bool { return q == j })
	j.notify()
	if j.run != nil {
		j.run.advance()
	}
}

// Cancel ends a job that nobody has yet at once. One that runs is canceled gracefully (the runner may run after_script
// and then reports back) if graceful is set and the runner declared that it can; else at once: the runner is told so by
// a 403 at its next call.
func (j *Job) Cancel(graceful bool) {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	switch {
	case j.done():
	case j.state == job.Running && graceful && j.features["cancel_gracefully"]:
		j.state = Canceling
		j.notify()
	case j.state == Canceling && graceful:
	default:
		j.finish(Canceled, "", 0)
	}
}

// await blocks until ok, which is called under the lock, is true.
func (j *Job) await(ctx context.Context, ok func() bool) error {
	for {
		j.c.mu.Lock()
		met, changed := ok(), j.changed
		j.c.mu.Unlock()
		if met {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-j.c.closed:
			return ErrClosed
		}
	}
}

// Wait blocks until the job has ended. Its error is ErrClosed or why ctx ended.
func (j *Job) Wait(ctx context.Context) (Outcome, error) {
	var o Outcome
	err := j.await(ctx, func() bool {
		o = Outcome{State: j.state, FailureReason: j.reason, ExitCode: j.exitCode, AllowFailure: j.allowFailure}
		return j.done()
	})
	return o, err
}

// Started blocks until a runner has the job, or it ended without.
func (j *Job) Started(ctx context.Context) error {
	return j.await(ctx, func() bool { return j.done() || j.active() })
}

// Follow writes the log to w as it arrives and returns when the job has ended. After a 412 the log is sent again; w gets
// each byte position once.
func (j *Job) Follow(ctx context.Context, w io.Writer) error {
	written := 0
	for {
		var piece []byte
		var done bool
		err := j.await(ctx, func() bool {
			done = j.done()
			if len(j.trace) > written {
				piece = j.trace[written:] // bytes that are there never change: a reset makes a new slice
			}
			return done || len(piece) > 0
		})
		if err != nil {
			return err
		}
		if len(piece) > 0 {
			if _, err := w.Write(piece); err != nil {
				return err
			}
			written += len(piece)
			continue
		}
		return nil
	}
}

// read returns what f says under the lock.
func read[T any](j *Job, f func() T) T {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	return f()
}

// ID is the job's number.
func (j *Job) ID() int64 { return read(j, func() int64 { return j.spec.ID }) }

// Name is the job's name.
func (j *Job) Name() string { return read(j, func() string { return j.spec.JobInfo.Name }) }

// Stage is the job's stage.
func (j *Job) Stage() string { return read(j, func() string { return j.spec.JobInfo.Stage }) }

// Token is the job's own token. It is good for the API and for Git while a runner has the job.
func (j *Job) Token() job.Secret { return read(j, func() job.Secret { return j.spec.Token }) }

// State is the job's state now.
func (j *Job) State() job.State { return read(j, func() job.State { return j.state }) }

// Times says when things happened, so far.
func (j *Job) Times() Times { return read(j, func() Times { return j.times }) }

// Trace is the log as received so far.
func (j *Job) Trace() []byte { return read(j, func() []byte { return slices.Clone(j.trace) }) }

// Spec is what the runner got; before the job is handed out the part that is known by then.
func (j *Job) Spec() job.Spec { return read(j, func() job.Spec { return j.spec }) }

// Artifacts are the uploads so far.
func (j *Job) Artifacts() []Artifact {
	return read(j, func() []Artifact { return slices.Clone(j.artifacts) })
}
