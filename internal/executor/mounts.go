package executor

import (
	"context"
	"fmt"
	"os"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/source"
)

// workspaceMounts puts the project, its temporary folder and the mirror's objects into the container. Each is mounted
// by itself, so that no job can write to a folder that the host passes on its way to them.
func (e *Executor) workspaceMounts(p *plan, w *source.Workspace) []docker.Mount {
	mounts := []docker.Mount{
		{Source: w.Dir, Target: p.dir},
		{Source: w.TempDir, Target: p.tempDir},
	}
	if w.ObjectsDir != "" {
		mounts = append(mounts, docker.Mount{Source: w.ObjectsDir, Target: objectsDir, ReadOnly: true})
	}
	return mounts
}

// ensureVolumes makes what the volumes of the plan need and adds them to the container.
func (e *Executor) ensureVolumes(ctx context.Context, p *plan, c *docker.Container) error {
	for _, v := range p.volumes {
		switch {
		case v.named != "":
			dir, err := e.Engine.EnsureVolume(ctx, v.named, c.Extras.VolumeDriver, nil, e.Settings.ownLabels())
			if err != nil {
				return err
			}
			if c.Extras.VolumeDriver == "" {
				openVolume(dir)
			}
			c.Binds = append(c.Binds, v.named+":"+v.target)
		case v.folder != "":
			if err := sharedFolder(v.folder); err != nil {
				return err
			}
			c.Mounts = append(c.Mounts, docker.Mount{Source: v.folder, Target: v.target})
		default:
			c.Binds = append(c.Binds, v.bind)
		}
	}
	return nil
}

// sharedFolder makes a folder that every user of a container may write to, below folders that only we may enter.
func sharedFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make cache folder: %w", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil && !os.IsPermission(err) {
		return fmt.Errorf("open cache folder to jobs: %w", err)
	}
	return nil
}

// openVolume lets every user of a container write to a volume that is still empty, where we may. What the image has at
// that place is copied into it later, with its own mode.
//
// GitLab: the same, in a container made for it.
func openVolume(dir string) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) == 0 {
		_ = os.Chmod(dir, 0o777)
	}
}

// ensureNetwork makes sure of the bridge that jobs share; others are the operator's to make.
func (e *Executor) ensureNetwork(ctx context.Context, name string) error {
	if name != e.Settings.Network {
		return nil
	}
	_, err := e.Engine.EnsureBridge(ctx, name, e.Settings.ownLabels())
	return err
}
