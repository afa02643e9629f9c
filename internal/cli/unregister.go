package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

func (a *app) unregisterCommand() *cobra.Command {
	var s selector
	var all bool
	cmd := &cobra.Command{
		Use:   "unregister",
		Short: "Take runners off GitLab and out of config.toml",
		Long: `Unregister tells the server first and changes config.toml only when the server has agreed. Of a runner that was made on
GitLab's pages (token glrt-…) only this machine is removed; the runner itself stays on its page.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case all && s.name != "":
				return usagef("", "--all-runners and --name exclude each other")
			case !all && s.name == "" && s.token == "":
				return usagef("slipway list shows the runners", "say which: --name, --token or --all-runners")
			}
			if all {
				s = selector{} // GitLab: the variables for URL and token, which may be set for register, do not count
			}
			ctx, stop := untilInterrupt(cmd.Context())
			defer stop()
			return a.unregister(ctx, s, all)
		},
	}
	s.flags(cmd.Flags(), "unregister")
	cmd.Flags().BoolVar(&all, "all-runners", false, "unregister every runner of config.toml")
	a.completeNames(cmd)
	return cmd
}

func (a *app) unregister(ctx context.Context, s selector, all bool) error {
	cfg, _, err := a.loadConfig()
	if err != nil {
		return err
	}
	runners, err := s.pick(cfg)
	if err != nil {
		return err
	}
	if len(runners) > 1 && !all {
		return withHint(fmt.Errorf("%d runners in %s have %s", len(runners), cfg.Path, s), "add --token, or --url")
	}
	log, _, err := a.logger("warn", cfg.LogFormat)
	if err != nil {
		return err
	}
	conn, err := a.connector(cfg.Path, cfg, log)
	if err != nil {
		return err
	}
	var failed []error
	for _, r := range runners {
		if ctx.Err() != nil {
			return errInterrupted
		}
		failed = append(failed, a.unregisterOne(ctx, conn, cfg.Path, r))
	}
	return errors.Join(failed...)
}

func (a *app) unregisterOne(ctx context.Context, conn connector, path string, r *config.Runner) error {
	client, err := conn.client(r)
	if err != nil {
		return fmt.Errorf("%s: %w", describe(r), err)
	}
	defer client.Close()
	err = client.Unregister(ctx)
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case errors.Is(err, job.ErrForbidden):
		return withHint(fmt.Errorf("%s: %w", describe(r), err), "slipway verify --delete takes runners out of %s that the server does not know", path)
	case err != nil:
		return withHint(fmt.Errorf("%s: %w", describe(r), err), "nothing was changed; try again when the server can be reached")
	}
	if err := config.RemoveRunner(path, r); err != nil {
		return withHint(fmt.Errorf("%s is off the server, but still in the config: %w", describe(r), err),
			"take the [[runners]] at %s out by hand", r.Pos)
	}
	if strings.HasPrefix(r.Token.Reveal(), authenticationPrefix) {
		fmt.Fprintf(a.stdout, "%s: this machine was removed from it on %s; the runner's page stays\n", describe(r), r.URL)
	} else {
		fmt.Fprintf(a.stdout, "%s was deleted on %s\n", describe(r), r.URL)
	}
	fmt.Fprintf(a.stdout, "taken out of %s\n", path)
	return nil
}
