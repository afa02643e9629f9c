package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
)

func (a *app) lintCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "lint",
		Short: "Check config.toml",
		Long: `Lint names all mistakes in config.toml at once, each with its line and its cure, and asks nobody. It fails if slipway run would not
start with the file, and for keys and executors that nobody knows. Keys that have no effect in slipway are told, and are no failure.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("--config names the file: slipway lint --config "+shellWord(args[0]), "slipway lint takes no argument, but got %q", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error { return a.lint() },
	}
}

func (a *app) lint() error {
	path, _, err := a.findConfig()
	if err != nil {
		return err
	}
	cfg, warnings, err := config.Load(path)
	mistakes := config.Problems(err)
	switch {
	case err != nil && (len(mistakes) == 0 || len(mistakes) == 1 && mistakes[0].Line == 0): // it cannot be read
		return err
	case err != nil && mistakes[0].Syntax:
		return withHint(err, "%s\nslipway looks for other mistakes when this one is corrected: run lint again then", mistakes[0].Hint)
	}
	var rest []config.Warning
	for _, w := range warnings {
		// GitLab: its lint fails for unknown keys, too.
		if w.Unknown {
			mistakes = append(mistakes, &config.Error{Position: w.Position, Key: w.Key, Msg: w.Msg, Hint: w.Hint})
		} else {
			rest = append(rest, w)
		}
	}
	slices.SortStableFunc(mistakes, func(a, b *config.Error) int { return cmp.Compare(a.Line, b.Line) })
	printWarnings(a.stderr, rest)
	for _, m := range mistakes {
		printError(a.stderr, m)
	}
	switch {
	case len(mistakes) == 1:
		return fmt.Errorf("%s has a mistake", path)
	case len(mistakes) > 1:
		return fmt.Errorf("%s has %d mistakes", path, len(mistakes))
	case len(cfg.Runners) == 0:
		return withHint(fmt.Errorf("%s has no runner", path), "slipway register adds one")
	}
	served := len(cfg.Served())
	if served == 0 {
		return withHint(errors.New("slipway can serve no runner of "+path), "the warnings say why")
	}
	fmt.Fprintf(a.stdout, "%s is valid: %d of %d runners are served\n", path, served, len(cfg.Runners))
	return nil
}
