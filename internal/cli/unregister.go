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
	done := map[credentials]bool{} // several [[runners]] may share a token
	return a.forEach(&cobra.Command{
		Use:   "unregister",
		Short: "Take runners off GitLab and out of config.toml",
		Long: `Unregister tells the server first and changes config.toml only when the server has agreed. Of a runner that was made on
GitLab's pages (token glrt-…) only this machine is removed; the runner itself stays on its page.`,
	}, "unregister", "unregister every runner of config.toml",
		func(ctx context.Context, conn connector, path string, r *config.Runner) error {
			id := credentials{r.URL, r.Token.Reveal()}
			if done[id] {
				return nil
			}
			done[id] = true
			return a.unregisterOne(ctx, conn, path, r)
		})
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
