package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// checkout fetches and lays out the sources, as often as the job allows. before, which may be nil, belongs to each try.
func (e *Executor) checkout(ctx context.Context, tr *trace.Trace, out io.Writer, p *plan, w *source.Workspace, before func(ctx context.Context) error) (err error) {
	defer mishap.Catch(e.Log, "the sources", &err) // it has a goroutine for itself
	if t := e.Settings.GetSourcesTimeout; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, &job.Error{
			Reason: job.SystemFailure, Err: fmt.Errorf("fetching the sources took longer than %s", t), Hint: "get_sources_timeout in config.toml limits it",
		})
		defer cancel()
	}
	err = e.attempt(ctx, p, "GET_SOURCES_ATTEMPTS",
		func() error {
			if before != nil {
				if err := before(ctx); err != nil {
					return err
				}
			}
			return e.evenIfDenied(ctx, tr, p, func() error { return w.Checkout(ctx, out) })
		},
		func(err error, pause time.Duration) bool {
			switch {
			case errors.Is(err, source.ErrFlags):
				return false
			case pause == 0:
				fmt.Fprintf(out, "WARNING: %v; trying again from an empty folder\n", err)
			default:
				fmt.Fprintf(out, "WARNING: %v; trying again in %s from an empty folder\n", err, pause)
			}
			return true
		})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("get sources: %w", err)
	}
	return err
}

// workspace opens the job's workspace.
func (e *Executor) workspace(ctx context.Context, tr *trace.Trace, p *plan) (w *source.Workspace, err error) {
	err = e.evenIfDenied(ctx, tr, p, func() error {
		w, err = e.Store.Workspace(ctx, p.source.request)
		return err
	})
	return w, err
}

// findOwner finds the user of the job's container, who is to own the sources, caches and artifacts: under a umask of 0022 he could
// change none of them.
func (e *Executor) findOwner(ctx context.Context, p *plan, image docker.Image) error {
	name := p.container.Name + "-user"
	labels := maps.Clone(p.container.Labels)
	labels[labelName] = name // by which a sweep knows it
	probe := docker.Container{Name: name, Image: image.ID, Platform: p.container.Platform, Labels: labels}
	// Not to be interrupted: the Engine would go on, and leave a container that nobody knows.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	uid, gid, err := e.Engine.UserOf(ctx, probe, cmp.Or(p.container.User, image.User))
	if err != nil {
		e.forget(ctx, name) // if it was left
	}
	if errors.Is(err, docker.ErrNoUser) {
		return configurationError("check image: docker: user: in .gitlab-ci.yml, or user in [runners.docker]", "%w", err)
	}
	if err != nil {
		return err
	}
	owner, group, known := e.Settings.Guard.Machine.OnMachine(p.container.Security.UsernsMode, uid, gid)
	if !known {
		return configurationError("let the job run as another user", "user %d:%d of the image is none that the Engine has a user of the machine for (userns-remap)", uid, gid)
	}
	p.source.request.Owner = &source.Owner{UID: owner, GID: group}
	return nil
}

// evenIfDenied also gets over what a job of another user left, which an ordinary user cannot remove: a crash kept that
// job's container from handing it over.
func (e *Executor) evenIfDenied(ctx context.Context, tr *trace.Trace, p *plan, do func() error) error {
	err := do()
	var denied *source.PermissionError
	if !errors.As(err, &denied) {
		return err
	}
	if e.Settings.Account != nil {
		return &job.Error{
			Reason: job.SystemFailure, Err: err,
			Hint: "the operator must remove it; with slipway run by root, and user in [[runners]], what jobs leave of other users is removed",
		}
	}
	e.Log.Info("files of another user are handed over by a container", "path", denied.Path, "image", p.image.name)
	if err := e.handOverByContainer(ctx, tr, p, denied.Folders); err != nil {
		return errors.Join(denied, err)
	}
	return do()
}
