package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/script"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// container is a job's container as the place of its processes: the image's entrypoint becomes the shell.
type container struct {
	engine     *docker.Engine
	id         string
	socket     *jobSocket // of the job's own; nil = none
	standIns   *standIns  // of the folders that Git works in; nil = none
	shell      string     // "sh" leaves bash out
	tr         *trace.Trace
	log        *slog.Logger
	limited    bool                            // in its memory
	sharesPIDs bool                            // with the host or another container
	network    func(ctx context.Context) error // makes sure of the container's network
}

// start implements place: it attaches to the container and starts it.
func (c *container) start(ctx context.Context, stdout, stderr io.Writer) (*shell, error) {
	sh, err := c.tryStart(ctx, stdout, stderr)
	// Somebody removed it after the container was made, or is at it: until it is gone, the Engine shows it to who looks for it.
	for try := 0; docker.IsNoNetwork(err) && try < networkTries; try++ {
		select {
		case <-time.After(time.Duration(try) * networkPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if err = c.network(ctx); err == nil {
			sh, err = c.tryStart(ctx, stdout, stderr)
		}
	}
	if docker.IsNotFound(err) && !docker.IsNoNetwork(err) {
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	if err != nil {
		return nil, cmp.Or(c.away(ctx), startFailure(err))
	}
	return sh, nil
}

// How often a network is made anew for a container that does not start without, and how much longer each time is waited before that.
const (
	networkTries = 6
	networkPause = 100 * time.Millisecond
)

// tryStart leaves nothing attached if it fails: the Engine lets go of the streams of a container that does not start.
func (c *container) tryStart(ctx context.Context, stdout, stderr io.Writer) (*shell, error) {
	stream, err := c.engine.Attach(ctx, c.id)
	if err != nil {
		return nil, err
	}
	sh := &shell{stream, make(chan struct{})}
	go func() {
		defer close(sh.ended)
		_ = stream.Copy(stdout, stderr) // how it ended is asked of the Engine
	}()
	if err := c.engine.Start(ctx, c.id); err != nil {
		sh.Close()
		<-sh.ended
		return nil, err
	}
	if c.socket != nil {
		if err := c.socket.JobStarted(ctx); err != nil {
			c.tr.Warnf("published ports of the job's containers are not reachable at localhost: %v", err)
		}
	}
	return sh, nil
}

// errGone: somebody removed the job's container.
var errGone = errors.New("the job's container is gone")

// renew makes another container in the place of one that is gone, with a socket of its own.
func (e *Executor) renew(ctx context.Context, tr *trace.Trace, p *plan, w *source.Workspace, s *session, sv *services) error {
	s.close()
	var si *standIns
	if c, ok := s.place.(*container); ok {
		c.socket.close(ctx)
		c.socket.removeCgroup()
		si = c.standIns
	}
	another, err := e.create(ctx, tr, p, w, sv, si)
	if err == nil {
		*s = *another
	}
	return err
}

// line implements place.
func (c *container) line(path, nonce string) string { return script.Run(c.shell, path, nonce) }

// terminate implements place. That an image has no kill is no failure.
func (c *container) terminate(ctx context.Context) bool {
	if c.sharesPIDs {
		_ = c.kill(ctx) // TERM would reach the processes of others
		return false
	}
	code, _, err := c.engine.Exec(ctx, c.id, "0", script.Terminate()...)
	return err == nil && code == 0
}

// kill implements place.
func (c *container) kill(ctx context.Context) error { return c.engine.Kill(ctx, c.id) }

// notRunning is how long somebody may wait for a container that is about to be started, or has ended for good.
const notRunning = 30 * time.Second

// terminal implements place.
func (c *container) terminal(ctx context.Context, p *plan, in io.Reader, out io.Writer) error {
	for began := time.Now(); ; {
		err := c.engine.Terminal(ctx, c.id, p.dir, in, out, script.Shell(c.shell)...)
		if !docker.IsNotRunning(err) || time.Since(began) > notRunning {
			return err
		}
		select { // it is about to be started, for the first time or again
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// readable implements place.
func (c *container) readable(ctx context.Context, s *session, dirs ...string) error {
	if os.Geteuid() == 0 || !s.ran {
		return nil
	}
	return c.handOver(ctx, s, dirs...)
}

// clear implements place: it removes the container.
func (c *container) clear(ctx context.Context, s *session, dirs ...string) {
	if err := c.readable(ctx, s, dirs...); err != nil {
		c.log.Warn("files of the job's root user stay until the next job", "error", err)
	}
	// Before the job's container goes: nothing of the job is to start anything while it ends.
	c.socket.close(ctx)
	if err := c.engine.Remove(ctx, c.id); err != nil {
		c.log.Warn("the job's container cannot be removed now; trying again", "container", c.id, "error", err)
		go removeLater(context.WithoutCancel(ctx), c.engine, c.id, c.log)
	} else {
		c.socket.removeCgroup()
	}
	s.close()
}

// scriptEnd implements place.
func (c *container) scriptEnd(ctx context.Context, code int) error {
	return exitError(code, memoryHint(c.starved(ctx, code)))
}

// starved reports whether a process of the container was killed for want of memory. The news of that comes on another way than the
// exit code, and maybe later.
func (c *container) starved(ctx context.Context, code int) bool {
	if code == 0 || !c.limited {
		return false
	}
	patience := 200 * time.Millisecond
	if code == killed {
		patience = 2 * time.Second // something did it
	}
	oom, _ := c.engine.OOMKilled(ctx, c.id, patience) // a hint only
	return oom
}

// shellEnd implements place.
func (c *container) shellEnd(ctx context.Context) error {
	how, err := c.engine.Wait(ctx, c.id)
	// An Engine that ends kills its containers first: that is not the script's fault.
	if away := c.away(ctx); away != nil {
		return away
	}
	if docker.IsNotFound(err) {
		return fmt.Errorf("%w: %w", errGone, err)
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
	return exitError(how.Code, memoryHint(how.OOMKilled || how.Code == killed && c.starved(ctx, how.Code)))
}

// away is why a job failed whose Engine does not answer any more; nil if it does.
func (c *container) away(ctx context.Context) error {
	err := c.engine.Ping(ctx)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return &job.Error{
		Reason: job.SystemFailure, Err: fmt.Errorf("the Docker Engine went away while the job ran: %w", err),
		Hint: "run the job again: the Engine of the runner's machine was stopped or restarted",
	}
}

const entrypointHint = `the image's entrypoint must exec the command it is given; image: entrypoint: [""] leaves it out`

// The exit code of a process that was ended by a signal is this and the signal's number.
const (
	signaled = 128
	killed   = signaled + 9 // KILL's
)

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
