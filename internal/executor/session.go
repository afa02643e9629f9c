package executor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/script"
	"github.com/slipway-ci/slipway/internal/trace"
)

// session is the job's container while it runs: the shell that the image's entrypoint became reads lines from stdin,
// each line runs one stage, and marks in the output say how the stage ended. When the container has ended, the next
// stage starts it again.
type session struct {
	engine *docker.Engine
	id     string
	socket *jobSocket // of the job's own; nil = none
	shell  string
	grace  time.Duration // from TERM to KILL
	tr     *trace.Trace

	limited    bool                            // in its memory
	sharesPIDs bool                            // with the host or another container
	network    func(ctx context.Context) error // makes sure of the container's network

	ran            bool           // it was started once
	stream         *docker.Stream // nil while the container is not running
	ended          chan struct{}  // closed when the stream has ended
	stdout, stderr *markWriter
}

// streams is how many streams end with a mark: stdout and stderr.
const streams = 2

// startTimeout bounds what the Engine may take to start a container.
const startTimeout = time.Minute

// start attaches to the container and starts it. It is not to be interrupted: the Engine would go on, and leave a
// container without anybody at its stdin.
func (s *session) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	s.ran = true
	err := s.tryStart(ctx)
	if docker.IsNoNetwork(err) { // somebody removed it after the container was made
		if err = s.network(ctx); err == nil {
			err = s.tryStart(ctx)
		}
	}
	if err != nil {
		return startFailure(err)
	}
	return nil
}

// tryStart leaves nothing attached if it fails: the Engine lets go of the streams of a container that does not start.
func (s *session) tryStart(ctx context.Context) error {
	stream, err := s.engine.Attach(ctx, s.id)
	if err != nil {
		return err
	}
	s.stream, s.ended = stream, make(chan struct{})
	s.stdout, s.stderr = &markWriter{out: s.tr.Stdout()}, &markWriter{out: s.tr.Stderr()}
	go func() {
		defer close(s.ended)
		_ = stream.Copy(s.stdout, s.stderr) // how it ended is asked of the Engine
		s.stdout.flush()
		s.stderr.flush()
	}()
	if err := s.engine.Start(ctx, s.id); err != nil {
		s.close()
		return err
	}
	if s.socket != nil {
		if err := s.socket.JobStarted(ctx); err != nil {
			s.tr.Warnf("published ports of the job's containers are not reachable at localhost: %v", err)
		}
	}
	return nil
}

// close lets go of the container, which may go on.
func (s *session) close() {
	if s.stream == nil {
		return
	}
	s.stream.Close()
	<-s.ended
	s.stream = nil
}

// run runs the script at path and returns nil if it exits with 0. The end of ctx stops it gently: TERM, the grace
// period, KILL. The end of jobCtx, of which ctx is a child, leaves it at once: the container is about to be removed.
// The error of a stopped script is the cause.
func (s *session) run(jobCtx, ctx context.Context, path string) error {
	if s.stream == nil {
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
	if _, err := s.stream.Write([]byte(script.Run(s.shell, path, nonce))); err != nil {
		s.stream.Close() // a container that has ended says more than a broken pipe
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
			return s.scriptEnd(ctx, code)
		case <-s.ended:
			s.stream = nil
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return s.containerEnd(ctx)
		case <-jobCtx.Done():
			return context.Cause(jobCtx)
		case <-ctx.Done():
			return s.stop(jobCtx, ctx, codes, streams-seen)
		}
	}
}

// stop asks the processes of the container to end, and ends them when the grace period is over. It returns when the
// script and all that it started have ended, with the cause of ctx; awaited are the marks still to come.
func (s *session) stop(jobCtx, ctx context.Context, codes <-chan int, awaited int) error {
	if jobCtx.Err() != nil {
		return context.Cause(jobCtx)
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	if s.sharesPIDs {
		cancel() // TERM would reach the processes of others
	}
	gone := make(chan struct{})
	go func() {
		// That an image has no kill is no failure: KILL follows.
		if code, _, err := s.engine.Exec(grace, s.id, "0", script.Terminate()...); err == nil && code == 0 {
			close(gone)
		}
	}()
	for left := gone; left != nil || awaited > 0; {
		select {
		case <-codes:
			awaited--
		case <-left:
			left = nil
		case <-s.ended:
			s.stream = nil
			return context.Cause(ctx)
		case <-jobCtx.Done():
			return context.Cause(jobCtx)
		case <-grace.Done():
			return s.kill(ctx)
		}
	}
	return context.Cause(ctx)
}

// kill ends the container by force and waits for the last of its output.
func (s *session) kill(ctx context.Context) error {
	cause := context.Cause(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	if err := s.engine.Kill(ctx, s.id); err != nil {
		return errors.Join(cause, err)
	}
	select {
	case <-s.ended:
		s.stream = nil
	case <-ctx.Done():
		s.close()
	}
	return cause
}

// scriptEnd says how a script ended whose container goes on.
func (s *session) scriptEnd(ctx context.Context, code int) error {
	oom := false
	if code != 0 && s.limited {
		oom, _ = s.engine.OOMKilled(ctx, s.id) // a hint only
	}
	return exitError(code, memoryHint(oom))
}

// containerEnd says how the container ended under a script.
func (s *session) containerEnd(ctx context.Context) error {
	how, err := s.engine.Wait(ctx, s.id)
	// An Engine that ends kills its containers first: that is not the script's fault.
	if away := s.engine.Ping(ctx); away != nil && ctx.Err() == nil {
		return &job.Error{
			Reason: job.SystemFailure, Err: fmt.Errorf("the Docker Engine went away while the job ran: %w", away),
			Hint: "run the job again: the Engine of the runner's machine was stopped or restarted",
		}
	}
	if err != nil {
		return fmt.Errorf("the container was lost: %w", err)
	}
	switch {
	case how.Code == 0:
		return configurationError(entrypointHint, "the container ended before the script did")
	case how.Code < signaled: // nothing that a script can do ends its container this way
		return exitError(how.Code, entrypointHint)
	}
	return exitError(how.Code, memoryHint(how.OOMKilled))
}

const entrypointHint = `the image's entrypoint must exec the command it is given; image: entrypoint: [""] leaves it out`

// The exit code of a process that was ended by a signal is this and the signal's number.
const signaled = 128

func exitError(code int, hint string) error {
	if code == 0 {
		return nil
	}
	return &job.Error{Reason: job.ScriptFailure, ExitCode: code, Err: fmt.Errorf("exit code %d", code), Hint: hint}
}

func memoryHint(oom bool) string {
	if !oom {
		return ""
	}
	return "a process was killed for want of memory: let the job use less, or raise memory in [runners.docker]"
}

// createFailure explains why there is no container where the job can mend it.
func createFailure(err error) error {
	if strings.Contains(err.Error(), "does not match the specified platform") {
		return configurationError("pull_policy: always fetches the image for the platform that image: docker: platform: names",
			"the image is on this machine for another platform: %w", err)
	}
	return err
}

// startFailure explains why a container does not start where the job can mend it.
func startFailure(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, `"sh"`) && (strings.Contains(text, "executable file not found") || strings.Contains(text, "no such file")):
		return configurationError("use an image with a shell (a -debug variant, or one with busybox)", "the image has no sh, which runs the script: %w", err)
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"), strings.Contains(text, "permission denied: unknown"):
		return configurationError("check image: entrypoint: in .gitlab-ci.yml and the image itself", "the container does not start: %w", err)
	case strings.Contains(text, "unable to find user"), strings.Contains(text, "no matching entries in passwd"):
		return configurationError("check image: docker: user: in .gitlab-ci.yml, or user in [runners.docker]", "the container does not start: %w", err)
	case strings.Contains(text, "argument list too long"):
		return configurationError("make the largest ones file variables (type File)", "the variables are too large for the environment: %w", err)
	}
	return err
}
