package config

import (
	"fmt"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// treePaths lists every path of a parsed file, written as scan writes them.
func treePaths(path string, v any, into map[string]bool) {
	if path != "" {
		into[path] = true
	}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			treePaths(child(path, k), e, into)
		}
	case []map[string]any:
		for i, e := range v {
			treePaths(element(path, i), e, into)
		}
	case []any:
		for i, e := range v {
			treePaths(element(path, i), e, into)
		}
	}
}

// checkScan compares scan with the TOML library: the same keys, and each value's text reads as that value.
func checkScan(t interface{ Fatalf(string, ...any) }, src string) {
	var tree map[string]any
	if toml.Unmarshal([]byte(src), &tree) != nil {
		scan(src) // must only come back
		return
	}
	want, got := map[string]bool{}, map[string]bool{}
	treePaths("", tree, want)
	l := scan(src)
	for path, at := range l.keys {
		got[path] = true
		if at.key < 0 || at.key > at.value || at.value > at.end || at.end > len(src) {
			t.Fatalf("%q: %s has the span %v", src, path, at)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%q: paths of the library (-) and of scan (+):\n%s", src, diff)
	}
	for path, v := range flat("", tree, map[string]any{}) {
		at := l.keys[path]
		text := src[at.value:at.end]
		var one map[string]any
		if err := toml.Unmarshal([]byte("x = "+text), &one); err != nil {
			t.Fatalf("%q: value of %s is %q: %v", src, path, text, err)
		}
		if fmt.Sprint(one["x"]) != fmt.Sprint(v) {
			t.Fatalf("%q: value of %s is %q, read as %v, not %v", src, path, text, one["x"], v)
		}
	}
}

// flat gives the values that are no tables, by path.
func flat(path string, v any, into map[string]any) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			flat(child(path, k), e, into)
		}
	case []map[string]any:
		for i, e := range v {
			flat(element(path, i), e, into)
		}
	default:
		into[path] = v
	}
	return into
}

var texts = []string{
	"",
	"a = 1",
	"# only a comment",
	"a = 1 # one\r\nb = \"x # y\" # two\r\n",
	"\xef\xbb\xbfa = 1\n",
	"a.b.c = 1\na.b.d = 2\n[a.e]\nf = 3\n",
	"[a.b]\nc = 1\n[a]\nd = 2\n",
	"[[r]]\nx = 1\n[r.d]\ny = 2\n[[r.d.s]]\nz = 3\n[[r.d.s]]\n[[r]]\n[r.d]\ny = 4\n",
	`"a.b" = 1` + "\n" + `'c"d'.e = 2` + "\n" + `["x y"."\u0041"]` + "\nz = 3\n",
	"a = [1, 2, # two\n [\"]\", ']'], {b = 1, c.d = [3]},\n]\nb = []\nc = {}\n",
	"a = \"\"\"\n[[no]]\n# no\\\"\"\"\n\"\"\"\"\"\nb = '''\nx = 1''''\nc = '''it''s'''\n",
	"a = 1979-05-27 07:32:00 # date\nb = +1_000\nc = 0.5e-3\nd=true\ne = 07:32:00",
	"r = [{a = 1}, {a = 2, b = {c = 3}}]\n",
	"  [ a . b ]  # table\n  c  .  d  =  1\n",
	"[[runners]]\n\tname = \"a\\\\\" # \\\n\ttoken = 'b\\'\n",
	"a = [\n  \"x\", # one\n\n  # two\n  'y'\n]\n",
}

func TestScanAgreesWithTheLibrary(t *testing.T) {
	t.Parallel()
	for _, src := range texts {
		if err := toml.Unmarshal([]byte(src), &map[string]any{}); err != nil {
			t.Errorf("%q is not TOML: %v", src, err)
		}
		checkScan(t, src)
	}
}

func FuzzScan(f *testing.F) {
	for _, src := range texts {
		f.Add(src)
	}
	f.Add("[[r]\nx = \"\n'''\n{[,=}")
	f.Fuzz(func(t *testing.T, src string) {
		checkScan(t, src)
	})
}

func TestLines(t *testing.T) {
	t.Parallel()
	l := scan("a = 1\n\n[[runners]]\n  name = \"x\"\n  [runners.docker]\n    image = [\n      \"y\",\n    ]\n[[runners]]\n")
	got := map[string]int{}
	for _, path := range []string{
		"a", "runners[0]", "runners[0].name", "runners[0].url", "runners[0].docker.image", "runners[0].docker.image[0]",
		"runners[0].docker.memory", "runners[1]", "runners[1].docker.image", "nothing",
	} {
		got[path] = l.line(path)
	}
	want := map[string]int{
		"a": 1, "runners[0]": 3, "runners[0].name": 4, "runners[0].url": 3, "runners[0].docker.image": 6,
		"runners[0].docker.image[0]": 7, "runners[0].docker.memory": 5, "runners[1]": 9, "runners[1].docker.image": 9,
		"nothing": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestKeyOf(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"":                                  "",
		"concurrent":                        "concurrent",
		"runners[12].docker.image":          "runners.docker.image",
		"runners[0].docker.services[3]":     "runners.docker.services",
		`runners[0].docker.sysctls."a[0]b"`: `runners.docker.sysctls."a[0]b"`,
	} {
		if got := keyOf(path); got != want {
			t.Errorf("keyOf(%q) = %q, want %q", path, got, want)
		}
	}
}
