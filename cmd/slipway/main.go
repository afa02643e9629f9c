// Command slipway is a GitLab CI runner for machines that build Docker images.
package main

import (
	"os"

	"github.com/slipway-ci/slipway/internal/cli"
)

// Set by the linker: -ldflags "-X main.version=1.2.3 -X main.revision=abc1234".
var version, revision string

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, cli.Build{Version: version, Revision: revision}))
}
