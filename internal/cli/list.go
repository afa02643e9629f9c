package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the runners of config.toml, their tokens cut short",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return a.list() },
	}
}

func (a *app) list() error {
	cfg, _, err := a.loadConfig()
	if err != nil {
		return err
	}
	if len(cfg.Runners) == 0 {
		fmt.Fprintf(a.stderr, "%s has no runner; slipway register adds one\n", cfg.Path)
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tEXECUTOR\tTOKEN\tURL\tNOTE")
	for _, r := range cfg.Runners {
		note := ""
		if r.Unsupported != "" {
			note = fmt.Sprintf("skipped: %s (line %d)", r.Unsupported, r.Pos.Line)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name, r.Executor, shortToken(r), r.URL, note)
	}
	return w.Flush()
}
