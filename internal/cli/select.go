package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-ci/slipway/internal/config"
)

// selector picks runners of a config by all that is given.
type selector struct {
	name, url, token string
	id               int64 // 0 = any
}

func (s *selector) flags(fs *pflag.FlagSet, verb string) {
	fs.StringVarP(&s.name, "name", "n", "", "name of the runner to "+verb)
	fs.StringVarP(&s.url, "url", "u", "", "URL of its GitLab server")
	fs.StringVarP(&s.token, "token", "t", "", "its token")
	fs.Int64VarP(&s.id, "id", "i", 0, "its ID")
	// GitLab: the same variables as for register.
	bindEnv(fs, "url", "CI_SERVER_URL")
	bindEnv(fs, "token", "CI_SERVER_TOKEN")
}

// forEach completes a command that does something to those runners of the config that its flags pick, or to all of them;
// to one of those that share a token. verb follows "name of the runner to", all describes --all-runners.
func (a *app) forEach(cmd *cobra.Command, verb, all string, do func(ctx context.Context, conn connector, path string, r *config.Runner) error) *cobra.Command {
	var s selector
	var every bool
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case every && s.name != "":
			return usagef("", "--all-runners and --name exclude each other")
		case every && s.id != 0:
			return usagef("", "--all-runners and --id exclude each other")
		case !every && s.name == "" && s.token == "" && s.id == 0:
			return usagef("slipway list shows the runners", "say which: --name, --id, --token or --all-runners")
		}
		if every {
			s = selector{} // GitLab: the variables for URL and token, which may be set for register, do not count
		}
		ctx, stop := untilInterrupt(cmd.Context())
		defer stop()
		cfg, _, err := a.loadConfig()
		if err != nil {
			return err
		}
		runners, err := s.pick(cfg)
		if err != nil {
			return err
		}
		if len(runners) > 1 && !every {
			return withHint(fmt.Errorf("%d runners in %s have %s", len(runners), cfg.Path, s), "add --token, or --url")
		}
		conn, err := a.quietConnector(cfg)
		if err != nil {
			return err
		}
		var failed []error
		done := map[credentials]bool{} // several [[runners]] may share a token
		for _, r := range runners {
			if ctx.Err() != nil {
				return errInterrupted
			}
			id := credentials{r.URL, r.Token.Reveal()}
			if done[id] {
				continue
			}
			done[id] = true
			failed = append(failed, do(ctx, conn, cfg.Path, r))
		}
		return errors.Join(failed...)
	}
	s.flags(cmd.Flags(), verb)
	cmd.Flags().BoolVar(&every, "all-runners", false, all)
	a.completeNames(cmd)
	return cmd
}

// completeNames offers the names of the config's runners to the shell.
func (a *app) completeNames(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("name", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var names []string
		if path, _, err := a.findConfig(); err == nil {
			if cfg, _, err := config.Load(path); err == nil {
				for _, r := range cfg.Runners {
					names = append(names, r.Name)
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

func (s selector) matches(r *config.Runner) bool {
	return (s.name == "" || s.name == r.Name) && (s.id == 0 || s.id == r.ID) && (s.token == "" || s.token == r.Token.Reveal()) &&
		(s.url == "" || sameServer(s.url, r.URL))
}

// sameServer compares addresses as people write them: with or without a slash at the end.
func sameServer(a, b string) bool { return strings.TrimRight(a, "/") == strings.TrimRight(b, "/") }

// pick returns the runners that match, of which there must be one at least.
func (s selector) pick(cfg *config.Config) ([]*config.Runner, error) {
	var found []*config.Runner
	var names []string
	for _, r := range cfg.Runners {
		names = append(names, r.Name)
		if s.matches(r) {
			found = append(found, r)
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	if len(cfg.Runners) == 0 {
		return nil, withHint(fmt.Errorf("%s has no runner", cfg.Path), "slipway register adds one")
	}
	hint := "slipway list shows the runners"
	if near := nearest(s.name, names); near != "" && near != s.name {
		hint = fmt.Sprintf("did you mean --name %s?", shellWord(near))
	}
	return nil, withHint(fmt.Errorf("no runner in %s has %s", cfg.Path, s), "%s", hint)
}

// String says what was asked for, without the token.
func (s selector) String() string {
	var parts []string
	if s.name != "" {
		parts = append(parts, fmt.Sprintf("the name %q", s.name))
	}
	if s.id != 0 {
		parts = append(parts, fmt.Sprintf("the ID %d", s.id))
	}
	if s.url != "" {
		parts = append(parts, "the URL "+s.url)
	}
	if s.token != "" {
		parts = append(parts, "the given token")
	}
	return strings.Join(parts, " and ")
}
