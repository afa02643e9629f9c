// Package executor runs one job, in a container of the Docker Engine or in a shell of this machine: it plans, prepares, runs the stages, cleans up
// and says how it ended. It does not know where jobs come from, and it reads no configuration file.
package executor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// Executor runs the jobs of one [[runners]] entry on one Engine. It is safe for concurrent use.
type Executor struct {
	Engine   *docker.Engine // nil with Settings.Account
	Store    *source.Store  // mirrors and workspaces
	SpoolDir string         // one folder in it per running job
	Settings Settings
	Log      *slog.Logger
}

// Server is the GitLab that a job came from.
type Server interface {
	trace.Server
	// UploadArtifact sends a file whose content write writes, as often as it is asked to.
	UploadArtifact(ctx context.Context, u job.Upload, write func(w io.Writer) error) error
	// DownloadArtifact writes another job's archive into a file.
	DownloadArtifact(ctx context.Context, id int64, token job.Secret, direct bool, to *os.File) (size int64, err error)
}

// Slot is the place that a job has among the running ones.
type Slot struct {
	ID        int // lowest free index among the runner's jobs (CI_CONCURRENT_ID)
	ProjectID int // the same among those of the job's project (CI_CONCURRENT_PROJECT_ID)
	// Leave is called when nothing of the job is left in the slot and only its end is to be reported. May be nil.
	Leave func()
	// Watch is told how the job gets on; may be nil.
	Watch Watcher
	// Door lets people into the job; nil = nobody.
	Door Door
}

// Door is the way to a web terminal in a running job.
type Door interface {
	// Attach says how to get a shell in the job. Called once.
	Attach(shell func(ctx context.Context, in io.Reader, out io.Writer) error)
	// Hold waits until nobody is inside, or they had their time; tell is called first, if somebody is.
	Hold(ctx context.Context, tell func(timeout time.Duration))
}

// Watcher is told how a job gets on, from several goroutines.
type Watcher interface {
	Stage(name string)                // the job enters a stage
	Denied(rule string, audited bool) // the guard of its socket refused a call; audited: would have
	Built(cached bool)                // a build through its socket has done an instruction; cached: it need not
	// Saved is told what a build's cached instructions took when they were last done here, and the bytes of their layers.
	Saved(t time.Duration, bytes int64)
	Ended(job.Result) // what follows is the report
}

// unwatched is for jobs that nobody watches.
type unwatched struct{}

func (unwatched) Stage(string)        {}
func (unwatched) Denied(string, bool) {}
func (unwatched) Built(bool)          {}

func (unwatched) Saved(time.Duration, int64) {}
func (unwatched) Ended(job.Result)           {}

// closeTimeout bounds the delivery of the last bytes and the final state.
const closeTimeout = time.Hour

// Run runs a job from its first log byte to the server's receipt of its final state. The end of ctx, with its
// cause, stops the job. The error says that the result could not be delivered; the job's own failure is not an error.
func (e *Executor) Run(ctx context.Context, server Server, slot Slot, spec *job.Spec) error {
	log := e.Log.With("job", spec.ID, "project", spec.JobInfo.ProjectID)
	began := time.Now()
	if slot.Watch == nil {
		slot.Watch = unwatched{}
	}
	p := e.plan(slot, spec, randomHex(8))
	p.began = began
	tr, wanted, err := trace.Open(ctx, server, e.traceOptions(p, log))
	if err != nil {
		log.Error("the job cannot run, because its log cannot be kept", "error", err)
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer done()
		return trace.Refuse(ctx, server, err, "", log)
	}
	ctx, cancel := context.WithTimeoutCause(wanted, spec.Timeout(), &job.TimeoutError{After: spec.Timeout()})
	defer cancel()
	log.Info("job started", "name", spec.JobInfo.Name, "image", p.image.name)
	var later sync.WaitGroup
	defer later.Wait()
	err = e.run(ctx, server, tr, p, &later)
	if slot.Leave != nil {
		slot.Leave()
	}
	result := job.ResultOf(err, context.Cause(ctx))
	slot.Watch.Ended(result)
	attrs := []any{"state", result.State, "seconds", time.Since(began).Seconds()}
	if result.Err != nil {
		attrs = append(attrs, "reason", result.Reason, "error", result.Err)
	}
	log.Info("job ended", attrs...)
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer done()
	return tr.Close(ctx, result)
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, says its documentation
	return hex.EncodeToString(b)
}
