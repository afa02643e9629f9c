package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/state"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say whether slipway runs for this config; exit code 1 if it does not",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return a.status() },
	}
}

func (a *app) status() error {
	cfg, _, err := a.loadConfig()
	if err != nil {
		return err
	}
	dir := config.StateDir(cfg, a.host.home, a.host.root, os.Getenv)
	used, err := state.InUse(dir)
	if errors.Is(err, fs.ErrPermission) {
		return asRoot(fmt.Errorf("look at the state folder: %w", err))
	}
	if err != nil {
		return fmt.Errorf("look at the state folder: %w", err)
	}
	if !used {
		return withHint(fmt.Errorf("slipway does not run with the state folder %s", dir), "slipway run, or systemctl start slipway where slipway install has made a service")
	}
	// Each job has a folder there until its end is at the server.
	jobs, err := os.ReadDir((&state.Folder{Path: dir}).Spool())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at the jobs: %w", err)
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "slipway runs\nconfig   %s\nrunners  %d\nstate    %s\njobs     %d that run or are being reported, of at most %d\n",
		path, len(cfg.Runners), dir, len(jobs), cfg.Concurrent)
	return nil
}
