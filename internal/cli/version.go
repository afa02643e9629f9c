package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Build says which slipway this is. The linker sets what a release knows; the rest comes from the binary itself.
type Build struct {
	Version  string
	Revision string // of the source, short
}

func (b Build) filled() Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "development"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && b.Revision == "" {
			b.Revision = s.Value[:min(8, len(s.Value))]
		}
	}
	if b.Revision == "" {
		b.Revision = "HEAD"
	}
	return b
}

func (b Build) String() string {
	return fmt.Sprintf("slipway %s\nrevision   %s\nGo version %s\nOS/arch    %s/%s\n",
		b.Version, b.Revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprint(a.stdout, a.build)
			return nil
		},
	}
}
