package executor

import (
	"context"
	"errors"
	"log/slog"

	"github.com/slipway-ci/slipway/internal/docker"
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
		if !free(c.Labels[labelState], c.Labels[labelInstance]) {
			continue
		}
		log.Info("removing a container that a killed runner left", "container", c.Name, "state", c.Labels[labelState])
		errs = append(errs, engine.Remove(ctx, c.ID))
	}
	return errors.Join(append(errs, sweepRest(ctx, engine, func(l map[string]string) bool { return free(l[labelState], l[labelInstance]) }))...)
}

// Purge removes everything that an ephemeral instance made on the Engine.
func Purge(ctx context.Context, engine *docker.Engine, instance string) error {
	containers, err := engine.Containers(ctx, labelInstance+"="+instance)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range containers {
		errs = append(errs, engine.Remove(ctx, c.ID))
	}
	return errors.Join(append(errs, sweepRest(ctx, engine, func(l map[string]string) bool { return l[labelInstance] == instance }))...)
}

// sweepRest removes networks and volumes of ephemeral instances.
func sweepRest(ctx context.Context, engine *docker.Engine, mine func(labels map[string]string) bool) error {
	var errs []error
	networks, err := engine.Networks(ctx, labelEphemeral)
	errs = append(errs, err)
	for _, n := range networks {
		if mine(n.Labels) {
			errs = append(errs, engine.RemoveNetwork(ctx, n.Name))
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
