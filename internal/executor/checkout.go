package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// How often the sources may be tried to get, and how long to wait in between.
//
// GitLab: GET_SOURCES_ATTEMPTS is clamped to 1..10; without FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY there is no pause.
const (
	maxAttempts = 10
	firstPause  = 5 * time.Second
	lastPause   = 5 * time.Minute
)

// checkout fetches and lays out the sources, as often as the job allows.
func (e *Executor) checkout(ctx context.Context, tr *trace.Trace, out io.Writer, p *plan, w *source.Workspace) error {
	if t := e.Settings.GetSourcesTimeout; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, &job.Error{
			Reason: job.SystemFailure, Err: fmt.Errorf("fetching the sources took longer than %s", t), Hint: "get_sources_timeout in config.toml limits it",
		})
		defer cancel()
	}
	attempts, _ := strconv.Atoi(p.vars.Get("GET_SOURCES_ATTEMPTS"))
	attempts = min(max(attempts, 1), maxAttempts)
	pauses := e.Settings.flag("FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", p.vars)
	for try, pause := 1, firstPause; ; try, pause = try+1, min(2*pause, lastPause) {
		err := e.evenIfDenied(ctx, tr, p, func() error { return w.Checkout(ctx, out) })
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if try == attempts || errors.Is(err, source.ErrFlags) {
			return fmt.Errorf("get sources: %w", err)
		}
		if !pauses {
			fmt.Fprintf(out, "WARNING: %v; trying again from an empty folder\n", err)
			continue
		}
		fmt.Fprintf(out, "WARNING: %v; trying again in %s from an empty folder\n", err, pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// workspace opens the job's workspace.
func (e *Executor) workspace(ctx context.Context, tr *trace.Trace, p *plan) (w *source.Workspace, err error) {
	err = e.evenIfDenied(ctx, tr, p, func() error {
		w, err = e.Store.Workspace(ctx, p.source.request)
		return err
	})
	return w, err
}

// evenIfDenied also gets over what a job of another user left, which an ordinary user cannot remove: a crash kept that
// job's container from handing it over.
func (e *Executor) evenIfDenied(ctx context.Context, tr *trace.Trace, p *plan, do func() error) error {
	err := do()
	var denied *source.PermissionError
	if !errors.As(err, &denied) {
		return err
	}
	e.Log.Info("files of another user are handed over by a container", "path", denied.Path, "image", p.image.name)
	if err := e.handOverByContainer(ctx, tr, p, denied.Folders); err != nil {
		return errors.Join(denied, err)
	}
	return do()
}
