// Package runner takes jobs from GitLab servers and keeps them within the limits of the machine: who may ask when, how
// many jobs run, what happens when a server fails, at a reload and at the end. It knows nothing of how a request is
// made or how a job is run.
//
// # Slots and requests
//
// Every [[runners]] section is polled by itself, and a held request (long poll) of one never delays a request of
// another. A request is only made when a build slot is there for the job that may come back: within `concurrent` over
// all runners, within `limit` of its own. Of several runners that want the last slot the one that asked longest ago
// gets it.
//
// A server with long polling holds a request for up to a minute. If such a request kept its slot, two runners with
// `concurrent = 1` would lock each other out for that long, which is what users of GitLab's runner meet as jobs that
// stay pending on an idle machine. Three ways out were weighed:
//
//   - Cancel the held request when another runner needs the slot. The server may just have handed out a job with it,
//     and that job would be lost: GitLab shows it as running until its timeout. Never done.
//   - Make more requests than there are slots. Then a job may be taken that cannot start, while another machine could.
//   - Let go of the slot, not of the request. This is what happens here: a request that was not answered within a
//     second (holdAfter) is held by the server, and its slot may be used by the other runners.
//
// The third costs nothing with GitLab: a request that GitLab holds is always answered with "no job", also when one
// has come; the job is given to the next request, and that one needs a slot again. Only a server that is slower than
// a second, or one that answers a held request with a job, can hand out a job whose slot is gone meanwhile. Such a job
// is not lost: it gets the next slot that becomes free, before any new request is made. `concurrent` holds in any
// case, and so does `limit`, because a runner never counts on the slots of its own held requests.
//
// # The end
//
// Drain ends nothing: requests in flight are waited for, and a job that comes back with one is run. When the context
// of Run ends, the jobs' contexts end with the cause job.ErrShutdown; a request in flight may still be answered for a
// second (answerGrace), and a job that comes back is run with a context that has already ended, so that it is reported
// and not lost. A longer grace would save no job: it only takes more of them to report them as interrupted.
package runner

import (
	"context"
	"log/slog"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

// Server is where the jobs of one runner come from. RequestJob is called from several goroutines at once when
// request_concurrency allows it.
type Server interface {
	// RequestJob asks for one job; nil without an error means that there is none. The server may hold the request.
	// It fails with job.ErrForbidden, job.ErrConflict, job.ErrPushback or any other error; all but the first count
	// as passing trouble.
	RequestJob(ctx context.Context) (*job.Spec, error)
}

// Slot is the place of a job among those that run. Both numbers are the lowest that no other job has, and are used
// again when the job has ended.
type Slot struct {
	Runner    *config.Runner // as configured when the job was asked for
	ID        int            // among the jobs of this runner: CI_CONCURRENT_ID
	ProjectID int            // among the jobs of this runner and project: CI_CONCURRENT_PROJECT_ID
	// Leave frees both numbers before the job is over: the server may hand out the next job while the runner still
	// waits for the receipt of this one's end, and it shall get the same workspace.
	Leave func()
}

// Options are what a Manager is made of. Config, Connect and Run are required.
type Options struct {
	Config *config.Config
	// Connect makes the client of a runner. It is called before the first request and again when the runner's section
	// has changed. An error counts like a refused token, and Connect is tried again.
	Connect func(*config.Runner) (Server, error)
	// Verify tries out whether jobs of a runner can run. A runner with boot_verify asks for none before it has succeeded; what a
	// runner of that section has passed is tried again when it has changed, but for its credentials. nil = never. When ctx ends, it
	// cleans up and returns.
	Verify func(ctx context.Context, r *config.Runner) error
	// Run runs one job to its end and reports it. When ctx ends, it cleans up, reports and returns.
	Run func(ctx context.Context, slot Slot, spec *job.Spec)
	Log *slog.Logger // nil = none
}
