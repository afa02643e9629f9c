package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// text prints a value in one line, keys in order.
func (v *value) String() string {
	var parts []string
	switch v.kind {
	case kindNull:
		return "nil"
	case kindString:
		return fmt.Sprintf("%q", v.text)
	case kindSymbol:
		return ":" + v.text
	case kindList:
		for _, i := range v.items {
			parts = append(parts, i.String())
		}
		return "[" + strings.Join(parts, " ") + "]"
	case kindMap:
		for _, e := range v.entries {
			parts = append(parts, e.key+"="+e.value.String())
		}
		return "{" + strings.Join(parts, " ") + "}"
	}
	return v.text
}

// The right-hand sides follow the rules that facts about Psych give: document order, the last write wins.
func TestMerge(t *testing.T) {
	t.Parallel()
	const anchors = "a: &a { x: 1, y: 1 }\nb: &b { x: 2, z: 2 }\n"
	tests := []struct{ name, text, want string }{
		{"key after merge", "m: { <<: *a, x: 9 }", "{x=9 y=1}"},
		{"merge after key", "m: { x: 9, <<: *a }", "{x=1 y=1}"},
		{"two merges", "m: { <<: *a, <<: *b }", "{x=2 y=1 z=2}"},
		{"list: the first wins", "m: { <<: [*a, *b] }", "{x=1 z=2 y=1}"},
		{"inline mapping", "m: { <<: { q: 1 } }", "{q=1}"},
		{"list with a string is no merge", "m: { <<: [*a, s] }", `{<<=[{x=1 y=1} "s"]}`},
		{"merge of a list's alias is no merge", "l: &l [*a]\nm: { <<: *l }", "{<<=[{x=1 y=1}]}"},
		{"duplicate key", "m: { x: 1, x: 2 }", "{x=2}"},
		{"merge of a merge", "c: &c { <<: *a, w: 1 }\nm: { <<: *c }", "{x=1 y=1 w=1}"},
		{"anchor defined again", "c: &a { n: 1 }\nm: *a", "{n=1}"},
		{"alias in a list", "s: &s [ one ]\nm: [ *s, two ]", `[["one"] "two"]`},
		{"scalar alias", "s: &s text\nm: *s", `"text"`},
		{"keys that are no strings", "m: { 1: a, yes: b, ~: c }", `{1="a" true="b" ="c"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &reader{file: "f"}
			root := r.parse([]byte(anchors + tt.text + "\n"))
			if err := r.err(); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, root.get("m").String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestScalars(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		kind kind
		want string
	}{
		{"yes", kindBool, "true"},
		{"On", kindBool, "true"},
		{"TRUE", kindBool, "true"},
		{"off", kindBool, "false"},
		{"No", kindBool, "false"},
		{"y", kindString, "y"},
		{"n", kindString, "n"},
		{"yesterday", kindString, "yesterday"},
		{"~", kindNull, ""},
		{"null", kindNull, ""},
		{"NULL", kindNull, ""},
		{"", kindNull, ""},
		{"'yes'", kindString, "yes"},
		{`"~"`, kindString, "~"},
		{"!!str yes", kindString, "yes"},
		{"|\n    yes", kindString, "yes\n"},
		{"7", kindNumber, "7"},
		{"+7", kindNumber, "7"},
		{"-7", kindNumber, "-7"},
		{"010", kindNumber, "8"},
		{"08", kindString, "08"},
		{"0x1F", kindNumber, "31"},
		{"0b11", kindNumber, "3"},
		{"0o17", kindString, "0o17"},
		{"1_000", kindNumber, "1000"},
		{"1,000", kindNumber, "1000"},
		{"123456789012345678901234567890", kindNumber, "123456789012345678901234567890"},
		{"20.10", kindNumber, "20.1"},
		{"3.0", kindNumber, "3.0"},
		{".5", kindNumber, "0.5"},
		{"1.", kindNumber, "1.0"},
		{"1e3", kindString, "1e3"},
		{"1.5e+3", kindNumber, "1500.0"},
		{"1.0e+16", kindNumber, "1.0e+16"},
		{"0.00001", kindNumber, "1.0e-05"},
		{"1.0e+999", kindNumber, "Infinity"},
		{"-1.0e+999", kindNumber, "-Infinity"},
		{".", kindString, "."},
		{"1.2.3", kindString, "1.2.3"},
		{"20.10.7", kindString, "20.10.7"},
		{".inf", kindNumber, "Infinity"},
		{"-.INF", kindNumber, "-Infinity"},
		{".nan", kindNumber, "NaN"},
		{"22:22", kindNumber, "80520"},
		{"1:30:15", kindNumber, "5415"},
		{"1:30.5", kindNumber, "5430.0"},
		{"127.0.0.1:80", kindString, "127.0.0.1:80"},
		{":latest", kindSymbol, "latest"},
		{"2020-1", kindString, "2020-1"},
		{"2020-13-01", kindString, "2020-13-01"},
		{"'2020-01-02'", kindString, "2020-01-02"},
	}
	for _, tt := range tests {
		r := &reader{file: "f"}
		v := r.parse([]byte("- " + tt.text + "\n"))
		if err := r.err(); err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got := v.items[0]; got.kind != tt.kind || got.text != tt.want {
			t.Errorf("%s is %v %q, want %v %q", tt.text, got.kind, got.text, tt.kind, tt.want)
		}
	}
}

// bomb is n lists, each of nine aliases of the one before.
func bomb(n int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 [ echo ]\n")
	for i := 1; i <= n; i++ {
		alias := fmt.Sprintf("*a%d, ", i-1)
		fmt.Fprintf(&b, "a%d: &a%d [ %s ]\n", i, i, strings.Repeat(alias, 8)+strings.TrimSuffix(alias, ", "))
	}
	return b.String()
}

func TestBombs(t *testing.T) {
	t.Parallel()
	var merges strings.Builder
	merges.WriteString("a: &a {")
	for i := range 10_000 {
		fmt.Fprintf(&merges, " k%d: v,", i)
	}
	merges.WriteString(" }\nb:\n" + strings.Repeat("  <<: *a\n", 10_000))
	tests := []struct{ name, text, want string }{
		{"lists of aliases", bomb(9), "the file is too big once its aliases are resolved"},
		{"merges", merges.String(), "the file is too big once its aliases are resolved"},
		{"size", "a: " + strings.Repeat("x", maxBytes), "the file has 2097155 bytes, more than 2097152"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("f", []byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		article, bomb(3), "a: &a { <<: *a }", "? {a: b}\n: c", "j: { script: [[x]], timeout: 1h, variables: {A: {value: 1:30}} }",
		"default: { image: {name: x, docker: {user: 1}}, services: [a, {name: b}] }\nj: {script: x}", "%TAG ! x\n---\n!!binary aGk=", "\ufeffa: b",
		"a: !!null x\nb: !!map [x]\n", "- &a a\n- *a\n---\n- x", "spec: x\n---\na: b", "a: 2020-01-01 00:00:00", ":a: :b", "1: {script: yes}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("f.yml", data)
		if (p == nil) == (err == nil) {
			t.Fatalf("pipeline %v and error %v", p, err)
		}
		if err != nil {
			return
		}
		for _, j := range p.Jobs {
			if len(j.Script) == 0 || j.Stage == "" || j.When == "" || strings.HasPrefix(j.Name, ".") {
				t.Fatalf("incomplete job %+v", j)
			}
		}
	})
}
