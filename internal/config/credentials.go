package config

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Credentials are what GitLab gives a runner.
type Credentials struct {
	ID         int64
	Token      Secret
	ObtainedAt time.Time
	ExpiresAt  time.Time // zero = never
}

// SetCredentials gives each [[runners]] with the address and token of r new ones. Every other byte stays.
func SetCredentials(path string, r *Runner, to Credentials) error {
	return rewrite(path, false, func(src []byte) ([]byte, error) { return setCredentials(path, src, r, to, os.Getenv) })
}

func setCredentials(file string, src []byte, r *Runner, to Credentials, getenv func(string) string) ([]byte, error) {
	f, err := find(file, src, r, getenv)
	if err != nil {
		return nil, err
	}
	literals, err := literals(to)
	if err != nil {
		return nil, err
	}
	l := scan(string(src))
	var changes []change
	list := slices.Clone(f.list)
	for _, i := range f.at {
		m := maps.Clone(list[i])
		list[i] = m
		table := element(f.name, i)
		if raw, _ := get(m, "token").(string); strings.Contains(raw, "$") {
			return nil, &Error{
				Position: Position{File: file, Line: l.line(child(table, "token"))}, Key: "runners.token",
				Msg: "comes from a variable of the environment", Hint: "set the new token there",
			}
		}
		for _, lit := range literals {
			changes = append(changes, l.set(table, m, lit))
		}
	}
	want := maps.Clone(f.tree)
	want[f.name] = list
	if _, inline := f.tree[f.name].([]any); inline {
		want[f.name] = anys(list)
	}
	return proven(file, apply(string(src), changes), want)
}

// anys is the list as the TOML library gives runners = [{…}].
func anys(list []map[string]any) []any {
	out := make([]any, len(list))
	for i, m := range list {
		out[i] = m
	}
	return out
}

// literal is a key and its value, as TOML writes it and as it is read back.
type literal struct {
	key, text string
	value     any
}

func literals(c Credentials) ([]literal, error) {
	// TOML's own encoder knows how to quote.
	text, err := toml.Marshal(struct {
		ID         int64     `toml:"id"`
		Token      Secret    `toml:"token"`
		ObtainedAt time.Time `toml:"token_obtained_at"`
		ExpiresAt  time.Time `toml:"token_expires_at"`
	}{c.ID, c.Token, c.ObtainedAt.UTC().Truncate(time.Second), c.ExpiresAt.UTC().Truncate(time.Second)})
	if err != nil {
		return nil, fmt.Errorf("write credentials: %w", err)
	}
	values, err := parseTree("", text)
	if err != nil {
		return nil, err
	}
	var out []literal
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		out = append(out, literal{key, value, values[key]})
	}
	return out, nil
}

// change puts text in the place of a piece of the source.
type change struct {
	from, to int
	text     string
}

// set changes the value of a key where it stands, or adds the key beside the token: id above, dates below.
func (l *layout) set(table string, m map[string]any, lit literal) change {
	key := spelled(m, lit.key)
	_, there := m[key]
	m[key] = lit.value
	if at, ok := l.keys[child(table, key)]; ok && there {
		return change{at.value, at.end, lit.text}
	}
	token := l.keys[child(table, spelled(m, "token"))]
	start, end := l.lineStart(token.key), l.lineEnd(token.end)
	indent := l.src[start:token.key]
	br := lineBreak([]byte(l.src))
	switch {
	case lit.key == "id":
		return change{start, start, indent + lit.key + " = " + lit.text + br}
	case end == len(l.src) && !strings.HasSuffix(l.src, "\n"):
		return change{end, end, br + indent + lit.key + " = " + lit.text}
	}
	return change{end, end, indent + lit.key + " = " + lit.text + br}
}

func apply(src string, changes []change) string {
	slices.SortStableFunc(changes, func(a, b change) int { return a.from - b.from })
	var b strings.Builder
	at := 0
	for _, c := range changes {
		b.WriteString(src[at:c.from])
		b.WriteString(c.text)
		at = c.to
	}
	b.WriteString(src[at:])
	return b.String()
}
