package executor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/source"
)

// A runner that is not root cannot remove what a container's root user wrote. So the container's root gives it over
// to the runner's user before the container goes.
func handOverCommand(dirs ...string) []string {
	owner := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	// -h: never through a symlink; u+rwX: folders that the job closed can be removed too.
	return append([]string{"sh", "-c", `o=$1; shift; chown -R -h "$o" "$@" && chmod -R u+rwX "$@"`, "sh", owner}, dirs...)
}

// handOver gives the workspace's files to the runner's user inside the job's container, which it starts again if it
// has ended.
func (s *session) handOver(ctx context.Context, dirs ...string) error {
	if s.stream == nil {
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	code, output, err := s.engine.Exec(ctx, s.id, "0", handOverCommand(dirs...)...)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("chown in the container: exit code %d: %s", code, output)
	}
	return nil
}

// handOverByContainer does the same in a container made for it, of the job's own image. It is the only exception to
// one container per job: the job that left the files was interrupted with its container.
func (e *Executor) handOverByContainer(ctx context.Context, p *plan, w *source.Workspace) (err error) {
	image, err := e.Engine.InspectImage(ctx, p.image.name)
	if err != nil {
		return err
	}
	id, err := e.Engine.Create(ctx, docker.Container{
		Name: p.container.Name + "-hand-over", Image: image.ID, User: "0", Labels: p.container.Labels, Network: "none",
		Entrypoint: []string{"sh"}, Cmd: handOverCommand(p.dir, p.tempDir)[1:],
		Mounts: e.workspaceMounts(p, w),
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer cancel()
		err = errors.Join(err, e.Engine.Remove(ctx, id))
	}()
	if err := e.Engine.Start(ctx, id); err != nil {
		return err
	}
	exit, err := e.Engine.Wait(ctx, id)
	if err != nil {
		return err
	}
	if exit.Code != 0 {
		return fmt.Errorf("chown in a container of %s: exit code %d", p.image.name, exit.Code)
	}
	return nil
}
