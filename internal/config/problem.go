package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	// Syntax: the file is no TOML, so that other mistakes were not looked for.
	Syntax bool
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
	// Unknown: no runner knows the key, or its value; or it is a mistake of a runner that is skipped for such a value.
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

	moved   [][2]string // where the file has what should stand elsewhere
	spoiled []string    // paths of values that cannot be used, which was said
	skipped []string    // paths below which no mistake keeps the file from being used
}

func (p *problems) at(path string) Position {
	for _, m := range p.moved {
		if within(path, m[0]) {
			path = m[1] + path[len(m[0]):]
		}
	}
	return Position{File: p.file, Line: p.lines.line(path)}
}

// move says that the file has at another path what should be at from.
func (p *problems) move(from, to string) { p.moved = append(p.moved, [2]string{from, to}) }

// spoil says that no value is known for a path.
func (p *problems) spoil(path string) { p.spoiled = append(p.spoiled, path) }

// skip says that what is below a path is not used.
func (p *problems) skip(path string) { p.skipped = append(p.skipped, path) }

// lost reports whether the value of one of the paths cannot be used, so that nothing follows from what is in its place.
func (p *problems) lost(paths ...string) bool {
	return slices.ContainsFunc(paths, func(path string) bool { return withinAny(path, p.spoiled) })
}

// within reports whether path is at, or below it.
func within(path, at string) bool {
	rest, ok := strings.CutPrefix(path, at)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func withinAny(path string, places []string) bool {
	return slices.ContainsFunc(places, func(at string) bool { return within(path, at) })
}

// fail notes a mistake at a path such as runners[1].docker.image.
func (p *problems) fail(path, hint, format string, args ...any) {
	if withinAny(path, p.skipped) {
		p.warn(path, hint, format, args...).Unknown = true
		return
	}
	p.errs = append(p.errs, &Error{Position: p.at(path), Key: keyOf(path), Msg: fmt.Sprintf(format, args...), Hint: hint})
}

// warn notes something without effect. The pointer is good until the next warning.
func (p *problems) warn(path, hint, format string, args ...any) *Warning {
	p.warnings = append(p.warnings, Warning{Position: p.at(path), Key: keyOf(path), Msg: fmt.Sprintf(format, args...), Hint: hint})
	return &p.warnings[len(p.warnings)-1]
}

func (p *problems) note(path, format string, args ...any) {
	p.warn(path, "", format, args...).Note = true
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
