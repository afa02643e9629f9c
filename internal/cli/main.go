// Package cli is slipway's command line: its commands, what they print, and the wiring of all other packages. No
// other package prints to the terminal, reads flags or ends the process.
//
// What goes where: results to standard output; questions, warnings, errors and the program log to standard error.
// Messages are lower case, without a full stop; errors begin with "slipway: error:", advice with "slipway: hint:".
package cli

import (
	"context"
	"errors"
	"io"
	"os"
)

// The exit codes of slipway.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2   // a flag, an argument or a command that does not exist or does not fit
	exitInterrupted = 130 // Ctrl-C at a question; also a second signal during run, as a shell counts it
)

// Main runs one command line, without the program's name, and returns the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer, build Build) int {
	home, _ := os.UserHomeDir() // without one, only the system's places are looked at
	a := &app{
		stdin: stdin, stdout: stdout, stderr: stderr, build: build.filled(),
		host: host{home: home, root: os.Geteuid() == 0, proc: "/proc"},
	}
	return a.main(context.Background(), args)
}

// app is what all commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	build          Build
	host           host
	global         globalFlags
}

// host is where and as whom slipway runs.
type host struct {
	home string // the user's folder, "" = none
	root bool   // the user is root
	proc string // where the proc file system is
}

func (a *app) main(ctx context.Context, args []string) int {
	root := a.command()
	root.SetArgs(twoDashes(root, args))
	err := root.ExecuteContext(ctx)
	printError(a.stderr, withoutCommand(err))
	var usage *usageError
	var command *commandError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &command):
		return command.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	}
	return exitFailure
}
