package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// head begins a file that is written anew.
//
// GitLab: what its runner writes there; zeros mean the defaults.
const head = `concurrent = 1
check_interval = 0
connection_max_age = "15m0s"
shutdown_timeout = 0

[session_server]
  session_timeout = 1800
`

// AddRunner appends a [[runners]] with the set fields of r, in GitLab's order and layout, to the file, which is made
// if need be. Every byte that was there stays.
func AddRunner(path string, r *Runner) error {
	return rewrite(path, true, func(src []byte) ([]byte, error) { return addRunner(path, src, r) })
}

func addRunner(file string, src []byte, r *Runner) ([]byte, error) {
	tree, err := parseTree(file, src)
	if err != nil {
		return nil, err
	}
	if len(src) == 0 {
		src = []byte(head)
		if tree, err = parseTree(file, src); err != nil {
			return nil, err
		}
	}
	c := *r
	c.TokenObtainedAt = c.TokenObtainedAt.UTC().Truncate(time.Second)
	c.TokenExpiresAt = c.TokenExpiresAt.UTC().Truncate(time.Second)
	block, err := toml.Marshal(struct {
		Runners []*Runner `toml:"runners"`
	}{[]*Runner{&c}})
	if err != nil {
		return nil, fmt.Errorf("write [[runners]]: %w", err)
	}
	added, err := parseTree(file, block)
	if err != nil {
		return nil, err
	}
	want := maps.Clone(tree)
	before, _ := tables(tree["runners"])
	after, _ := tables(added["runners"])
	want["runners"] = slices.Concat(before, after)

	text := "\n" + string(block)
	if n := len(src); n > 0 && src[n-1] != '\n' {
		text = "\n" + text
	}
	if lineBreak(src) == "\r\n" {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	return proven(file, string(src)+text, want)
}

// lineBreak is what ends the lines of a text, judged by the first.
func lineBreak(src []byte) string {
	if first, _, ok := strings.Cut(string(src), "\n"); ok && strings.HasSuffix(first, "\r") {
		return "\r\n"
	}
	return "\n"
}

// proven reads the new text back: a rewrite that does not come out as meant must not replace anything.
func proven(file, text string, want map[string]any) ([]byte, error) {
	got, err := parseTree(file, []byte(text))
	if err != nil || !reflect.DeepEqual(got, want) {
		return nil, &Error{
			Position: Position{File: file}, Err: err, Hint: "edit the file by hand",
			Msg: "is laid out in a way that cannot be changed by itself",
		}
	}
	return []byte(text), nil
}

// same reports whether a table is that of r, variables of the environment expanded.
func same(m map[string]any, r *Runner, getenv func(string) string) bool {
	url, _ := get(m, "url").(string)
	token, _ := get(m, "token").(string)
	return os.Expand(url, getenv) == r.URL && os.Expand(token, getenv) == r.Token.Reveal() && r.Token != ""
}

// found is a parsed file and where in it a runner is.
type found struct {
	tree map[string]any
	name string           // runners, as the file spells it
	list []map[string]any // what is there
	at   []int            // the indexes of those that are meant
}

func find(file string, src []byte, r *Runner, getenv func(string) string) (f found, err error) {
	if f.tree, err = parseTree(file, src); err != nil {
		return found{}, err
	}
	f.name = spelled(f.tree, "runners")
	f.list, _ = tables(f.tree[f.name])
	for i, m := range f.list {
		if same(m, r, getenv) {
			f.at = append(f.at, i)
		}
	}
	if len(f.at) == 0 {
		return found{}, &Error{
			Position: Position{File: file}, Key: "runners", Err: ErrNoRunner,
			Msg: fmt.Sprintf("has no runner %q with this address and token", r.Name), Hint: "slipway list shows those it has",
		}
	}
	return f, nil
}

// ErrNoRunner is the cause when the file does not have the runner that is to be changed.
var ErrNoRunner = errors.New("no such runner")
