package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxSize is far above any real config.toml and keeps a wrong path (a log, a device) from being read to its end.
const maxSize = 1 << 20

// Load reads and checks a config.toml, with the process's environment for the variables in url and token. What is
// wrong comes as one *Error or several, joined (see Problems); the warnings are there in either case.
func Load(path string) (*Config, []Warning, error) {
	src, err := read(path)
	if err != nil {
		return nil, nil, err
	}
	return Parse(path, src, os.Getenv)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	if len(src) > maxSize {
		return nil, &Error{
			Position: Position{File: path}, Msg: "is larger than 1 MiB",
			Hint: "this is not a config.toml; name the right file with --config",
		}
	}
	return src, nil
}

func unreadable(path string, err error) error {
	e := &Error{Position: Position{File: path}, Err: err}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	e.Msg = "cannot be read: " + err.Error()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Hint = "slipway register writes it; --config names another"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "run as root, or as the file's owner"
	default:
		e.Hint = "name a config.toml with --config"
	}
	return e
}

// Parse checks the text of a config.toml. file is for the positions, getenv for the variables in url and token.
func Parse(file string, src []byte, getenv func(string) string) (*Config, []Warning, error) {
	tree, p, err := readTypes(file, src)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := decode(file, tree.text)
	if err != nil {
		return nil, p.sorted(), errors.Join(p.err(), err)
	}
	for i, run := range cfg.Runners {
		run.Pos = p.at(element("runners", i))
	}
	c := checker{problems: p, getenv: getenv}
	c.config(cfg, tree.tree)
	if err := p.err(); err != nil {
		return nil, p.sorted(), err
	}
	return cfg, p.sorted(), nil
}

// usable is what of a file can be decoded.
type usable struct {
	tree map[string]any
	text string // TOML
}

// readTypes reads TOML and checks that all in it is of the right type, and known. The error is that the file is no TOML.
func readTypes(file string, src []byte) (usable, *problems, error) {
	tree, err := parseTree(file, src)
	if err != nil {
		return usable{}, nil, err
	}
	p := &problems{file: file, lines: scan(string(src))}
	r := reader{problems: p, settings: Unimplemented()}
	r.table("", tree, reflect.TypeFor[rawFile](), false)
	if !r.changed {
		return usable{tree, string(src)}, p, nil
	}
	text, err := toml.Marshal(tree)
	if err != nil {
		return usable{}, nil, errors.Join(p.err(), &Error{Position: Position{File: file}, Msg: err.Error(), Err: err})
	}
	return usable{tree, string(text)}, p, nil
}

// parseTree reads TOML; its errors name the line.
func parseTree(file string, src []byte) (map[string]any, error) {
	var tree map[string]any
	if err := toml.Unmarshal(src, &tree); err != nil {
		return nil, syntaxError(file, src, err)
	}
	return tree, nil
}

// decode fills the structs. The types have been checked, so that it fails for nothing a user could do.
func decode(path, text string) (*Config, error) {
	var f rawFile
	md, err := toml.Decode(text, &f)
	if err != nil {
		return nil, syntaxError(path, []byte(text), err)
	}
	cfg := &Config{
		Path: path, Concurrent: f.Concurrent, LogLevel: f.LogLevel, LogFormat: f.LogFormat,
		CheckInterval: seconds(f.CheckInterval), ShutdownTimeout: seconds(f.ShutdownTimeout),
		ConnectionMaxAge: f.ConnectionMaxAge, ListenAddress: f.ListenAddress, User: f.User, SessionServer: f.SessionServer, Slipway: f.Slipway,
	}
	for _, raw := range f.Runners {
		run := &Runner{}
		if err := md.PrimitiveDecode(raw, run); err != nil {
			return nil, syntaxError(path, []byte(text), err)
		}
		cfg.Runners = append(cfg.Runners, run)
	}
	return cfg, nil
}

func syntaxError(path string, src []byte, err error) error {
	e := &Error{Position: Position{File: path}, Msg: err.Error(), Err: err}
	var pe toml.ParseError
	if !errors.As(err, &pe) {
		return e
	}
	// The library's own line is one too high where it has read past the end of the line.
	text := strings.TrimPrefix(string(src), byteOrderMark(string(src)))
	at := min(max(pe.Position.Start, 0), len(text))
	e.Line = strings.Count(text[:at], "\n") + 1
	e.Key, e.Err, e.Syntax = pe.LastKey, nil, true
	e.Msg, e.Hint = explain(strings.TrimSuffix(pe.Message, "."), pe.LastKey)
	return e
}

// explain says what a message of the TOML library means for the writer of the file.
func explain(msg, key string) (what, cure string) {
	name := key[strings.LastIndexByte(key, '.')+1:]
	has := func(part string) bool { return strings.Contains(msg, part) }
	switch {
	case has("expected value but found"):
		return "is no TOML value", fmt.Sprintf(`put text in quotes: %s = "…"`, name)
	case has("end with a newline"):
		return "more text after the value", `put text in quotes: key = "…"`
	case has("strings cannot contain newlines"):
		return "the string does not end on its line", "close the quotes"
	case has("already"):
		return msg, "remove one of the two"
	case has("expected '.' or '='"):
		return "no = after the key", "write key = value"
	case has("table array name"), has("table name"):
		return "the table's name does not end in its brackets", "a table is written [name], a runner [[runners]]"
	case has("UTF-8"), has("NULL"):
		return msg, "save the file as UTF-8 text"
	case has("out of range"):
		return "the number is too large", "write a smaller one"
	}
	return withoutQuotes(msg), "see https://toml.io for the rules"
}

// withoutQuotes cuts out what the TOML library quotes from the file, which may be a piece of a token.
func withoutQuotes(msg string) string {
	return regexp.MustCompile(`'[^']*'|"[^"]*"`).ReplaceAllStringFunc(msg, func(quoted string) string {
		if len(quoted) > len(`'
'`) {
			return "…"
		}
		return quoted
	})
}
