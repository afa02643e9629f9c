package pipeline

import (
	"strconv"
	"strings"
	"time"
)

// maxScriptDepth is how deep lists may nest in a script. GitLab has the same limit.
const maxScriptDepth = 10

// string reads a value that must be a string. what leads the message ("job build: stage: ").
func (r *reader) string(v *value, what string) string {
	if v.kind != kindString {
		r.errorf(v.position, quoteHint(v), "%smust be a string, not %v", what, v.kind)
	}
	return v.text
}

// scalar reads a value whose text counts, whatever its type.
func (r *reader) scalar(v *value, what string) string {
	if !v.isScalar() {
		r.errorf(v.position, "", "%smust be a string, not %v", what, v.kind)
	}
	return v.text
}

func (r *reader) stringList(v *value, what string) []string {
	if v.kind != kindList {
		r.errorf(v.position, "", "%smust be a list of strings, not %v", what, v.kind)
		return nil
	}
	out := make([]string, 0, len(v.items))
	for _, item := range v.items {
		out = append(out, r.string(item, what+"an item "))
	}
	return out
}

// script reads a string or a list of strings and such lists.
func (r *reader) script(v *value, what string) []string {
	switch v.kind {
	case kindString:
		if v.text == "" {
			return nil
		}
		return []string{v.text}
	case kindList:
		return r.lines(v, what, 1)
	}
	r.errorf(v.position, quoteHint(v), "%smust be a string or a list of strings, not %v", what, v.kind)
	return nil
}

func (r *reader) lines(v *value, what string, depth int) []string {
	if depth > maxScriptDepth {
		r.errorf(v.position, "", "%slists nest more than %d levels deep", what, maxScriptDepth)
		return nil
	}
	out := make([]string, 0, len(v.items))
	for _, item := range v.items {
		if item.kind == kindList {
			out = append(out, r.lines(item, what, depth+1)...)
			continue
		}
		out = append(out, r.string(item, what+"a line "))
	}
	return out
}

// quoteHint says how a value that YAML took for something else becomes a string.
func quoteHint(v *value) string {
	switch v.kind {
	case kindBool, kindNumber, kindSymbol:
		return "put it in quotes"
	case kindMap:
		return "a line with a colon and a space in it needs quotes around it"
	}
	return ""
}

// The units of a timeout.
//
// GitLab: days have 24 hours, weeks 7 days, months 30 days.
var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "second": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "wk": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour,
	"mo": 30 * 24 * time.Hour, "month": 30 * 24 * time.Hour,
}

// maxTimeout is more than any project allows, and far from overflow.
const maxTimeout = 366 * 24 * time.Hour

func (r *reader) timeout(v *value, where string) time.Duration {
	text := r.scalar(v, where+"timeout: ")
	d, ok := parseDuration(text)
	if v.isScalar() && !ok {
		r.errorf(v.position, `as in "1h 30m" or "90 minutes"`, "%stimeout: %q is not a duration", where, text)
	}
	return d
}

// parseDuration reads "1h 30m", "90 minutes", "1 hour and 30 minutes", "3600" (seconds).
func parseDuration(s string) (time.Duration, bool) {
	rest := strings.ToLower(strings.NewReplacer(",", " ", " and ", " ").Replace(s))
	var sum float64
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
		rest = strings.TrimSpace(rest[len(number):])
		word := rest[:len(rest)-len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz"))]
		rest = rest[len(word):]
		n, err := strconv.ParseFloat(number, 64)
		unit, known := units[word]
		switch {
		case word == "":
			unit, known = time.Second, true
		case !known:
			unit, known = units[strings.TrimSuffix(word, "s")]
		}
		sum += n * float64(unit)
		if err != nil || !known || sum > float64(maxTimeout) {
			return 0, false
		}
	}
	d := time.Duration(sum).Truncate(time.Second)
	return d, d > 0
}
