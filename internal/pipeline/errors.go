package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Error is one complaint about a pipeline file.
type Error struct {
	File string
	Line int // from 1; 0 = the file as a whole
	Col  int // from 1; 0 = the whole line
	Msg  string
	Hint string // what to change; may be empty
}

// Error gives the complaint in the form file:line:column: message (hint).
func (e *Error) Error() string {
	s := e.File
	if e.Line > 0 {
		s += fmt.Sprintf(":%d", e.Line)
		if e.Col > 0 {
			s += fmt.Sprintf(":%d", e.Col)
		}
	}
	s += ": " + e.Msg
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// reader collects what is wrong, so that an author sees all of it at once.
type reader struct {
	file     string
	errs     []*Error
	warnings []*Error
}

func (r *reader) errorf(at position, hint, format string, args ...any) {
	r.errs = append(r.errs, r.complaint(at, hint, format, args...))
}

func (r *reader) warnf(at position, hint, format string, args ...any) {
	r.warnings = append(r.warnings, r.complaint(at, hint, format, args...))
}

func (r *reader) complaint(at position, hint, format string, args ...any) *Error {
	return &Error{File: r.file, Line: at.line, Col: at.col, Msg: fmt.Sprintf(format, args...), Hint: hint}
}

// err joins the errors by line. What an alias brought in twice is told once.
func (r *reader) err() error {
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), cmp.Compare(a.Msg, b.Msg))
	})
	var out []error
	for i, e := range r.errs {
		if i == 0 || *e != *r.errs[i-1] {
			out = append(out, e)
		}
	}
	if len(out) == 1 {
		return out[0]
	}
	return errors.Join(out...)
}
