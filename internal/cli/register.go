package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/gitlab"
)

// registerFlags are the flags of register.
type registerFlags struct {
	runner            *config.Runner
	registrationToken string
	nonInteractive    bool
	leaveRunner       bool
	template          string
	tags              string
	server            gitlab.RegisterOptions // what GitLab keeps; only with a registration token
	given             []string               // those of the server's flags that were given
}

func (a *app) registerCommand() *cobra.Command {
	f := registerFlags{runner: &config.Runner{Docker: &config.Docker{}}}
	cmd := &cobra.Command{
		Use:   "register",
		Short: "Add a runner to config.toml",
		Long: `Register adds a [[runners]] to config.toml once GitLab has accepted its token. Make the runner in GitLab first (Settings,
CI/CD, Runners, New runner): its page shows the token, which begins with glrt-. What no flag says is asked for.`,
		Example: `  slipway register
  slipway register --non-interactive --url https://gitlab.com --token glrt-… --docker-image alpine
  slipway register -n -u https://gitlab.com -t glrt-… --docker-image docker:cli --docker-volumes /var/run/docker.sock:/var/run/docker.sock`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range serverFlags() {
				if cmd.Flags().Changed(name) {
					f.given = append(f.given, "--"+name)
				}
			}
			if !cmd.Flags().Changed("run-untagged") {
				f.server.RunUntagged = f.tags == "" // GitLab: the default depends on the tags
			}
			if f.template != "" {
				t, err := config.LoadTemplate(f.template)
				if err != nil {
					return err
				}
				fillFrom(cmd.Flags(), f.runner, t)
			}
			ctx, stop := untilInterrupt(cmd.Context())
			defer stop()
			return a.register(ctx, f)
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.BoolVarP(&f.nonInteractive, "non-interactive", "n", false, "ask nothing")
	bindEnv(fs, "non-interactive", "REGISTER_NON_INTERACTIVE")
	runnerFlags(fs, f.runner)
	fs.StringVarP(&f.registrationToken, "registration-token", "r", "", "a registration token (GitLab drops these in version 20)")
	fs.BoolVar(&f.leaveRunner, "leave-runner", false, "keep the runner on the server if config.toml cannot be written")
	fs.StringVar(&f.template, "template-config", "", "a file with one [[runners]], for what no flag says")
	fs.StringVar(&f.tags, "tag-list", "", "tags, separated by commas; with a registration token only, like all that follow")
	fs.BoolVar(&f.server.RunUntagged, "run-untagged", false, "take jobs without tags (default: only a runner without tags does)")
	fs.BoolVar(&f.server.Locked, "locked", true, "for this project only")
	fs.StringVar(&f.server.AccessLevel, "access-level", "", "not_protected or ref_protected")
	fs.IntVar(&f.server.MaximumTimeout, "maximum-timeout", 0, "most seconds that a job may take")
	fs.BoolVar(&f.server.Paused, "paused", false, "take no jobs until resumed in GitLab")
	fs.StringVar(&f.server.MaintenanceNote, "maintenance-note", "", "note for GitLab's administrators")
	for flag, env := range map[string]string{
		"registration-token": "REGISTRATION_TOKEN", "leave-runner": "REGISTER_LEAVE_RUNNER",
		"template-config": "TEMPLATE_CONFIG_FILE", "tag-list": "RUNNER_TAG_LIST",
		"run-untagged": "REGISTER_RUN_UNTAGGED", "locked": "REGISTER_LOCKED", "access-level": "REGISTER_ACCESS_LEVEL",
		"maximum-timeout": "REGISTER_MAXIMUM_TIMEOUT", "paused": "REGISTER_PAUSED",
		"maintenance-note": "REGISTER_MAINTENANCE_NOTE",
	} {
		bindEnv(fs, flag, env)
	}
	complete(cmd, "executor", "docker", "shell")
	complete(cmd, "shell", "bash", "sh")
	complete(cmd, "docker-pull-policy", config.PullAlways, config.PullIfNotPresent, config.PullNever)
	complete(cmd, "access-level", "not_protected", "ref_protected")
	return cmd
}

// serverFlags set what GitLab keeps about a runner. For a runner with an authentication token that is done on its page.
func serverFlags() []string {
	return []string{"tag-list", "run-untagged", "locked", "access-level", "maximum-timeout", "paused", "maintenance-note"}
}

// settle checks which flags go together.
func (f *registerFlags) settle() (warning string, err error) {
	r := f.runner
	switch {
	case r.Token != "" && f.registrationToken != "":
		return "", usagef("--token is for a runner that was made in GitLab", "--token and --registration-token exclude each other")
	case r.Token != "" && len(f.given) > 0:
		return "", usagef("set it on the runner's page in GitLab",
			"%s cannot be set for a runner with an authentication token", strings.Join(f.given, ", "))
	}
	if f.server.AccessLevel != "" {
		if err := oneOf("access-level", f.server.AccessLevel, []string{"not_protected", "ref_protected"}); err != nil {
			return "", err
		}
	}
	// GitLab: an authentication token may come as registration token, so that old scripts work with it.
	if strings.HasPrefix(f.registrationToken, authenticationPrefix) {
		r.Token, f.registrationToken = config.Secret(f.registrationToken), ""
		if len(f.given) > 0 {
			warning = fmt.Sprintf("%s ignored: with an authentication token this is set on the runner's page in GitLab", strings.Join(f.given, ", "))
		}
	}
	return warning, nil
}

func (a *app) register(ctx context.Context, f registerFlags) error {
	warning, err := f.settle()
	if err != nil {
		return err
	}
	if warning != "" {
		fmt.Fprintf(a.stderr, "slipway: warning: %s\n", warning)
	}
	path, cfg, err := a.configToExtend(ctx)
	if err != nil {
		return err
	}
	log, _, err := a.logger("warn", "")
	if err != nil {
		return err
	}
	conn, err := a.connector(path, cfg, log)
	if err != nil {
		return err
	}
	r := &registration{registerFlags: &f, path: path, conn: conn, warnings: a.stderr}
	if !f.nonInteractive {
		r.dialogue = &dialogue{in: a.stdin, out: a.stderr}
	}
	if err := r.settings(ctx); err != nil {
		return err
	}
	if err := r.obtain(ctx); err != nil {
		return err
	}
	if cfg != nil {
		for _, old := range cfg.Runners {
			if old.Token == f.runner.Token && sameServer(old.URL, f.runner.URL) {
				fmt.Fprintf(a.stderr, "slipway: warning: %s has this runner already, as %q\n", old.Pos, old.Name)
			}
		}
	}
	if err := r.write(ctx); err != nil {
		return err
	}
	next := "slipway run"
	if a.global.config != "" {
		next += " --config " + shellWord(a.global.config)
	}
	fmt.Fprintf(a.stdout, "registered %s on %s\nwritten to %s\nnext: %s (one that runs already takes it up by itself)\n",
		describe(f.runner), f.runner.URL, path, next)
	return nil
}

// configToExtend finds the config and reads it: a broken one is to be mended before the server is told anything.
func (a *app) configToExtend(ctx context.Context) (path string, cfg *config.Config, err error) {
	path, foreign, err := a.findConfig()
	if err != nil {
		return "", nil, err
	}
	if besides := a.refuseBesides(ctx, path, foreign); besides != nil {
		own := "~/.config/slipway/config.toml"
		if a.host.root {
			own = "/etc/slipway/config.toml"
		}
		return "", nil, withHint(errors.Unwrap(besides), "it would take the new runner's jobs: name a file for slipway alone, such as --config %s", own)
	}
	a.noteForeign(path, foreign)
	cfg, _, err = config.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil, nil
	}
	return path, cfg, err
}
