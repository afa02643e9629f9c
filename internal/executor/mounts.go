package executor

import (
	"context"
	"fmt"
	"os"
	"path"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/guard"
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
	if w.GitDir != "" {
		mounts = append(mounts, docker.Mount{Source: w.GitDir, Target: gitDir})
	}
	if w.ModulesDir != "" {
		mounts = append(mounts, docker.Mount{Source: w.ModulesDir, Target: modulesDir, ReadOnly: true})
	}
	return mounts
}

// ensureVolumes makes what volumes of the plan need and adds them to the container. It returns those that are no
// Mounts of the container as a guard needs them.
func (e *Executor) ensureVolumes(ctx context.Context, volumes []volume, c *docker.Container) (binds []guard.Mount, err error) {
	for _, v := range volumes {
		m := guard.Mount{Destination: path.Clean(v.target), ReadOnly: v.readOnly}
		switch {
		case v.named != "":
			dir, err := e.Engine.EnsureVolume(ctx, v.named, c.Extras.VolumeDriver, c.Extras.VolumeOptions, e.Settings.ownLabels())
			if err != nil {
				return nil, err
			}
			if c.Extras.VolumeDriver == "" {
				openVolume(dir)
			}
			c.Binds = append(c.Binds, v.named+":"+v.target)
			m.Source, m.Volume = dir, v.named
		case v.folder != "":
			if err := sharedFolder(v.folder); err != nil {
				return nil, err
			}
			c.Mounts = append(c.Mounts, docker.Mount{Source: v.folder, Target: v.target})
			continue
		case v.bind == "": // the job's own socket
			continue
		default:
			c.Binds = append(c.Binds, v.bind)
			if m.Source, m.Volume, err = e.operatorsVolume(ctx, v, c.Extras.VolumeDriver); err != nil {
				return nil, err
			}
		}
		if m.Source != "" {
			binds = append(binds, m)
		}
	}
	return binds, nil
}

// operatorsVolume says where a volume lies that the configuration names, and refuses one that leads around the guard:
// a volume of the Engine's can be a folder anywhere. An anonymous one has no place yet.
func (e *Executor) operatorsVolume(ctx context.Context, v volume, driver string) (source, name string, err error) {
	s := e.Settings
	if v.source == "" || path.IsAbs(v.source) || s.Socket == socketRaw {
		return v.source, "", nil
	}
	// As the Engine does when it creates the container.
	dir, err := e.Engine.EnsureVolume(ctx, v.source, driver, nil, nil)
	if err != nil {
		return "", "", err
	}
	known, err := e.Engine.InspectVolume(ctx, v.source)
	if err != nil {
		return "", "", err
	}
	if device := known.Options["device"]; path.IsAbs(device) {
		if s.strict() && s.isSocket(device) {
			return "", "", configurationError("name the socket itself", "volume %q of [runners.docker] is the Engine's own socket", v.bind)
		}
		if err := s.checkSource(v.bind, device, v.readOnly); err != nil {
			return "", "", err
		}
	}
	return dir, v.source, nil
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
	_, err := e.Engine.EnsureBridge(ctx, name, e.Settings.ownLabels(), docker.NetworkOptions{MTU: e.Settings.NetworkOptions.MTU})
	return err
}
