package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// dialogue asks questions on standard error and reads the answers, line by line, from a terminal or a pipe.
type dialogue struct {
	in  io.Reader
	out io.Writer
}

// errNoAnswer: the input ended (Ctrl-D, or a pipe with too few lines) before all questions were answered.
var errNoAnswer = errors.New("the input ended before all questions were answered; nothing was written")

// ask repeats a question until accept takes the answer; an empty answer is the default. What accept refuses with is
// shown to the user; an error it wraps in fatal ends the dialogue.
func (d *dialogue) ask(ctx context.Context, question, fallback string, accept func(string) error) (string, error) {
	return d.repeat(ctx, question, fallback, d.line, accept)
}

// askSecret is ask for an answer that a terminal does not show.
func (d *dialogue) askSecret(ctx context.Context, question string, accept func(string) error) (string, error) {
	return d.repeat(ctx, question, "", d.secret, accept)
}

func (d *dialogue) repeat(ctx context.Context, question, fallback string, read func(context.Context) (string, error), accept func(string) error) (string, error) {
	for {
		fmt.Fprint(d.out, question)
		if fallback != "" {
			fmt.Fprintf(d.out, " [%s]", fallback)
		}
		fmt.Fprint(d.out, ": ")
		answer, err := read(ctx)
		if err != nil {
			fmt.Fprintln(d.out) // leave the line of the question
			return "", err
		}
		if answer = strings.TrimSpace(answer); answer == "" {
			answer = fallback
		}
		err = accept(answer)
		var end *endError
		switch {
		case err == nil:
			return answer, nil
		case errors.As(err, &end):
			return "", end.err
		case ctx.Err() != nil:
			return "", errInterrupted
		}
		printError(d.out, err)
	}
}

// endError ends a dialogue: asking again would not help.
type endError struct{ err error }

func (e *endError) Error() string { return e.err.Error() }

// line reads an answer that may be seen.
func (d *dialogue) line(ctx context.Context) (string, error) {
	answer, err := wait(ctx, func() (string, error) { return readLine(d.in) })
	if _, ok := d.terminal(); ok {
		return answer, err
	}
	if err == nil {
		fmt.Fprintln(d.out) // a terminal would show the user's Enter
	} else if errors.Is(err, errNoAnswer) {
		err = withHint(err, "with --non-interactive nothing is asked")
	}
	return answer, err
}

// terminal returns the terminal that the answers come from, if they do.
func (d *dialogue) terminal() (*os.File, bool) {
	f, ok := d.in.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// secret reads a line and, on a terminal, shows nothing of it.
func (d *dialogue) secret(ctx context.Context) (string, error) {
	f, ok := d.terminal()
	if !ok {
		return d.line(ctx)
	}
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return "", fmt.Errorf("hide the answer: %w", err)
	}
	answer, err := wait(ctx, func() (string, error) { return readKeys(f) })
	if restoreErr := term.Restore(int(f.Fd()), before); restoreErr != nil {
		return "", fmt.Errorf("restore the terminal: %w", restoreErr)
	}
	if err == nil {
		fmt.Fprintln(d.out) // the terminal did not show the user's Enter
	}
	return answer, err
}

// readKeys reads a line from a terminal in raw mode. (term.ReadPassword does not take Ctrl-D for an end.)
func readKeys(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", errNoAnswer
		}
		switch key := b[0]; key {
		case '\r', '\n':
			return string(line), nil
		case 'C' - '@':
			return "", errInterrupted
		case 'D' - '@':
			if len(line) == 0 {
				return "", errNoAnswer
			}
		case '\b', 0x7f: // Backspace
			line = line[:max(0, len(line)-1)]
		case 'U' - '@':
			line = nil
		default:
			line = append(line, key)
		}
	}
}

// wait runs a read that cannot be interrupted and gives up on it when ctx ends.
func wait(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := read()
		done <- result{line, err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-ctx.Done():
		return "", errInterrupted
	}
}

// readLine reads byte by byte: a buffer would swallow what the next question, perhaps a secret one, is to read.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for {
		n, err := r.Read(b)
		switch {
		case n == 1 && b[0] == '\n':
			return string(line), nil
		case n == 1:
			line = append(line, b[0])
		case errors.Is(err, io.EOF) && len(line) > 0:
			return string(line), nil
		case errors.Is(err, io.EOF):
			return "", errNoAnswer
		case err != nil:
			return "", fmt.Errorf("read the answer: %w", err)
		}
	}
}
