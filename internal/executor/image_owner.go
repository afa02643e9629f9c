package executor

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/trace"
)

// imageCalls are the Engine's calls that the ledger makes.
type imageCalls struct {
	*docker.Engine
	images *ledger.Ledger
}

// Tag implements ledger.Engine.
func (c imageCalls) Tag(ctx context.Context, id, name string) error {
	return c.images.Naming(ctx, c, name, id, func() error { return c.Engine.Tag(ctx, id, name) })
}

// Untag implements ledger.Engine.
func (c imageCalls) Untag(ctx context.Context, name string) error {
	err := c.images.Naming(ctx, c, name, "", func() error { return c.Engine.Untag(ctx, name) })
	if docker.IsUnreachable(err) {
		return fmt.Errorf("%w: %w", ledger.ErrNoAnswer, err)
	}
	return err
}

// Image implements ledger.Engine.
func (c imageCalls) Image(ctx context.Context, ref string) (ledger.Image, error) {
	img, err := c.InspectImage(ctx, ref)
	if docker.IsNotFound(err) {
		return ledger.Image{}, nil
	}
	return ledger.Image{ID: img.ID, RepoTags: img.RepoTags, RepoDigests: img.RepoDigests}, err
}

// ExpireImages removes the names that jobs gave to images and that none has used for a while.
func ExpireImages(ctx context.Context, engine *docker.Engine, images *ledger.Ledger, log *slog.Logger) error {
	names, err := images.Expire(ctx, imageCalls{engine, images}, time.Now(), ledger.UnusedFor)
	for _, name := range names {
		log.Info("removed an image's name that no job has used for a while", "image", name)
	}
	return err
}

// EvictImages removes such names after less time, the longest unused first, while more says so, and says how many.
func EvictImages(ctx context.Context, engine *docker.Engine, images *ledger.Ledger, unused time.Duration, more func() bool) (int, error) {
	names, err := images.Evict(ctx, imageCalls{engine, images}, time.Now(), unused, more)
	return len(names), err
}

// RepairImages undoes what killed processes left of the names of images.
func RepairImages(ctx context.Context, engine *docker.Engine, images *ledger.Ledger) error {
	return images.Repair(ctx, imageCalls{engine, images})
}

// imageScope is whose images the job may use.
func (s Settings) imageScope(p *plan) ledger.Scope {
	return ledger.Scope{ID: s.scope(p.spec), Path: ownImagePath(p.spec)}
}

// localImage finds an image of the job on the Engine, if it may be taken from there: it is the operator's, it was pulled
// without credentials, it is the job's own scope's, or it was pulled with credentials and the registry gives it to this
// job as well. ok is false if there is none, or none for this job: the two are not to be told apart.
func (e *Executor) localImage(ctx context.Context, tr *trace.Trace, p *plan, im imagePlan) (img docker.Image, ok bool, err error) {
	name, scope := im.name, e.Settings.imageScope(p)
	if e.Settings.Guard.Ledger == nil {
		img, err := e.Engine.InspectImage(ctx, name)
		if docker.IsNotFound(err) {
			return docker.Image{}, false, nil
		}
		return img, err == nil, err
	}
	found, err := e.Settings.Guard.Ledger.Find(ctx, imageCalls{e.Engine, e.Settings.Guard.Ledger}, scope, name)
	if err != nil || found.ID == "" {
		return docker.Image{}, false, err
	}
	if found.Private {
		auth, _ := e.auth(ctx, tr, p, name)
		if err := e.Engine.MayPull(ctx, name, auth); err != nil {
			tr.Printf("The image is on this machine, but its registry does not give it to this job: %v", err)
			return docker.Image{}, false, ctx.Err()
		}
	}
	if strings.HasPrefix(found.Stored, ledger.Host+"/") {
		tr.Printf("Using the image that a job of this project named %s", name)
		if err := e.Settings.Guard.Ledger.Use(found.Stored, time.Now()); err != nil {
			return docker.Image{}, false, err
		}
	}
	img, err = e.Engine.InspectImage(ctx, found.ID)
	return img, err == nil, err
}

// pullImage pulls an image of the job and records whose it is.
func (e *Executor) pullImage(ctx context.Context, p *plan, im imagePlan, auth docker.Credentials) (docker.Image, error) {
	name := im.name
	pull := func(ctx context.Context) error { return e.Engine.Pull(ctx, name, im.platform, auth) }
	images := e.Settings.Guard.Ledger
	request, err := ledger.PullOf(e.Settings.imageScope(p), name, auth != (docker.Credentials{}))
	request.Platform = im.platform != ""
	if images == nil || err != nil { // it is an ID, then: the Engine says that it cannot be pulled
		if err := pull(ctx); err != nil {
			return docker.Image{}, err
		}
		return e.Engine.InspectImage(ctx, name)
	}
	_, id, err := images.Pull(ctx, imageCalls{e.Engine, images}, request, pull)
	if err != nil {
		return docker.Image{}, err
	}
	return e.Engine.InspectImage(ctx, id)
}
