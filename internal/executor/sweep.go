package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/guard"
)

// Sweep removes the containers that instances of Slipway left on the Engine when they were killed, and the networks
// and volumes of those that were to leave nothing. free says whether nobody holds the lock of that instance's state
// folder; what belongs to one whose lock is held is never touched. An instance sweeps before its first job, so for
// it its own objects are free.
func Sweep(ctx context.Context, engine *docker.Engine, free func(stateDir, instance string) bool, log *slog.Logger) error {
	containers, err := engine.Containers(ctx, labelInstance)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range containers {
		if c.Labels[labelName] != c.Name || !free(c.Labels[labelState], c.Labels[labelInstance]) {
			continue
		}
		log.Info("removing a container that a killed runner left", "container", c.Name, "state", c.Labels[labelState])
		errs = append(errs, engine.Remove(ctx, c.ID))
	}
	mine := func(l map[string]string) bool { return free(l[labelState], l[labelInstance]) }
	return errors.Join(append(errs, sweepGuarded(ctx, engine, mine, log), sweepRest(ctx, engine, mine))...)
}

// guardedTimeout bounds what the Engine may take to let go of networks and volumes.
const guardedTimeout = time.Minute

// sweepGuarded removes what jobs made through their sockets.
func sweepGuarded(ctx context.Context, engine *docker.Engine, mine func(map[string]string) bool, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, guardedTimeout)
	defer cancel()
	return guard.Sweep(ctx, engine.Dial, mine, log)
}

// Purge removes everything that an ephemeral instance made on the Engine.
func Purge(ctx context.Context, engine *docker.Engine, instance string) error {
	containers, err := engine.Containers(ctx, labelInstance+"="+instance)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range containers {
		if c.Labels[labelName] == c.Name {
			errs = append(errs, engine.Remove(ctx, c.ID))
		}
	}
	mine := func(l map[string]string) bool { return l[labelInstance] == instance }
	return errors.Join(append(errs, sweepGuarded(ctx, engine, mine, slog.New(slog.DiscardHandler)), sweepRest(ctx, engine, mine))...)
}

// sweepRest removes the networks of single jobs, and networks and volumes of ephemeral instances.
func sweepRest(ctx context.Context, engine *docker.Engine, mine func(labels map[string]string) bool) error {
	var errs []error
	for _, label := range []string{labelJobNetwork, labelEphemeral} {
		networks, err := engine.Networks(ctx, label)
		errs = append(errs, err)
		for _, n := range networks {
			if mine(n.Labels) {
				errs = append(errs, engine.RemoveNetwork(ctx, n.Name))
			}
		}
	}
	volumes, err := engine.Volumes(ctx, labelEphemeral)
	errs = append(errs, err)
	for _, v := range volumes {
		if mine(v.Labels) {
			errs = append(errs, engine.RemoveVolume(ctx, v.Name))
		}
	}
	return errors.Join(errs...)
}

// SweepGuards removes what guards that were killed left in their folders: sockets, and the places of the host that they
// had pinned. dir is one guard's folder or that of all; nobody may use what is in it any more.
func SweepGuards(dir string) error {
	var errs []error
	dir = resolved(dir) // as mounts are listed
	mounts := readMounts()
	for i := len(mounts) - 1; i >= 0; i-- { // the latest first: it may lie in an earlier one
		if at := mounts[i].at; at != dir && isBelow(at, dir) {
			if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", at, err))
			}
		}
	}
	return errors.Join(append(errs, removeUnmounted(dir))...)
}

// removeUnmounted removes what is in a folder, but goes into no mount: what is there belongs to somebody else.
func removeUnmounted(dir string) error {
	for _, m := range readMounts() {
		if m.at == dir {
			return fmt.Errorf("%s is still mounted", dir)
		}
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, entry := range entries {
		at := filepath.Join(dir, entry.Name())
		err := os.Remove(at)
		if errors.Is(err, unix.ENOTEMPTY) {
			if err = removeUnmounted(at); err == nil {
				err = os.Remove(at)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
