// Package wire reads what a client writes to the Engine's API as the strictest of its readers would: the path, the query, the
// filters in it, and JSON. What can be understood in two ways is refused. It knows nothing of what the API's calls mean.
package wire

import (
	"fmt"
	"strings"
	"unicode"
)

// Error is what is wrong with a request, in words for its client.
type Error struct{ text string }

func (e *Error) Error() string { return e.text }

// Bad is such an error.
func Bad(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Printable is a client's text in a message: short, and without what would break a line or lead a terminal.
func Printable(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.Map(PrintableRune, s)
}

// PrintableRune is a rune of such a text.
func PrintableRune(r rune) rune {
	if !unicode.IsPrint(r) {
		return '?'
	}
	return r
}
