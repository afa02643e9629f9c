package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

func (a *app) verifyCommand() *cobra.Command {
	var s selector
	var remove bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Ask GitLab whether it knows the runners of config.toml",
		Long: `Verify asks the server of every runner, or of those that the flags pick, whether it accepts the runner's token. It fails
if one is not accepted. A server that cannot be reached says nothing about a token.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilInterrupt(cmd.Context())
			defer stop()
			return a.verify(ctx, s, remove)
		},
	}
	s.flags(cmd.Flags(), "verify")
	cmd.Flags().BoolVar(&remove, "delete", false, "take runners that the server does not accept out of config.toml")
	a.completeNames(cmd)
	return cmd
}

func (a *app) verify(ctx context.Context, s selector, remove bool) error {
	cfg, warnings, err := a.loadConfig()
	printWarnings(a.stderr, warnings)
	if err != nil {
		return err
	}
	runners, err := s.pick(cfg)
	if err != nil {
		return err
	}
	conn, err := a.quietConnector(cfg)
	if err != nil {
		return err
	}
	var dead []*config.Runner
	for _, r := range runners {
		err := conn.verify(ctx, r)
		switch {
		case err == nil:
			fmt.Fprintf(a.stdout, "%s is alive\n", describe(r))
		case ctx.Err() != nil:
			return errInterrupted
		case errors.Is(err, job.ErrForbidden):
			fmt.Fprintf(a.stdout, "%s is removed: %v\n", describe(r), err)
			dead = append(dead, r)
		default:
			// GitLab: counts as alive.
			fmt.Fprintf(a.stdout, "%s: cannot tell: %v\n", describe(r), err)
		}
	}
	if len(dead) == 0 {
		return nil
	}
	if !remove {
		are, them := "are not known to their server", "them"
		if len(dead) == 1 {
			are, them = "is not known to its server", "it"
		}
		return withHint(fmt.Errorf("%d of %d runners %s", len(dead), len(runners), are),
			"slipway verify --delete takes %s out of %s", them, cfg.Path)
	}
	for _, r := range dead {
		// Several may share a token, and went with the first.
		if err := config.RemoveRunner(cfg.Path, r); err != nil && !errors.Is(err, config.ErrNoRunner) {
			return err
		}
		fmt.Fprintf(a.stdout, "%s was taken out of %s\n", describe(r), cfg.Path)
	}
	return nil
}

// verify asks one runner's server.
func (c connector) verify(ctx context.Context, r *config.Runner) error {
	client, err := c.client(r)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Verify(ctx)
	return err
}
