package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/source"
)

// maxAttempts is the most that GET_SOURCES_ATTEMPTS may ask for.
//
// GitLab: values are clamped to 1..10.
const maxAttempts = 10

// checkout fetches and lays out the sources, as often as the job allows.
func (e *Executor) checkout(ctx context.Context, out io.Writer, p *plan, w *source.Workspace) error {
	if t := e.Settings.GetSourcesTimeout; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, &job.Error{
			Reason: job.SystemFailure, Err: fmt.Errorf("fetching the sources took longer than %s", t), Hint: "get_sources_timeout in config.toml limits it",
		})
		defer cancel()
	}
	attempts, _ := strconv.Atoi(p.vars.Get("GET_SOURCES_ATTEMPTS"))
	attempts = min(max(attempts, 1), maxAttempts)
	for try := 1; ; try++ {
		err := e.checkoutOnce(ctx, out, p, w)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if try == attempts {
			return fmt.Errorf("get sources: %w", err)
		}
		fmt.Fprintf(out, "WARNING: %v; trying again from an empty folder\n", err)
	}
}

// checkoutOnce also gets over what a job of another user left, which an ordinary user cannot remove: a crash kept
// that job's container from doing so.
func (e *Executor) checkoutOnce(ctx context.Context, out io.Writer, p *plan, w *source.Workspace) error {
	err := w.Checkout(ctx, out)
	var denied *source.PermissionError
	if !errors.As(err, &denied) {
		return err
	}
	e.Log.Info("files of another user are handed over by a container", "path", denied.Path, "image", p.image.name)
	if err := e.handOverByContainer(ctx, p, w); err != nil {
		return errors.Join(denied, err)
	}
	return w.Checkout(ctx, out)
}
