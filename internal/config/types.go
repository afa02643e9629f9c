package config

import (
	"encoding"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// reader compares the file with the structs that it is decoded into, before it is: the TOML library stops at the
// first wrong type, cannot tell one [[runners]] from the next, and says nothing of keys it has no field for.
//
// It changes what it reads: what has the wrong type is put right where it is clear what was meant, and else taken out, so that all the
// rest can be decoded, and its values be looked at in the same go.
type reader struct {
	*problems
	settings []Setting
	changed  bool // the tree is no longer what the file says
}

// table checks what is in a table against the fields of t. quiet is for the runners that are skipped: nobody needs to
// hear of keys without effect there.
func (r *reader) table(path string, m map[string]any, t reflect.Type, quiet bool) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		at := child(path, key)
		if f, ok := field(t, key); ok {
			r.put(m, key, r.value(at, m[key], f.Type, quiet))
		} else if !quiet {
			r.withoutField(at, key, m[key], t)
		}
	}
}

// put gives a key the value that is used for it; nil = none can be.
func (r *reader) put(m map[string]any, key string, v any) {
	if v == nil {
		delete(m, key)
		r.changed = true
		return
	}
	m[key] = v
}

// value checks that v can be put into a field of type t, and gives what is used in its place.
func (r *reader) value(path string, v any, t reflect.Type, quiet bool) any {
	if t.Kind() == reflect.Pointer {
		t = t.Elem() // nil is for what the file does not say
	}
	if e := elem(t); e != nil {
		return r.tables(path, v, e, quiet)
	}
	if sub, ok := isTable(t); ok {
		m, ok := v.(map[string]any)
		if !ok {
			list, _ := tables(v)
			if len(list) == 0 {
				return r.wrong(path, v, t)
			}
			r.mistyped(path, v, t)
			m = list[0]
			r.move(path, element(path, 0))
		}
		r.table(path, m, sub, quiet)
		return m
	}
	v = r.fits(path, v, t)
	if m, ok := v.(map[string]any); ok && !quiet {
		for key, e := range m {
			r.withoutEffect(child(path, key), e)
		}
	}
	return v
}

func (r *reader) tables(path string, v any, t reflect.Type, quiet bool) any {
	list, ok := tables(v)
	if !ok {
		m, ok := v.(map[string]any)
		if !ok {
			return r.wrong(path, v, reflect.SliceOf(t))
		}
		r.mistyped(path, v, reflect.SliceOf(t))
		list = []map[string]any{m}
		r.move(element(path, 0), path)
	}
	for i, m := range list {
		skipped, at := quiet, element(path, i)
		if t == reflect.TypeFor[Runner]() && assumed(m) == "" {
			skipped = true
			for _, key := range []string{"docker", "slipway"} {
				if key = spelled(m, key); m[key] != nil {
					r.put(m, key, nil)
				}
			}
		} else if executor, _ := get(m, "executor").(string); t == reflect.TypeFor[Runner]() && !implemented(executor) {
			r.skip(child(at, "docker"))
			r.skip(child(at, "slipway"))
		}
		r.table(at, m, t, skipped)
	}
	return list
}

// assumed is the executor by which the rest of a [[runners]] is judged: its own, or else the one that was most likely meant. "" = one that
// we lack, or nobody can tell.
func assumed(runner map[string]any) string {
	executor, _ := get(runner, "executor").(string)
	if near, ok := nearest(executor, slices.Concat(foreignExecutors(), []string{dockerExecutor, ShellExecutor})); ok && executor != "" {
		executor = near
	} else if get(runner, "docker") != nil {
		executor = dockerExecutor
	}
	if !implemented(executor) {
		return ""
	}
	return executor
}

// tables takes [[runners]] and the rare runners = [{…}].
func tables(v any) ([]map[string]any, bool) {
	switch v := v.(type) {
	case []map[string]any:
		return v, true
	case []any:
		out := make([]map[string]any, len(v))
		for i, e := range v {
			m, ok := e.(map[string]any)
			if !ok {
				return nil, false
			}
			out[i] = m
		}
		return out, true
	}
	return nil, false
}

// get finds a key as the TOML library does: the exact name, else in any case.
func get(m map[string]any, key string) any { return m[spelled(m, key)] }

// spelled is the key as the table has it.
func spelled(m map[string]any, key string) string {
	if _, ok := m[key]; !ok {
		for k := range m {
			if strings.EqualFold(k, key) {
				return k
			}
		}
	}
	return key
}

// fits checks a value that is not a table of known keys, fails with the cure, and gives what is used in its place.
func (r *reader) fits(path string, v any, t reflect.Type) any {
	if v = r.typed(path, v, t); v == nil {
		return nil
	}
	// What reads itself from text may find fault with a string.
	if u, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler); ok && t != reflect.TypeFor[time.Time]() {
		if err := u.UnmarshalText([]byte(v.(string))); err != nil {
			r.fail(path, "write "+r.example(path, nil, t), "%v", err)
			r.spoil(path)
			return nil
		}
	}
	return v
}

func (r *reader) typed(path string, v any, t reflect.Type) any {
	ok := false
	switch t {
	case reflect.TypeFor[time.Duration]():
		switch v := v.(type) {
		case string:
			_, err := time.ParseDuration(v)
			ok = err == nil
		case int64:
			ok = v == 0
		}
	case reflect.TypeFor[time.Time]():
		switch v := v.(type) {
		case time.Time:
			ok = true
		case string:
			_, err := time.Parse(time.RFC3339, v)
			ok = err == nil
		}
	case reflect.TypeFor[Bytes](), reflect.TypeFor[NanoCPUs](), reflect.TypeFor[MinFree]():
		_, ok = v.(string)
	case reflect.TypeFor[StringList]():
		ok = new(StringList).UnmarshalTOML(v) == nil
	default:
		return r.plain(path, v, t)
	}
	if !ok {
		return r.wrong(path, v, t)
	}
	return v
}

// plain checks what the TOML library decodes without our help.
func (r *reader) plain(path string, v any, t reflect.Type) any {
	ok := false
	switch t.Kind() {
	case reflect.String:
		_, ok = v.(string)
	case reflect.Bool:
		_, ok = v.(bool)
	case reflect.Int, reflect.Int64:
		_, ok = v.(int64)
	case reflect.Slice:
		if list, isList := v.([]any); isList {
			for i, e := range list {
				if reflect.TypeOf(e) != t.Elem() {
					r.fail(element(path, i), "write "+r.example(path, nil, t), "its element %d is %s, must be a string", i+1, described(e))
					r.spoil(element(path, i))
					list[i], r.changed = "", true
				}
			}
			return list
		}
	case reflect.Map:
		if m, isTable := v.(map[string]any); isTable {
			for _, key := range slices.Sorted(maps.Keys(m)) {
				r.put(m, key, r.plain(child(path, key), m[key], t.Elem()))
			}
			return m
		}
	}
	if !ok {
		return r.wrong(path, v, t)
	}
	return v
}

// wrong fails for a value of the wrong type, and gives the one that was meant; nil = nobody can tell.
func (r *reader) wrong(path string, v any, t reflect.Type) any {
	r.mistyped(path, v, t)
	meant := meant(v, t)
	if meant == nil {
		r.spoil(path)
	}
	return meant
}

func (r *reader) mistyped(path string, v any, t reflect.Type) {
	what := described(v)
	if t == reflect.TypeFor[Secret]() {
		what = kind(v)
	}
	r.fail(path, "write "+r.example(path, v, t), "is %s, must be %s", what, wanted(t))
	r.changed = true
}

// meant is a value as example shows how to write it.
func meant(v any, t reflect.Type) any {
	number := t == reflect.TypeFor[int]() || t == reflect.TypeFor[int64]()
	switch v := v.(type) {
	case string:
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && number {
			return n
		}
		if t.Kind() == reflect.Bool && (v == "true" || v == "false") {
			return v == "true"
		}
		if t == reflect.TypeFor[[]string]() {
			return []any{v}
		}
	case int64:
		if t == reflect.TypeFor[NanoCPUs]() || t == reflect.TypeFor[Bytes]() && !lacksUnit(v) {
			return strconv.FormatInt(v, 10)
		}
	case float64:
		if number && v == math.Trunc(v) && math.Abs(v) < 1e15 {
			return int64(v)
		}
	}
	return nil
}

// lacksUnit tells a size whose unit was forgotten: so few bytes nobody means.
func lacksUnit(n int64) bool { return n > 0 && n < 1<<20 }

// described names a value without what may be secret: the text of strings.
func described(v any) string {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return fmt.Sprintf("the number %d", v)
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1e15 {
			return fmt.Sprintf("the number %.1f", v) // what is wrong with it is that it has a point
		}
		return fmt.Sprintf("the number %v", v)
	case string:
		if isLiteral(v) {
			return fmt.Sprintf("the string %q", v)
		}
	}
	return kind(v)
}

func kind(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case string:
		return "a string"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "a list of tables"
	}
	return "a list"
}

// isLiteral reports whether a string is a number, true or false that should have no quotes.
func isLiteral(s string) bool {
	_, err := strconv.ParseInt(s, 10, 64)
	return err == nil || s == "true" || s == "false"
}

func wanted(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return `a duration in a string, such as "30m"`
	case reflect.TypeFor[time.Time]():
		return "a date and time"
	case reflect.TypeFor[Bytes]():
		return `a size in a string, such as "512m"`
	case reflect.TypeFor[MinFree]():
		return `a size in a string, such as "10GB", or a part of a disk, such as "5%"`
	case reflect.TypeFor[NanoCPUs]():
		return `a number of CPUs in a string, such as "1.5"`
	case reflect.TypeFor[StringList]():
		return "a string or a list of strings"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return "a list of tables"
		}
		return "a list of strings"
	case reflect.Map:
		switch t.Elem().Kind() {
		case reflect.Bool:
			return "a table of true and false"
		case reflect.Slice:
			return "a table of lists of strings"
		}
		return "a table of strings"
	case reflect.String:
		return "a string"
	}
	return "a table"
}

// example shows how the key is written right, with the value that is there where that is clear and no secret.
func (r *reader) example(path string, v any, t reflect.Type) string {
	key := keyOf(path)
	if _, ok := isTable(t); ok {
		return "[" + key + "]"
	}
	name := key[strings.LastIndexByte(key, '.')+1:]
	if strings.HasSuffix(key, `"`) {
		name = key[strings.LastIndex(key, `."`)+1:]
	}
	if t == reflect.TypeFor[Secret]() {
		return name + ` = "…"`
	}
	switch t {
	case reflect.TypeFor[time.Duration]():
		return name + ` = "15m"`
	case reflect.TypeFor[time.Time]():
		return name + " = 2026-01-31T12:00:00Z"
	case reflect.TypeFor[Bytes]():
		if n, ok := v.(int64); ok && n > 0 {
			if lacksUnit(n) {
				return fmt.Sprintf(`%s = "%dm", with the unit that is meant`, name, n)
			}
			return fmt.Sprintf(`%s = "%d"`, name, n)
		}
		return name + ` = "512m"`
	case reflect.TypeFor[MinFree]():
		return name + ` = "10GB" or ` + name + ` = "5%"`
	case reflect.TypeFor[NanoCPUs]():
		if n, ok := v.(int64); ok && n >= 0 {
			return fmt.Sprintf(`%s = "%d"`, name, n)
		}
		return name + ` = "1.5"`
	}
	switch t.Kind() {
	case reflect.Bool:
		if v == "true" || v == "false" {
			return fmt.Sprintf("%s = %s, without quotes", name, v)
		}
		return name + " = true or " + name + " = false"
	case reflect.Int, reflect.Int64:
		if n, ok := v.(float64); ok && n == math.Trunc(n) && math.Abs(n) < 1e15 {
			return fmt.Sprintf("%s = %.0f", name, n)
		}
		if s, ok := v.(string); ok && isLiteral(s) && s != "true" && s != "false" {
			return fmt.Sprintf("%s = %s, without quotes", name, s)
		}
		if s, ok := v.(string); ok && (name == "shm_size" || name == "MaxUploadedArchiveSize") {
			if n, err := units.RAMInBytes(s); err == nil {
				return fmt.Sprintf("%s = %d, in bytes", name, n)
			}
		}
		return name + " = 1"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return "[[" + key + "]], with two brackets on each side"
		}
		return name + ` = ["…"]`
	case reflect.Map:
		return "[" + key + "] with the values below it"
	}
	switch v := v.(type) {
	case int64, float64, bool:
		return fmt.Sprintf(`%s = "%v"`, name, v)
	}
	return name + ` = "…"`
}
