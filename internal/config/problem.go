package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Position is a line of a file.
type Position struct {
	File string
	Line int // from 1; 0 = the file as a whole
}

// String is file:line.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Error is a mistake in the file that keeps it from being used.
type Error struct {
	Position
	Key  string // runners.docker.image; "" = none in particular
	Msg  string // what is wrong
	Hint string // what to do about it
	Err  error  // the cause, if it was not the file's text
}

// Error names file, line, key, mistake and cure.
func (e *Error) Error() string { return text(e.Position, e.Key, e.Msg, e.Hint) }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Warning is something in the file that has no effect, or another than its writer may think.
type Warning struct {
	Position
	Key, Msg, Hint string
	// Note: nothing is lost by it; for the reader's information.
	Note bool
	// Unknown: no runner knows the key, or its value.
	Unknown bool
	// Withheld: the key has its effect where jobs have no guarded socket.
	Withheld bool
}

// String names file, line, key, matter and cure.
func (w Warning) String() string { return text(w.Position, w.Key, w.Msg, w.Hint) }

func text(pos Position, key, msg, hint string) string {
	s := pos.String() + ": "
	if key != "" {
		s += key + ": "
	}
	s += msg
	if hint != "" {
		s += " (" + hint + ")"
	}
	return s
}

// Problems lists the mistakes of an error that Load or a rewrite returned, in the order of their lines, for those who
// print mistake and cure apart.
func Problems(err error) []*Error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var all []*Error
		for _, e := range joined.Unwrap() {
			all = append(all, Problems(e)...)
		}
		return all
	}
	var e *Error
	if errors.As(err, &e) {
		return []*Error{e}
	}
	return nil
}

// problems collects what is found in one file.
type problems struct {
	file     string
	lines    *layout
	errs     []*Error
	warnings []Warning
}

func (p *problems) at(path string) Position {
	return Position{File: p.file, Line: p.lines.line(path)}
}

// fail notes a mistake at a path such as runners[1].docker.image.
func (p *problems) fail(path, hint, format string, args ...any) {
	p.errs = append(p.errs, &Error{Position: p.at(path), Key: keyOf(path), Msg: fmt.Sprintf(format, args...), Hint: hint})
}

func (p *problems) warn(path, hint, format string, args ...any) {
	p.warnings = append(p.warnings, Warning{Position: p.at(path), Key: keyOf(path), Msg: fmt.Sprintf(format, args...), Hint: hint})
}

func (p *problems) note(path, format string, args ...any) {
	p.warn(path, "", format, args...)
	p.warnings[len(p.warnings)-1].Note = true
}

// err gives all mistakes, sorted, or nil.
func (p *problems) err() error {
	slices.SortStableFunc(p.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
	switch len(p.errs) {
	case 0:
		return nil
	case 1:
		return p.errs[0]
	}
	all := make([]error, len(p.errs))
	for i, e := range p.errs {
		all[i] = e
	}
	return errors.Join(all...)
}

func (p *problems) sorted() []Warning {
	slices.SortStableFunc(p.warnings, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Msg, b.Msg))
	})
	return p.warnings
}
