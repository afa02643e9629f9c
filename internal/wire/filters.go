package wire

import (
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Filters are a list's conditions: all keys must hold. Who knows objects by other names than the client applies those on names
// and labels itself. What goes to the Engine is encoded anew.
type Filters map[string][]string

// maxFilters bounds what is compared with each object, some of it as regular expressions.
const maxFilters = 16 << 10

// ReadFilters reads filters in both of the forms that clients send: {"label":["a"]} and {"label":{"a":true}}. Keys that
// are not among allowed are refused in the Engine's words.
func ReadFilters(raw string, allowed ...string) (Filters, error) {
	if raw == "" {
		return Filters{}, nil
	}
	if len(raw) > maxFilters {
		return nil, Bad("slipway: the filters are too long")
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &doc); err != nil {
		return nil, Bad("slipway: the filters cannot be decoded")
	}
	out := Filters{}
	for k, v := range doc {
		if !slices.Contains(allowed, k) {
			return nil, Bad("invalid filter '%s'", Printable(k))
		}
		var list []string
		if json.Unmarshal(v, &list) != nil {
			var set map[string]bool
			if err := json.Unmarshal(v, &set); err != nil {
				return nil, Bad("slipway: the filter %q cannot be decoded", k)
			}
			list = slices.Sorted(maps.Keys(set))
		}
		if len(list) > 0 {
			out[k] = list
		}
	}
	return out, nil
}

// Take removes a filter and returns its values.
func (f Filters) Take(key string) []string {
	v := f[key]
	delete(f, key)
	return v
}

// MapValues replaces each value of a filter.
func (f Filters) MapValues(key string, to func(string) (string, error)) error {
	for i, v := range f[key] {
		w, err := to(v)
		if err != nil {
			return err
		}
		f[key][i] = w
	}
	return nil
}

// Query encodes filters in the form that every version of the Engine takes.
func (f Filters) Query(q url.Values) url.Values {
	if len(f) == 0 {
		return q
	}
	doc := map[string]map[string]bool{}
	for k, list := range f {
		doc[k] = map[string]bool{}
		for _, v := range list {
			doc[k][v] = true
		}
	}
	data, _ := json.Marshal(doc) // strings and booleans
	q.Set("filters", string(data))
	return q
}

// hasLabels reports whether labels match all of the filters "key" and "key=value".
func hasLabels(labels map[string]any, want []string) bool {
	for _, w := range want {
		if !hasLabel(labels, w) {
			return false
		}
	}
	return true
}

func hasLabel[V any](labels map[string]V, want string) bool {
	key, value, valued := strings.Cut(want, "=")
	got, ok := labels[key]
	return ok && (!valued || any(got) == any(value))
}

// Exact reports whether a value is one of the key's, or the key is not there.
func (f Filters) Exact(key, value string) bool {
	return len(f[key]) == 0 || slices.Contains(f[key], value)
}

// Match is Exact for beginnings, parts and regular expressions, as the Engine matches names and IDs.
func (f Filters) Match(key, value string) bool {
	if f.Exact(key, value) {
		return true
	}
	return slices.ContainsFunc(f[key], func(pattern string) bool {
		re, err := regexp.Compile(pattern)
		return err == nil && re.MatchString(value)
	})
}

// Labels reports whether an object with these labels meets "label" (all of them) and "label!" (none of them).
func (f Filters) Labels(labels map[string]any) bool {
	return hasLabels(labels, f["label"]) && !slices.ContainsFunc(f["label!"], func(want string) bool { return hasLabel(labels, want) })
}

// Boolean reads a key that is true or false; set says whether it is there.
func (f Filters) Boolean(key string) (value, set bool, err error) {
	for _, s := range f[key] {
		switch s {
		case "1", "true":
			value = true
		case "0", "false":
			value = false
		default:
			return false, false, Bad(`invalid value for filter '%s', must be "true" (or "1"), or "false" (or "0")`, key)
		}
		set = true
	}
	return value, set, nil
}

// Until is the time before which an object must have been made: a duration back from now, seconds since 1970, or a date.
func (f Filters) Until(now time.Time) (time.Time, bool, error) {
	switch len(f["until"]) {
	case 0:
		return time.Time{}, false, nil
	case 1:
	default:
		return time.Time{}, false, Bad("more than one until filter specified")
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
	return time.Time{}, false, Bad("invalid until filter: %q is no time", Printable(s))
}
