// Package trace is the log of one job, from the job's first byte to the server's receipt of its end: a chain of
// writers, mask → limit → timestamps → spool, and an upload that follows the spool. It knows nothing of HTTP, of
// containers or of what a job does.
package trace

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// Options say how a job's log is kept.
type Options struct {
	// Dir is the job's spool folder. Open makes it, Close removes it.
	Dir string
	// Record is what ends the job when the runner is killed; Open fills in its second half.
	Record Record

	// Masked are values that must not be seen, MaskPrefixes what tokens begin with (the first 15 count), besides
	// GitLab's personal access tokens. MaskDefaultTokens adds GitLab's other tokens.
	Masked            []string
	MaskPrefixes      []string
	MaskDefaultTokens bool

	// Limit is how much of the job's output is kept, in bytes after masking, without timestamps. 0 means DefaultLimit.
	Limit int64

	Timestamps bool // GitLab: FF_TIMESTAMPS
	Sections   bool // GitLab: features.trace_sections
	Debug      bool // GitLab: CI_DEBUG_TRACE; fewer people may read the log

	FinalTries int          // of the final update, 0 means DefaultFinalTries
	Log        *slog.Logger // the program's, nil discards
}

// The streams of the log in GitLab's numbering.
const (
	runnerStream = "00O"
	stdoutStream = "01O"
	stderrStream = "01E"
)

// Trace is the log of a running job. All methods are safe for concurrent use.
type Trace struct {
	dir        string
	sections   bool
	timestamps bool
	finalTries int
	spool      *spool
	upload     *uploader
	cancel     context.CancelCauseFunc
	canceling  chan struct{}
	stop       chan struct{} // closed: the background upload ends
	done       chan struct{} // closed: it has ended
	stopCalls  context.CancelFunc

	mu                     sync.Mutex // the chain
	closed                 bool
	masked                 []string
	secrets                secrets
	limit                  limit
	plain                  plain
	stdout, stderr, runner *stream
	services               []*stream
	told                   bool // that the disk failed
}

// Open begins the log of a job and tells the server that the job runs; what is written goes there in the background.
// The returned context ends with cause job.ErrAborted when the server gives the job up. The end of ctx does not stop
// the upload: only Close does, and it must be called.
func Open(ctx context.Context, server Server, o Options) (*Trace, context.Context, error) {
	log := orDiscard(o.Log)
	o.Record.Timestamps, o.Record.Debug = o.Timestamps, o.Debug
	store, err := makeSpool(o, log)
	if err != nil {
		return nil, nil, fmt.Errorf("open job log: %w", err)
	}
	t := &Trace{
		dir: o.Dir, sections: o.Sections, timestamps: o.Timestamps, finalTries: o.FinalTries,
		spool: store, upload: newUploader(server, store, o.Dir, o.Record, log),
		canceling: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{}),
		masked: slices.Clone(o.Masked), secrets: newSecrets(o), limit: limit{max: o.Limit},
	}
	if t.finalTries <= 0 {
		t.finalTries = DefaultFinalTries
	}
	if t.limit.max <= 0 {
		t.limit.max = DefaultLimit
	}
	t.limit.notice = t.limitReached
	t.runner = t.newStream(runnerStream, false, "")
	t.stdout = t.newStream(stdoutStream, true, "")
	t.stderr = t.newStream(stderrStream, true, "")

	calls, stopCalls := context.WithCancel(context.WithoutCancel(ctx))
	ctx, cancel := context.WithCancelCause(ctx)
	t.cancel, t.stopCalls = cancel, stopCalls
	t.upload.aborted = func() { cancel(job.ErrAborted) }
	t.upload.canceling = sync.OnceFunc(func() { close(t.canceling) })
	t.upload.showLines = t.showLines
	go func() {
		defer close(t.done)
		t.upload.run(calls, t.stop)
	}()
	return t, ctx, nil
}

// makeSpool makes the spool folder, which must not exist: it could be that of an interrupted job.
func makeSpool(o Options, log *slog.Logger) (*spool, error) {
	if err := os.MkdirAll(filepath.Dir(o.Dir), 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(o.Dir, 0o700); err != nil {
		return nil, err
	}
	store, err := openSpool(o.Dir, log)
	if err == nil {
		err = o.Record.save(o.Dir)
	}
	if err != nil {
		os.RemoveAll(o.Dir)
		return nil, err
	}
	return store, nil
}

// Close ends the log with how the job did, sends it to the last byte, tells the server the final state and removes
// the spool folder. A silent result is told to nobody. ctx bounds the delivery.
//
// After an error the spool folder is still there, for Finish to try again: the server does not know how the job ended,
// or, which does no harm, the folder could not be removed.
func (t *Trace) Close(ctx context.Context, r job.Result) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return fmt.Errorf("close job log: %w", os.ErrClosed)
	}
	if !r.Silent {
		t.sayEnd(r)
	}
	t.closed = true
	t.mu.Unlock()

	defer t.cancel(nil)
	defer t.spool.close()
	if r.Silent {
		t.stopCalls()
	} else {
		t.upload.end(r)
	}
	close(t.stop)
	select {
	case <-t.done:
	case <-ctx.Done():
		t.stopCalls()
		<-t.done
	}
	t.stopCalls()
	if !r.Silent {
		if err := t.upload.finish(ctx, t.finalTries); err != nil {
			return &UndeliveredError{Dir: t.dir, Err: err}
		}
	}
	return removeDir(t.dir)
}

// UndeliveredError says that the server does not know how a job ended. What it lacks is in the spool folder, for Finish.
type UndeliveredError struct {
	Dir string // the spool folder
	Err error  // why
}

func (e *UndeliveredError) Error() string { return fmt.Sprintf("close job log: %v", e.Err) }

// Unwrap gives why it does not.
func (e *UndeliveredError) Unwrap() error { return e.Err }

// Canceling is closed when the server asks for a graceful cancel: stop the script, run after_script, then end.
func (t *Trace) Canceling() <-chan struct{} { return t.canceling }

// printing are the streams that are not the runner's own.
func (t *Trace) printing() []*stream {
	return append([]*stream{t.stdout, t.stderr}, t.services...)
}

// Stdout takes what the job prints. Its writes fail only after Close.
func (t *Trace) Stdout() io.Writer { return t.stdout }

// Stderr takes what the job prints as errors. Its writes fail only after Close.
func (t *Trace) Stderr() io.Writer { return t.stderr }

// AddMasked hides more values from now on. What is already on its way to the server cannot be hidden any more.
func (t *Trace) AddMasked(values ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.masked = append(t.masked, values...)
	t.secrets.values = newMatcher(t.masked, false)
	for _, s := range append(t.printing(), t.runner) {
		s.mask.values.use(t.secrets.values)
	}
	t.stored()
}

// Flush says that a stage begins or ends: what there is shall be seen now. The server's interval does not hold for
// it, a fifth of a second between two pieces does. What may be the beginning of a masked value stays back.
func (t *Trace) Flush() {
	t.showLines(time.Now().Add(time.Nanosecond))
	t.upload.flush()
}

// showLines makes entries of the job's open lines that are older than begunBefore.
func (t *Trace) showLines(begunBefore time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.timestamps || t.closed {
		return
	}
	for _, s := range t.printing() {
		if s.lines.show(begunBefore) {
			t.stored()
		}
	}
}

// stored follows a write to the spool.
func (t *Trace) stored() {
	if err := t.spool.lost(); err != nil && !t.told {
		t.told = true
		t.say(warning("The runner cannot store more of this job's log (" + cause(err) + "). " +
			"The job goes on, but what it prints from here on is lost."))
	}
	t.upload.poke()
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
