package config

import (
	"encoding"
	"iter"
	"reflect"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// rawFile is config.toml as it is written, the runners still undecoded.
type rawFile struct {
	Concurrent       int              `toml:"concurrent"`
	CheckInterval    int              `toml:"check_interval"` // s
	LogLevel         string           `toml:"log_level"`
	LogFormat        string           `toml:"log_format"`
	ShutdownTimeout  int              `toml:"shutdown_timeout"` // s
	ConnectionMaxAge time.Duration    `toml:"connection_max_age"`
	ListenAddress    string           `toml:"listen_address"`
	User             string           `toml:"user"`
	SessionServer    SessionServer    `toml:"session_server"`
	Slipway          Slipway          `toml:"slipway"`
	Runners          []toml.Primitive `toml:"runners"`
}

// field finds the struct field for a key as the TOML library does: the exact name, else in any case.
func field(t reflect.Type, key string) (f reflect.StructField, ok bool) {
	for g := range fields(t) {
		if name := tomlName(g); name == key {
			return g, true
		} else if !ok && strings.EqualFold(name, key) {
			f, ok = g, true
		}
	}
	return f, ok
}

// fields yields the fields of a struct that are keys of the file.
func fields(t reflect.Type) iter.Seq[reflect.StructField] {
	return func(yield func(reflect.StructField) bool) {
		if t == nil || t.Kind() != reflect.Struct {
			return
		}
		for f := range t.Fields() {
			if tomlName(f) != "-" && !yield(f) {
				return
			}
		}
	}
}

func tomlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
	return name
}

// elem is what the elements of the table arrays are.
func elem(t reflect.Type) reflect.Type {
	switch {
	case t == reflect.TypeFor[[]toml.Primitive]():
		return reflect.TypeFor[Runner]()
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return t.Elem()
	}
	return nil
}

// isTable reports whether keys of a fixed set are below a field of that type, and gives the struct.
func isTable(t reflect.Type) (reflect.Type, bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	text := reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) // such as a time
	return t, t.Kind() == reflect.Struct && !text
}

// Implemented lists the keys that have an effect, as GitLab's documentation names them: runners.docker.image.
func Implemented() []string {
	var walk func(t reflect.Type, prefix string) []string
	walk = func(t reflect.Type, prefix string) (keys []string) {
		for f := range fields(t) {
			key := child(prefix, tomlName(f))
			if e := elem(f.Type); e != nil {
				keys = append(keys, walk(e, key)...)
			} else if sub, ok := isTable(f.Type); ok {
				keys = append(keys, walk(sub, key)...)
			} else {
				keys = append(keys, key)
			}
		}
		return keys
	}
	return walk(reflect.TypeFor[rawFile](), "")
}
