package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/docker"
)

// errInterrupted: the user pressed Ctrl-C (or sent SIGTERM) while a command waited.
var errInterrupted = errors.New("interrupted")

// hintError is an error with advice, one piece per line.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

func withHint(err error, format string, args ...any) error {
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// usageError is a command line that cannot be understood.
type usageError struct {
	msg, hint string
}

func (e *usageError) Error() string { return e.msg }

func usagef(hint, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...), hint}
}

// printError prints each error of a joined one and the advice it carries.
func printError(w io.Writer, err error) {
	for _, e := range flatten(err) {
		msg := e.Error()
		if file, ok := e.(*config.Error); ok {
			msg = problemText(file.Position, file.Key, file.Msg)
		}
		fmt.Fprintf(w, "slipway: error: %s\n", strings.ReplaceAll(msg, "\n", "\n  "))
		printHint(w, hintOf(e))
	}
}

// printWarnings prints what the reader of config.toml noticed.
func printWarnings(w io.Writer, warnings []config.Warning) {
	for _, warn := range warnings {
		if warn.Note {
			continue
		}
		fmt.Fprintf(w, "slipway: warning: %s\n", problemText(warn.Position, warn.Key, warn.Msg))
		printHint(w, warn.Hint)
	}
}

// problemText is a mistake in config.toml without its cure, which stands on a line of its own.
func problemText(pos config.Position, key, msg string) string {
	if key != "" {
		msg = key + ": " + msg
	}
	return pos.String() + ": " + msg
}

func printHint(w io.Writer, hint string) {
	for line := range strings.Lines(hint) {
		fmt.Fprintf(w, "slipway: hint: %s\n", strings.TrimSuffix(line, "\n"))
	}
}

func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

func hintOf(err error) string {
	var (
		hinted *hintError
		usage  *usageError
		file   *config.Error
		engine *docker.ConnectError
		sample *demo.Error
	)
	switch {
	case errors.As(err, &hinted):
		return hinted.hint
	case errors.As(err, &usage):
		return usage.hint
	case errors.As(err, &file):
		return file.Hint
	case errors.As(err, &engine):
		return engine.Hint
	case errors.As(err, &sample):
		return sample.Hint
	}
	return ""
}
