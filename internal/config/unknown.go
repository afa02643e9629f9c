package config

import (
	"reflect"
	"strings"
	"time"
)

// withoutField deals with a key that no field takes: one that has no effect, or one that nobody knows.
func (r *reader) withoutField(path, key string, v any, t reflect.Type) {
	if r.withoutEffect(path, v) {
		return
	}
	if _, _, above := setting(r.settings, keyOf(path)); above {
		if m, ok := v.(map[string]any); ok {
			r.table(path, m, nil, false)
		}
		return
	}
	hint := ""
	parent := parentKey(keyOf(path))
	if home, ok := r.elsewhere(key); ok {
		hint = "it belongs " + home
	} else if near, ok := nearest(key, r.siblings(parent, t)); ok {
		hint = "did you mean " + near + "?"
	}
	r.warn(path, hint, "unknown key, ignored").Unknown = true
}

// withoutEffect warns about a known key that does nothing yet, if it is set, and reports whether the key is one.
//
// GitLab: its runner writes many keys with empty values, which say nothing.
func (r *reader) withoutEffect(path string, v any) bool {
	s, ok, _ := setting(r.settings, keyOf(path))
	switch {
	case !ok:
		return false
	case isNothing(v):
	case s.Status == Later:
		r.warn(path, "", "not implemented yet, has no effect: %s", s.Why)
	case s.Status == Never:
		r.warn(path, "", "not supported, has no effect: %s", s.Why)
	case s.Status == Moot:
		r.note(path, "has no effect here and needs none: %s", s.Why)
	}
	return true
}

// isNothing reports whether a value is as good as not set: zero, empty, false, or a table of such.
func isNothing(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			if !isNothing(e) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	case []map[string]any:
		return len(v) == 0
	case time.Time:
		return v.IsZero()
	}
	return v == nil || reflect.ValueOf(v).IsZero()
}

// siblings are the known keys of a table.
func (r *reader) siblings(parent string, t reflect.Type) []string {
	var names []string
	for f := range fields(t) {
		names = append(names, tomlName(f))
	}
	for _, s := range r.settings {
		if parent == "" {
			name, _, _ := strings.Cut(s.Key, ".")
			names = append(names, name)
		} else if rest, ok := strings.CutPrefix(s.Key, parent+"."); ok {
			name, _, _ := strings.Cut(rest, ".")
			names = append(names, name)
		}
	}
	return names
}

// elsewhere says where a key belongs that stands in the wrong table, the commonest slip with TOML.
func (r *reader) elsewhere(key string) (string, bool) {
	all := Implemented()
	for _, s := range r.settings {
		all = append(all, s.Key)
	}
	for _, k := range all {
		switch parent := parentKey(k); {
		case !strings.EqualFold(k, strings.TrimPrefix(parent+"."+key, ".")):
		case parent == "":
			return "to the top of the file, above every table", true
		case parent == "runners":
			return "into [[runners]], above its sub-tables", true
		default:
			return "into [" + parent + "]", true
		}
	}
	return "", false
}

func parentKey(key string) string { return key[:max(0, strings.LastIndexByte(key, '.'))] }

// nearest is the name that key was most likely meant to be; none if it takes more than one slip in three letters.
func nearest(key string, names []string) (string, bool) {
	if len(key) > 64 {
		return "", false
	}
	best, least := "", max(1, len(key)/3)+1
	for _, name := range names {
		if d := slips(strings.ToLower(key), strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	return best, best != ""
}

// slips counts the letters that were inserted, left out, replaced or swapped with their neighbour between a and b.
func slips(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			differ := 1
			if a[i-1] == b[j-1] {
				differ = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+differ)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
