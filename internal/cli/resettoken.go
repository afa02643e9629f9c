package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/gitlab"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/runner"
)

func (a *app) resetTokenCommand() *cobra.Command {
	var person string
	cmd := a.forEach(&cobra.Command{
		Use:   "reset-token",
		Short: "Replace the tokens of runners by new ones",
		Long: `Reset-token asks GitLab for a new token and writes it to config.toml; the old one is worth nothing from then on. A running
slipway takes the new one up by itself. Tokens that expire are replaced by a running slipway in time, without this command.

A token that has expired already cannot ask for a new one; a person who manages the runner can, by a personal access token (--pat).`,
	}, "give a new token to", "replace the token of every runner of config.toml",
		func(ctx context.Context, conn connector, path string, r *config.Runner) error {
			return a.resetOne(ctx, conn, path, r, job.Secret(person))
		})
	cmd.Flags().StringVar(&person, "pat", "", "personal `token` with the scope api, to ask with in place of the runner's own")
	return cmd
}

func (a *app) resetOne(ctx context.Context, conn connector, path string, r *config.Runner, person job.Secret) error {
	if err := config.CanSetCredentials(path, r); err != nil {
		return fmt.Errorf("%s: no new token was asked for, because it could not be kept: %w", describe(r), err)
	}
	if person != "" && r.ID == 0 {
		return withHint(fmt.Errorf("%s: its ID is not known", describe(r)), "write it below [[runners]] in %s: id = 42; the runner's page in GitLab has it behind a #", path)
	}
	ask := conn.resetToken
	if person != "" {
		ask = func(ctx context.Context, r *config.Runner) (config.Credentials, error) {
			return conn.resetTokenAs(ctx, r, person)
		}
	}
	to, err := ask(ctx, r)
	var status *gitlab.StatusError
	switch {
	case person != "" && errors.As(err, &status) && status.Status/100 == 4:
		return withHint(fmt.Errorf("%s: %w", describe(r), err), "the personal access token needs the scope api, of somebody who manages runner %d on %s", r.ID, r.URL)
	case errors.Is(err, job.ErrForbidden):
		return withHint(fmt.Errorf("%s: %w", describe(r), err), "name a personal access token with --pat, or make a new token on the runner's page in GitLab and put it into %s", path)
	case err != nil:
		return withHint(fmt.Errorf("%s: %w", describe(r), err), "try again; if slipway verify then says that the runner is removed, the server's answer was lost: make a new token on the runner's page")
	}
	if err := config.SetCredentials(path, r, to); err != nil {
		// The only place where a token is printed: otherwise it would be lost.
		return withHint(fmt.Errorf("%s has a new token, but it cannot be written to %s: %w", describe(r), path, err), "write it there yourself: token = %q", to.Token.Reveal())
	}
	renewed := *r
	renewed.Token = to.Token
	fmt.Fprintf(a.stdout, "%s has a new token: %s", describe(r), shortToken(&renewed))
	if !to.ExpiresAt.IsZero() {
		fmt.Fprintf(a.stdout, ", which expires at %s", to.ExpiresAt.Format(time.RFC3339))
	}
	fmt.Fprintf(a.stdout, "\nwritten to %s\n", path)
	return nil
}

// resetToken asks the server for a new token.
func (c connector) resetToken(ctx context.Context, r *config.Runner) (config.Credentials, error) {
	return c.newToken(r, func(client *gitlab.Client) (gitlab.Registration, error) { return client.ResetToken(ctx) })
}

// resetTokenAs asks with a person's token.
func (c connector) resetTokenAs(ctx context.Context, r *config.Runner, person job.Secret) (config.Credentials, error) {
	return c.newToken(r, func(client *gitlab.Client) (gitlab.Registration, error) {
		return client.ResetTokenAs(ctx, r.ID, person)
	})
}

func (c connector) newToken(r *config.Runner, ask func(client *gitlab.Client) (gitlab.Registration, error)) (config.Credentials, error) {
	client, err := c.client(r)
	if err != nil {
		return config.Credentials{}, err
	}
	defer client.Close()
	reg, err := ask(client)
	if err != nil {
		return config.Credentials{}, err
	}
	to := config.Credentials{ID: r.ID, Token: config.Secret(reg.Token), ObtainedAt: time.Now().UTC().Truncate(time.Second)} // as the file will have it
	if reg.ExpiresAt != nil {
		to.ExpiresAt = reg.ExpiresAt.UTC().Truncate(time.Second)
	}
	return to, nil
}

// rotating is a manager whose runners get new tokens before the old ones expire.
type rotating struct {
	*runner.Manager
	rotation *runner.Rotation
}

// Reload takes over a configuration from the file.
func (r rotating) Reload(cfg *config.Config) { r.Manager.Reload(r.rotation.Loaded(cfg)) }

func newRotating(m *runner.Manager, conn connector, cfg *config.Config) rotating {
	r := rotating{m, runner.NewRotation(&runner.Rotation{
		Can:   func(r *config.Runner) error { return config.CanSetCredentials(cfg.Path, r) },
		Reset: conn.resetToken,
		Save:  func(r *config.Runner, to config.Credentials) error { return config.SetCredentials(cfg.Path, r, to) },
		Apply: m.Reload, Log: conn.log,
	})}
	r.rotation.Loaded(cfg)
	return r
}
