package guard

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// filters are a list's conditions: all keys must hold. The guard applies them itself, on what the job gets to see: the
// Engine knows the job's objects by other names.
type filters map[string][]string

// readFilters reads the query's filters in both of their forms, and refuses keys that are not in known, as the Engine
// does.
func (c *call) readFilters(known ...string) (filters, error) {
	raw := c.query.Get("filters")
	if raw == "" {
		return filters{}, nil
	}
	out := filters{}
	if err := json.Unmarshal([]byte(raw), (*map[string][]string)(&out)); err != nil {
		var old map[string]map[string]bool
		if err := json.Unmarshal([]byte(raw), &old); err != nil {
			return nil, badRequest("invalid filter")
		}
		out = filters{}
		for k, values := range old {
			for v, on := range values {
				if on {
					out[k] = append(out[k], v)
				}
			}
		}
	}
	for k := range out {
		if !slices.Contains(known, k) {
			return nil, badRequest("invalid filter '%s'", printable(k))
		}
	}
	return out, nil
}

// exact reports whether a value is one of the key's, or the key is not there.
func (f filters) exact(key, value string) bool {
	return len(f[key]) == 0 || slices.Contains(f[key], value)
}

// match is exact for beginnings, parts and regular expressions, as the Engine matches names and IDs.
func (f filters) match(key, value string) bool {
	if f.exact(key, value) {
		return true
	}
	return slices.ContainsFunc(f[key], func(pattern string) bool {
		re, err := regexp.Compile(pattern)
		return err == nil && re.MatchString(value)
	})
}

// labels reports whether an object with these labels meets "label" (all of them) and "label!" (none of them).
func (f filters) labels(labels map[string]any) bool {
	has := func(want string) bool {
		k, v, withValue := strings.Cut(want, "=")
		got, ok := labels[k]
		return ok && (!withValue || got == v)
	}
	for _, want := range f["label"] {
		if !has(want) {
			return false
		}
	}
	return !slices.ContainsFunc(f["label!"], has)
}

// boolean reads a key that is true or false; set says whether it is there.
func (f filters) boolean(key string) (value, set bool, err error) {
	for _, s := range f[key] {
		switch s {
		case "1", "true":
			value = true
		case "0", "false":
			value = false
		default:
			return false, false, badRequest(`invalid value for filter '%s', must be "true" (or "1"), or "false" (or "0")`, key)
		}
		set = true
	}
	return value, set, nil
}

// until is the time before which an object must have been made: a duration back from now, seconds since 1970, or a date.
func (f filters) until(now time.Time) (time.Time, bool, error) {
	switch len(f["until"]) {
	case 0:
		return time.Time{}, false, nil
	case 1:
	default:
		return time.Time{}, false, badRequest("more than one until filter specified")
	}
	s := f["until"][0]
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), true, nil
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		return time.UnixMilli(int64(n * 1000)), true, nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, s, time.Local); err == nil {
			return t, true, nil
		}
	}
	return time.Time{}, false, &apiError{http.StatusBadRequest, fmt.Sprintf("invalid until filter: %q is no time", printable(s))}
}

// visibleLabels takes our labels out of an object's view and returns the others.
func (g *Guard) visibleLabels(view map[string]any) map[string]any {
	labels, _ := view["Labels"].(map[string]any)
	for k := range labels {
		if _, ours := g.policy.Labels[k]; ours || ownLabel(k) {
			delete(labels, k)
		}
	}
	return labels
}
