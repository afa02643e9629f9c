package trace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// DefaultFinalTries is how often the end of a job is sent when Options.FinalTries is 0.
//
// GitLab: job_status_final_update_retry_limit.
const DefaultFinalTries = 10

// GitLab: the back-off of the final update; after a 202 the server's own waits begin with a second.
const (
	firstRetry, maxRetry = time.Second, time.Hour
	notReadyWait         = time.Second
)

var errResend = errors.New("the server's copy of the log is not ours")

// end notes how the job ended, for finish and for a crash before that is through. It may be called while run works.
func (u *uploader) end(r job.Result) {
	u.recMu.Lock()
	defer u.recMu.Unlock()
	u.rec.Final = &Final{State: r.State, ExitCode: r.ExitCode}
	if r.State == job.Failed {
		// GitLab: a failure without a reason is the script's.
		u.rec.Final.Reason = cmp.Or(r.Reason, job.ScriptFailure).KnownTo(u.rec.FailureReasons)
	}
	if err := u.rec.save(u.dir); err != nil {
		u.log.Warn("the job's record does not say how it ended", "error", err)
	}
}

// finish sends the rest of the log, then the job's final state, until the server has both or gives the job up. The
// error says why it has not: ctx is over, or tries attempts in a row were in vain.
func (u *uploader) finish(ctx context.Context, tries int) error {
	retry, resent := firstRetry, false
	for failed := 0; !u.gone; {
		before := u.sent
		wait, err := u.deliver(ctx)
		switch {
		case u.gone || err == nil && wait == 0:
			return nil
		case err == nil:
			failed, retry = 0, firstRetry
		case errors.Is(err, errResend) && !resent:
			resent = true
			continue
		case u.sent > before && !u.allSent(): // a long log over a bad line
			failed, retry, wait = 0, firstRetry, firstRetry
		default:
			if failed++; failed >= tries {
				return fmt.Errorf("deliver the end of the job after %d tries: %w", tries, err)
			}
			wait, retry = retry, min(2*retry, maxRetry)
		}
		u.report(err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("deliver the end of the job: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(wait):
		}
	}
	return nil
}

func (u *uploader) allSent() bool {
	size, _ := u.spool.sums()
	return u.sent >= size
}

// deliver tries once. A wait without an error is how long the server needs before it wants to be asked again.
func (u *uploader) deliver(ctx context.Context) (wait time.Duration, err error) {
	switch err := u.send(ctx); {
	case errors.Is(err, errNotFound):
		u.report(err) // the state can be told all the same
	case err != nil:
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	size, sum := u.spool.sums()
	f := u.rec.Final
	ack, err := u.server.Update(ctx, job.Update{
		State: f.State, Reason: f.Reason, ExitCode: f.ExitCode, Checksum: sum, ByteSize: size,
	})
	switch {
	case err != nil:
		return 0, err
	case ack.Verdict == job.Accepted:
		return 0, nil
	}
	u.heed(ack)
	switch ack.Verdict {
	case job.Forbidden, job.NotFound:
		u.abort()
		return 0, nil
	case job.Resend:
		u.sent = 0
		return 0, errResend
	}
	if ack.Interval > 0 {
		return ack.Interval, nil
	}
	return notReadyWait, nil
}

// Finish ends an interrupted job: a line that says why is added to its log, what the server lacks of the log is
// sent, the job ends as runner_system_failure, and its folder is removed. A job that had ended, and whose end could
// only not be delivered, ends as it did. The bytes on disk decide what the log is.
//
// ctx bounds the delivery. After an error the folder is still there, for another try.
func Finish(ctx context.Context, server Server, left Left, why string, log *slog.Logger) error {
	log = orDiscard(log)
	store, err := openSpool(left.Dir, log)
	if err != nil {
		return fmt.Errorf("finish job %d: %w", left.Record.JobID, err)
	}
	defer store.close()
	rec := left.Record
	if rec.Final == nil {
		addLast(store, rec.Timestamps, "Job failed (system failure): "+why)
		rec.Final = &Final{State: job.Failed, Reason: job.SystemFailure}
	}
	u := newUploader(server, store, left.Dir, rec, log)
	u.save()
	if err := u.finish(ctx, DefaultFinalTries); err != nil {
		return fmt.Errorf("finish job %d: %w", rec.JobID, err)
	}
	return removeDir(left.Dir)
}

// addLast writes an error as the last line of an interrupted log.
func addLast(store *spool, timestamps bool, text string) {
	if size, _ := store.sums(); size > 0 && store.last != '\n' {
		store.runner([]byte("\n"))
	}
	w := sink(store.runner)
	if timestamps {
		w = (&stamper{stream: runnerStream, next: store.runner}).write
	}
	w([]byte(errorColour + "ERROR: " + text + reset + "\n"))
}

// removeDir removes the spool folder of a job that is over.
func removeDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove spool: %w", err)
	}
	return nil
}
