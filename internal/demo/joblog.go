package demo

import (
	"bytes"
	"io"
	"regexp"
)

// stamp is what stands before each line of a job log: time, stream, and whether the line goes on from the one before.
//
// GitLab: "2006-01-02T15:04:05.000000Z 01O+", 32 bytes (FF_TIMESTAMPS).
var stamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ([0-9a-f]{2}[OE])([ +])`)

// section is a mark that GitLab folds a log by; it is meant for no reader.
var section = regexp.MustCompile(`section_(?:start|end):\d+:[^\r\n]*\r\x1b\[0K`)

// colour is a terminal's control sequence.
var colour = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]`)

// jobLog passes a job log on to a reader: no timestamps, no section marks, and colours only where they show.
type jobLog struct {
	out    io.Writer
	colour bool

	line   []byte // the beginning of a line whose end has not come
	stream string // of the last line
	owed   bool   // the last line's end is held back: the next may go on from it
}

// Write takes a piece of the log.
func (l *jobLog) Write(b []byte) (int, error) {
	n := len(b)
	for {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		l.line = append(l.line, line...)
		if !whole {
			return n, nil
		}
		if err := l.pass(l.line); err != nil {
			return 0, err
		}
		l.line, b = l.line[:0], rest
	}
}

// Close passes on what has no end of line yet. It does not close the writer below.
func (l *jobLog) Close() error {
	if len(l.line) > 0 {
		if err := l.pass(l.line); err != nil {
			return err
		}
	}
	if !l.owed {
		return nil
	}
	l.owed, l.line = false, nil
	_, err := io.WriteString(l.out, "\n")
	return err
}

func (l *jobLog) pass(line []byte) error {
	stream, goesOn := "", false
	if m := stamp.FindSubmatch(line); m != nil {
		stream, goesOn = string(m[1]), string(m[2]) == "+"
		line = line[len(m[0]):]
	}
	text := section.ReplaceAll(line, nil)
	if marks := len(text) != len(line); marks && len(bytes.TrimSpace(colour.ReplaceAll(text, nil))) == 0 {
		if !(goesOn && stream == l.stream) {
			l.stream = "" // what goes on from here goes on from a line that is not shown
		}
		return nil
	}
	if !l.colour {
		text = colour.ReplaceAll(text, nil)
	}
	text = bytes.TrimSuffix(text, []byte("\r"))
	var out []byte
	if l.owed && !(goesOn && stream == l.stream) {
		out = append(out, '\n')
	}
	l.owed, l.stream = true, stream
	_, err := l.out.Write(append(out, text...))
	return err
}
