package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/pin"
	"github.com/slipway-ci/slipway/internal/source"
)

// windowsDir has one folder per job with services.
func windowsDir(stateDir string) string { return filepath.Join(stateDir, "services") }

// SweepFolders takes away what services of killed jobs saw the projects' folders through, and the stand-ins of such folders. Nobody
// may use the state folder.
func SweepFolders(ctx context.Context, stateDir string) error {
	return errors.Join(SweepGuards(windowsDir(stateDir)), source.EmptyFolder(ctx, standInsDir(stateDir)))
}

// openWindow makes where the services get to see the project's folder. Their images are strangers that start before the
// sources are complete, and Git on the host must never work in a folder that a stranger's process can change: so what they have at
// its path is empty and read-only until then. Nobody but root can do that.
func (sv *services) openWindow() {
	if !IsAdmin() {
		return
	}
	dir := windowsDir(sv.e.Settings.StateDir)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		sv.window, err = pin.NewWindow(filepath.Join(dir, randomHex(tokenBytes)))
	}
	if err != nil {
		sv.tr.Warnf("services do not see the project's folder: %v", err)
	}
}

// withFolder adds the project's folder to a service's container, in which it is seen when it is shown.
func (sv *services) withFolder(c docker.Container) docker.Container {
	if sv.window != nil {
		// Read-only is the window, not what is shown in it.
		c.Mounts = append(slices.Clip(c.Mounts), docker.Mount{Source: sv.window.At(), Target: sv.p.dir, ReadOnly: true, Follow: true})
	}
	return c
}

// startWithoutFolder starts a service whose container did not start for why, if that is for the project's folder: the Engine may
// not see what this process mounts, or a volume is to be mounted below the folder.
func (sv *services) startWithoutFolder(ctx context.Context, s *service, c docker.Container, why error) error {
	text := why.Error()
	if sv.window == nil || !strings.Contains(text, sv.window.At()) && !strings.Contains(text, sv.p.dir) {
		return why
	}
	engine := sv.e.Engine
	if err := engine.Remove(ctx, s.id); err != nil {
		return errors.Join(why, err)
	}
	id, err := engine.Create(ctx, c)
	if err != nil {
		sv.e.forget(ctx, c.Name)
		return errors.Join(why, err)
	}
	s.id = id
	if err := engine.Start(ctx, id); err != nil {
		return err
	}
	sv.tr.Warnf("service %s does not see the project's folder: %v", s.image.name, why)
	return nil
}

// show lets the services see the project's folder. All must have been started, and the sources be complete.
func (sv *services) show(w *source.Workspace) {
	if sv.window == nil {
		return
	}
	if err := sv.tryShow(w); err != nil {
		sv.tr.Warnf("services do not see the project's folder: %v", err)
	}
}

func (sv *services) tryShow(w *source.Workspace) error {
	root, err := w.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("open the project folder: %w", err)
	}
	defer dir.Close()
	return sv.window.Show(dir)
}
