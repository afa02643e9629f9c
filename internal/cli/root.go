package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// globalFlags are the flags that every command takes.
type globalFlags struct {
	config    string
	logLevel  string
	logFormat string
	debug     bool
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "slipway",
		Short: "A GitLab CI runner for machines that build Docker images",
		Long: `Slipway runs GitLab CI jobs in containers on this machine's Docker Engine and shares the Engine's
warm build cache with them. It reads the config.toml of GitLab's own runner.`,
		Example: `  slipway demo                                               see a job run twice, cold and warm
  slipway register --url https://gitlab.com --token glrt-…   make this machine a runner
  slipway run                                                take jobs until told to stop`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.build.Version,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := "slipway --help lists the commands"
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = fmt.Sprintf("did you mean %s?", strings.Join(near, " or "))
			}
			if args[0] == "exec" {
				hint = "GitLab's runner has none since 17.0 either; slipway guard gives a command on this machine the socket that jobs have"
			}
			return usagef(hint, "there is no command %q", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := setFromEnv(cmd.Flags()); err != nil {
				return err
			}
			_, _, err := a.logger("", "") // for the errors in the log flags
			return err
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetVersionTemplate(a.build.String())
	root.SetFlagErrorFunc(flagError)
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		// GitLab: a few of its flags have underscores (--docker-services_privileged).
		name = strings.ReplaceAll(name, "_", "-")
		if name == "description" { // GitLab: another name of register's --name
			name = "name"
		}
		return pflag.NormalizedName(name)
	})

	fs := root.PersistentFlags()
	fs.StringVarP(&a.global.config, "config", "c", "", "the config.toml to use")
	fs.StringVarP(&a.global.logLevel, "log-level", "l", "", "debug, info, warn or error")
	fs.StringVar(&a.global.logFormat, "log-format", "", "runner (short lines), text or json")
	fs.BoolVar(&a.global.debug, "debug", false, "the same as --log-level debug")
	bindEnv(fs, "config", "CONFIG_FILE")
	bindEnv(fs, "log-level", "LOG_LEVEL")
	bindEnv(fs, "log-format", "LOG_FORMAT")
	bindEnv(fs, "debug", "RUNNER_DEBUG")
	complete(root, "log-level", "debug", "info", "warn", "error")
	complete(root, "log-format", "runner", "text", "json")

	root.AddCommand(a.registerCommand(), a.runCommand(), a.runSingleCommand(), a.lintCommand(), a.verifyCommand(), a.listCommand(), a.unregisterCommand(), a.resetTokenCommand(),
		a.doctorCommand(), a.statusCommand(), a.installCommand(), a.uninstallCommand(), a.guardCommand(), a.demoCommand(), a.manCommand(), a.versionCommand())
	root.AddCommand(a.serviceCommands()...)
	root.InitDefaultHelpCmd()
	help, _, _ := root.Find([]string{"help"}) // just made
	help.Args = func(_ *cobra.Command, topic []string) error {
		if _, left, _ := root.Find(topic); len(left) > 0 {
			return root.Args(root, left)
		}
		return nil
	}
	return root
}

// twoDashes gives long flags their second dash.
//
// GitLab: one is enough.
func twoDashes(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	out := slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		text, ok := strings.CutPrefix(arg, "-")
		name, _, _ := strings.Cut(text, "=")
		if ok && len(name) > 1 && (cmd.Flags().Lookup(name) != nil || cmd.InheritedFlags().Lookup(name) != nil) {
			out[i] = "-" + arg
		}
	}
	return out
}

// noArgs refuses arguments: a forgotten dash is the usual cause.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usagef(fmt.Sprintf("%s --help lists its flags", cmd.CommandPath()), "%s takes no argument, but got %q", cmd.CommandPath(), args[0])
}

// flagError says what is wrong with a flag in our words and names the nearest flag there is.
func flagError(cmd *cobra.Command, err error) error {
	help := cmd.CommandPath() + " --help lists the flags"
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		if unknown.GetSpecifiedShortnames() != "" {
			return usagef(help, "there is no flag -%s", unknown.GetSpecifiedName())
		}
		if near := nearest(unknown.GetSpecifiedName(), flagNames(cmd)); near != "" {
			help = fmt.Sprintf("did you mean --%s?", near)
		}
		if why, ok := withoutEffect(unknown.GetSpecifiedName()); ok {
			help = why
		}
		return usagef(help, "there is no flag --%s", unknown.GetSpecifiedName())
	case errors.As(err, &missing):
		return usagef(help, "--%s needs a value", missing.GetFlag().Name)
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		return usagef(help, "--%s: %s", f.Name, valueProblem(f, invalid.GetValue(), invalid))
	}
	return usagef(help, "%v", err)
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// complete gives a flag's values to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that does not exist; the tests build every command.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}
