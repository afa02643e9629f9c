package guard

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// filters are the filters of a list, by key. What goes to the Engine is encoded anew from them.
type filters map[string][]string

// parseFilters reads filters in both of the forms that clients send: {"label":["a"]} and {"label":{"a":true}}. Keys that
// are not among allowed are refused in the Engine's words.
func (c *call) parseFilters(allowed ...string) (filters, error) {
	raw := c.query.Get("filters")
	if raw == "" {
		return filters{}, nil
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &doc); err != nil {
		return nil, badRequest("slipway: the filters cannot be decoded")
	}
	out := filters{}
	for k, v := range doc {
		if !slices.Contains(allowed, k) {
			return nil, badRequest("invalid filter '%s'", printable(k))
		}
		var list []string
		if json.Unmarshal(v, &list) != nil {
			var set map[string]bool
			if err := json.Unmarshal(v, &set); err != nil {
				return nil, badRequest("slipway: the filter %q cannot be decoded", k)
			}
			list = slices.Sorted(maps.Keys(set))
		}
		if len(list) > 0 {
			out[k] = list
		}
	}
	return out, nil
}

// take removes a filter and returns its values.
func (f filters) take(key string) []string {
	v := f[key]
	delete(f, key)
	return v
}

// mapValues replaces each value of a filter.
func (f filters) mapValues(key string, to func(string) (string, error)) error {
	for i, v := range f[key] {
		w, err := to(v)
		if err != nil {
			return err
		}
		f[key][i] = w
	}
	return nil
}

// query encodes filters in the form that every version of the Engine takes.
func (f filters) query(q url.Values) url.Values {
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

func hasLabel(labels map[string]any, want string) bool {
	key, value, valued := strings.Cut(want, "=")
	got, ok := labels[key]
	return ok && (!valued || got == value)
}

// ownLabels reports whether a filter names a label of ours, which no object has as the job sees it.
func ownLabels(want []string) bool {
	return slices.ContainsFunc(want, func(w string) bool {
		key, _, _ := strings.Cut(w, "=")
		return ownLabel(key)
	})
}
