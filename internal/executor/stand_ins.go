package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// standInsDir has one folder per job with a pre_get_sources_script.
func standInsDir(stateDir string) string { return filepath.Join(stateDir, "stand-ins") }

// standIns are empty folders that a job's container has in the place of those that Git works in, for as long as the sources are not
// complete: what runs in the container meanwhile must not get at these. The Engine is given links, which it follows each time that it
// starts the container. So what has come with one start never sees where the links lead at the next. Nil ones are none.
type standIns struct {
	dir     string            // nobody else can write to it, or move what is in it
	folders []string          // the empty ones
	links   map[string]string // by the folder that they will lead to
}

// newStandIns makes them, also with an error. Whoever is in the container may do as he likes with what is in them.
func (e *Executor) newStandIns(p *plan, w *source.Workspace) (*standIns, error) {
	si := &standIns{dir: filepath.Join(standInsDir(e.Settings.StateDir), randomHex(tokenBytes)), links: map[string]string{}}
	if err := os.MkdirAll(si.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a stand-in of the project folder: %w", err)
	}
	for _, folder := range []string{w.Dir, w.GitDir} {
		if folder == "" {
			continue
		}
		empty := filepath.Join(si.dir, strconv.Itoa(len(si.links)))
		si.links[folder] = empty + ".link"
		si.folders = append(si.folders, empty)
		if err := errors.Join(os.Mkdir(empty, 0o700), os.Chmod(empty, 0o777), os.Symlink(empty, si.links[folder])); err != nil {
			return si, fmt.Errorf("make a stand-in of the project folder: %w", err)
		}
	}
	return si, si.give(p.source.request.Owner)
}

// give makes a user the owner of the empty folders. Nothing may have been started yet.
func (si *standIns) give(o *source.Owner) error {
	if si == nil || o == nil {
		return nil
	}
	for _, dir := range si.folders {
		if err := os.Chown(dir, o.UID, o.GID); err != nil {
			return fmt.Errorf("own a stand-in of the project folder: %w", err)
		}
	}
	return nil
}

// instead is the mounts with links for the folders that have them.
func (si *standIns) instead(mounts []docker.Mount) []docker.Mount {
	if si == nil {
		return mounts
	}
	for i, m := range mounts {
		if link, ok := si.links[m.Source]; ok {
			mounts[i].Source = link
		}
	}
	return mounts
}

// replace lets the folders themselves be seen by what starts from now on.
func (si *standIns) replace() error {
	for folder, link := range si.links {
		if err := errors.Join(os.Symlink(folder, link+".new"), os.Rename(link+".new", link)); err != nil {
			return fmt.Errorf("replace the stand-in of the project folder: %w", err)
		}
	}
	return nil
}

// close removes them. Nothing of the job may run any more.
func (si *standIns) close(ctx context.Context) error {
	if err := source.EmptyFolder(ctx, si.dir); err != nil {
		return err
	}
	return os.Remove(si.dir)
}

// closeStandIns removes the stand-ins of a job that is over, also where what its root user left is not this process's to remove.
func (e *Executor) closeStandIns(ctx context.Context, tr *trace.Trace, p *plan, si *standIns) {
	if si == nil {
		return
	}
	err := si.close(ctx)
	if errors.Is(err, fs.ErrPermission) && !IsAdmin() {
		if err = e.handOverByContainer(ctx, tr, p, si.folders); err == nil {
			err = si.close(ctx)
		}
	}
	if err != nil {
		e.Log.Warn("the stand-in of a project folder stays until the next start", "error", err)
	}
}

// show lets the container have the folders from its next start on. It must have ended, and the sources be complete.
func (c *container) show() error {
	if err := c.standIns.replace(); err != nil {
		return err
	}
	if c.socket != nil {
		c.socket.PlacesChanged()
	}
	return nil
}
