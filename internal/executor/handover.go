package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/trace"
)

// A runner that is not root cannot remove what a container's root user wrote. So the container's root gives it over
// to the runner's user before the container goes.
func handOverCommand(dirs ...string) []string {
	owner := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	return append([]string{"sh", "-c", handOverScript, "sh", owner}, dirs...)
}

// A path can be longer than the system takes, so folders that lie too deep are brought up, as often as it helps.
// -h: never through a symlink; u+rwX: folders that the job closed can be removed too.
const handOverScript = `owner=$1; shift; code=0
until said=$(LC_ALL=C chown -R -h "$owner" "$@" 2>&1); do
	moved=
	case $said in *"ame too long"*)
		moved=$(for dir; do find "$dir" -mindepth 12 -maxdepth 12 -type d -exec sh -c 'mv "$1" "$0/slipway-$$" && echo moved' "$dir" {} \;; done)
	esac
	test "$moved" || { code=1; echo "$said"; break; }
done
chmod -R u+rwX "$@" && exit $code`

// handOver gives the workspace's files to the runner's user inside the job's container, which it starts again if it
// has ended.
func (c *container) handOver(ctx context.Context, s *session, dirs ...string) error {
	if s.shell == nil {
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	code, output, err := c.engine.Exec(ctx, c.id, "0", handOverCommand(dirs...)...)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("chown in the container: exit code %d: %.500s", code, output)
	}
	return nil
}

// handOverByContainer does the same in a container made for it, of the job's own image. It is the only exception to
// one container per job: the job that left the files was interrupted with its container.
func (e *Executor) handOverByContainer(ctx context.Context, tr *trace.Trace, p *plan, folders []string) (err error) {
	image, err := e.ensureImage(ctx, tr, p, p.image)
	if err != nil {
		return err
	}
	var mounts []docker.Mount
	var dirs []string
	for i, folder := range folders {
		if st, err := os.Lstat(folder); err != nil || !st.IsDir() {
			continue
		}
		dirs = append(dirs, fmt.Sprintf("/.slipway/%d", i))
		mounts = append(mounts, docker.Mount{Source: folder, Target: dirs[len(dirs)-1]})
	}
	name, labels := p.container.Name+"-hand-over", maps.Clone(p.container.Labels)
	labels[labelName] = name
	id, err := e.Engine.Create(ctx, docker.Container{
		Name: name, Image: image.ID, User: "0", Labels: labels, Network: "none",
		Entrypoint: []string{"sh"}, Cmd: handOverCommand(dirs...)[1:], Mounts: mounts,
		Security: docker.Security{UsernsMode: p.container.Security.UsernsMode, SecurityOpt: p.container.Security.SecurityOpt},
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
