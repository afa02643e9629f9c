package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/executor"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/state"
)

// runDemo runs the sample pipeline twice, with the same runner that serves a real GitLab.
func runDemo(ctx context.Context, o demoOptions) error {
	if _, err := demo.LocalSocket(cmp.Or(os.Getenv("DOCKER_HOST"), docker.DefaultHost)); err != nil {
		return err
	}
	engine, err := docker.Connect(ctx, docker.Options{})
	if err != nil {
		return err
	}
	defer engine.Close()
	return demo.Run(ctx, demo.Options{
		Out: o.Stdout, Notes: o.Stderr, Colour: o.Colour, Sleep: o.Sleep, Keep: o.Keep, Offline: o.Offline, Log: o.Log,
		Engine: demoEngine{engine},
		StartRunner: func(ctx context.Context, path, stateDir string) (func() error, error) {
			return startDemoRunner(ctx, o, engine, path, stateDir)
		},
	})
}

func startDemoRunner(ctx context.Context, o demoOptions, engine *docker.Engine, path, stateDir string) (stop func() error, err error) {
	cfg, _, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	runCtx, cancel := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- runManager(runCtx, runOptions{Config: cfg, StateDir: stateDir, Build: o.Build, Log: o.Log, Ephemeral: true})
	}()
	return func() error {
		cancel(job.ErrShutdown)
		err := <-ended
		if shutdownOf(err) {
			err = nil
		}
		if o.Keep {
			return err
		}
		ctx := context.WithoutCancel(ctx)
		folder, ferr := state.Open(stateDir)
		if ferr != nil {
			return errors.Join(err, ferr)
		}
		return errors.Join(err, executor.Purge(ctx, engine, folder.Instance), folder.Close())
	}, nil
}

// demoEngine is what the demo asks of the Engine.
type demoEngine struct{ *docker.Engine }

// RemoveLabeled implements demo.Engine.
func (e demoEngine) RemoveLabeled(ctx context.Context, key, value string) error {
	return e.Engine.RemoveLabeled(ctx, key+"="+value)
}

// Build implements demo.Engine: what a user would type.
func (e demoEngine) Build(ctx context.Context, dir, tag string, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "docker", "build", "-t", tag, dir)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.Host(), "DOCKER_BUILDKIT=0")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("docker build: %w", err)
	}
	return nil
}
