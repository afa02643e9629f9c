package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/runner"
)

// singleFlags are the flags of run-single beside those of a runner.
type singleFlags struct {
	runner                        string // name of one in the config; "" = the flags describe it
	builds, wait, shutdownTimeout int
	stateDir                      string
}

func (a *app) runSingleCommand() *cobra.Command {
	var f singleFlags
	described := &config.Runner{Docker: &config.Docker{}}
	cmd := &cobra.Command{
		Use:   "run-single",
		Short: "Run jobs of one runner, one after the other, and end",
		Long: `Run-single takes jobs of one runner, which --runner names in config.toml, or which the flags describe without any config.

It ends after --max-builds jobs, when no job came for --wait-timeout seconds, and by the signals that end slipway run.
[slipway.limits] of config.toml holds as with slipway run; without a config nothing is removed to make room on a disk.`,
		Example: `  slipway run-single --runner docker-builder --max-builds 1
  slipway run-single --url https://gitlab.com --token glrt-… --executor docker --docker-image docker:cli --wait-timeout 60`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runSingle(cmd.Context(), f, described) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.runner, "runner", "r", "", "name of the runner in config.toml")
	fs.IntVar(&f.builds, "max-builds", 0, "end after so many jobs (0: no limit)")
	fs.IntVar(&f.wait, "wait-timeout", 0, "end when no job came for so many seconds (0: never)")
	fs.IntVar(&f.shutdownTimeout, "shutdown-timeout", 0, "seconds that a forced stop waits for the job (0: 30)")
	fs.StringVar(&f.stateDir, "state-dir", "", "where slipway keeps its state, in place of the config's state_dir")
	for name, env := range map[string]string{"max-builds": "RUNNER_MAX_BUILDS", "wait-timeout": "CI_WAIT_TIMEOUT", "shutdown-timeout": "RUNNER_SHUTDOWN_TIMEOUT"} {
		bindEnv(fs, name, env)
	}
	runnerFlags(fs, described)
	return cmd
}

func (a *app) runSingle(ctx context.Context, f singleFlags, described *config.Runner) error {
	if f.builds < 0 || f.wait < 0 || f.shutdownTimeout < 0 {
		return usagef("leave it out for no limit", "--max-builds, --wait-timeout and --shutdown-timeout cannot be less than 0")
	}
	var s serving
	var err error
	if f.runner != "" {
		err = a.oneOfConfig(ctx, &s, f.runner)
	} else {
		err = a.described(&s, described)
	}
	if err != nil {
		return err
	}
	if f.stateDir != "" {
		if s.cfg.Slipway.StateDir, err = filepath.Abs(f.stateDir); err != nil {
			return err
		}
	}
	s.single = &single{max: f.builds, wait: time.Duration(f.wait) * time.Second}
	s.cfg.Concurrent = 1
	s.cfg.Runners[0].RequestConcurrency = 1
	if f.shutdownTimeout > 0 {
		s.cfg.ShutdownTimeout = time.Duration(f.shutdownTimeout) * time.Second
	}
	return a.serve(ctx, s)
}

// oneOfConfig takes a runner out of the config.
func (a *app) oneOfConfig(ctx context.Context, s *serving, name string) (err error) {
	if *s, err = a.toServe(ctx); err != nil {
		return err
	}
	found, err := (&selector{name: name}).pick(s.cfg)
	if err != nil {
		return err
	}
	if len(found) > 1 {
		return withHint(fmt.Errorf("%d runners in %s are named %s", len(found), s.path, name), "give each a name of its own")
	}
	if why := found[0].Unsupported; why != "" {
		return fmt.Errorf("slipway cannot run jobs of %s: %s", name, why)
	}
	s.cfg.Runners = found
	return nil
}

// described makes a config of what the flags say.
func (a *app) described(s *serving, r *config.Runner) error {
	reg := registration{registerFlags: &registerFlags{runner: r}}
	if err := reg.settings(context.Background()); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "slipway-run-single-")
	if err != nil {
		return fmt.Errorf("keep the settings: %w", err)
	}
	defer os.RemoveAll(dir)
	s.path = filepath.Join(dir, "config.toml")
	if err := config.AddRunner(s.path, r); err != nil {
		return fmt.Errorf("keep the settings: %w", err)
	}
	if s.cfg, s.warnings, err = config.Load(s.path); err != nil {
		return err
	}
	s.cfg.Slipway.Limits.MinFree = &config.MinFree{} // nobody has written what this machine's disks are kept to
	return nil
}

// single ends a run after some jobs, or when none comes. The zero value never does.
type single struct {
	max  int
	wait time.Duration

	mu             sync.Mutex
	taken, running int
	drain          func()
	timer          *time.Timer
}

// begin is called once, with what ends the run.
func (s *single) begin(drain func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain = drain
	s.idle()
}

// idle waits for the next job from now on.
func (s *single) idle() {
	if s.wait > 0 {
		s.timer = time.AfterFunc(s.wait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.running == 0 {
				s.drain()
			}
		})
	}
}

// took is called when a job has come.
func (s *single) took() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken++
	s.running++
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.taken == s.max {
		s.drain()
	}
}

// ended is called when one is over.
func (s *single) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running--; s.running == 0 {
		s.idle()
	}
}

// counted tells a single run of the jobs that come.
type counted struct {
	runner.Server
	single *single
}

// RequestJob implements runner.Server.
func (c counted) RequestJob(ctx context.Context) (*job.Spec, error) {
	spec, err := c.Server.RequestJob(ctx)
	if spec != nil {
		c.single.took()
	}
	return spec, err
}
