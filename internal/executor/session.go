package executor

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/slipway-ci/slipway/internal/script"
	"github.com/slipway-ci/slipway/internal/trace"
)

// session is the job's shell: it reads lines from stdin, each line runs one stage, and marks in the output say how the stage
// ended. When the shell has ended, the next stage starts it again.
type session struct {
	place place
	grace time.Duration // from TERM to KILL
	tr    *trace.Trace

	ran            bool   // it was started once
	shell          *shell // nil while it is not running
	stdout, stderr *markWriter
	broken         chan error // what it prints cannot be passed on
}

// place is where a job's processes are: its container, or this machine.
type place interface {
	// start starts the shell; what it and its children print goes to the writers. The end of ctx does not stop it.
	start(ctx context.Context, stdout, stderr io.Writer) (*shell, error)
	// line makes the shell run a script and print its exit code (script.Run).
	line(path, nonce string) string
	// terminate asks all other processes to end and waits for them until ctx ends; false if that cannot be done.
	terminate(ctx context.Context) bool
	kill(ctx context.Context) error
	// scriptEnd says how a script ended while the shell goes on, shellEnd how the shell ended under a script.
	scriptEnd(ctx context.Context, code int) error
	shellEnd(ctx context.Context) error
	// readable lets this process read and remove what the job wrote to the folders, named as the job does.
	readable(ctx context.Context, s *session, dirs ...string) error
	// terminal runs a shell for somebody beside the job's processes, on a terminal of its own, until it ends or ctx does.
	terminal(ctx context.Context, p *plan, in io.Reader, out io.Writer) error
	// clear ends all that the job left there, and lets nothing new begin.
	clear(ctx context.Context, s *session, dirs ...string)
}

// shell is a running one.
type shell struct {
	io.WriteCloser               // its stdin. Close also lets go of its output
	ended          chan struct{} // closed when it has ended, and all that it printed is passed on
}

// streams is how many streams end with a mark: stdout and stderr.
const streams = 2

// startTimeout bounds what the Engine may take to start a container.
const startTimeout = time.Minute

// start starts the shell. It is not to be interrupted: the Engine would go on, and leave a container without anybody at its
// stdin.
func (s *session) start(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	s.ran = true
	s.passOn(s.tr.Stdout(), s.tr.Stderr())
	s.shell, err = s.place.start(ctx, s.stdout, s.stderr)
	return err
}

// passOn says where what the shell prints goes.
func (s *session) passOn(stdout, stderr io.Writer) {
	broken := make(chan error, streams)
	tell := func(err error) { broken <- err } // once for each stream, which ends with it
	s.broken, s.stdout, s.stderr = broken, &markWriter{out: stdout, broken: tell}, &markWriter{out: stderr, broken: tell}
}

// close lets go of the shell, which may go on.
func (s *session) close() {
	if s.shell == nil {
		return
	}
	s.shell.Close()
	<-s.shell.ended
	s.over()
}

// over is called when all that the shell printed is passed on.
func (s *session) over() {
	s.stdout.flush()
	s.stderr.flush()
	s.shell = nil
}

// run runs the script at path and returns nil if it exits with 0. The end of ctx stops it gently: TERM, the grace
// period, KILL. The end of jobCtx, of which ctx is a child, leaves it at once: its place is about to be cleared.
// The error of a stopped script is the cause.
func (s *session) run(jobCtx, ctx context.Context, path string) error {
	if s.shell == nil {
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	nonce := randomHex(16)
	codes := make(chan int, streams)
	s.stdout.await(script.Mark(nonce), func(code int) { codes <- code })
	s.stderr.await(script.Mark(nonce), func(code int) { codes <- code })
	if _, err := s.shell.Write([]byte(s.place.line(path, nonce))); err != nil {
		s.shell.Close() // a shell that has ended says more than a broken pipe
	}
	for seen := 0; ; {
		select {
		case code := <-codes:
			if seen++; seen < streams {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return s.place.scriptEnd(ctx, code)
		case err := <-s.broken:
			return errors.Join(err, s.kill(ctx))
		case <-s.shell.ended:
			if len(s.broken) > 0 { // and it may go on, unheard
				return errors.Join(<-s.broken, s.kill(ctx))
			}
			s.over()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return s.place.shellEnd(ctx)
		case <-jobCtx.Done():
			return context.Cause(jobCtx)
		case <-ctx.Done():
			return s.stop(jobCtx, ctx, codes, streams-seen)
		}
	}
}

// stop asks the job's processes to end, and ends them when the grace period is over. It returns when the script and all that it
// started have ended, with the cause of ctx; awaited are the marks still to come.
func (s *session) stop(jobCtx, ctx context.Context, codes <-chan int, awaited int) error {
	if jobCtx.Err() != nil {
		return context.Cause(jobCtx)
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	gone := make(chan struct{})
	go func() {
		if s.place.terminate(grace) {
			close(gone)
		}
	}()
	for left := gone; left != nil || awaited > 0; {
		select {
		case <-codes:
			awaited--
		case <-left:
			left = nil
		case <-s.shell.ended:
			s.over()
			return context.Cause(ctx)
		case <-jobCtx.Done():
			return context.Cause(jobCtx)
		case <-grace.Done():
			return s.kill(ctx)
		}
	}
	return context.Cause(ctx)
}

// end ends all that a script has left running, and the shell: the next script has another one.
func (s *session) end(ctx context.Context) error {
	if s.shell == nil {
		return s.place.kill(ctx)
	}
	return s.kill(ctx)
}

// kill ends the shell and all else by force and waits for the last of the output.
func (s *session) kill(ctx context.Context) error {
	cause := context.Cause(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	if err := s.place.kill(ctx); err != nil {
		return errors.Join(cause, err)
	}
	select {
	case <-s.shell.ended:
		s.over()
	case <-ctx.Done():
		s.close()
	}
	return cause
}
