package config

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// TestAllMistakesAtOnce: files with several mistakes of different kinds. Each line says behind #! what must be said of it; all is
// said in one go, with the cure, and nothing of any other line.
func TestAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	eachConfig(t, "testdata/mistakes", func(t *testing.T, file string, src []byte) {
		said := map[int][]string{}
		note := func(pos Position, hint, text string) {
			if hint == "" && !strings.HasSuffix(text, "unknown key, ignored") {
				t.Errorf("no cure: %s", text)
			}
			if strings.Contains(text, "hunter2") || strings.Contains(text, "glrt-") {
				t.Errorf("a secret: %s", text)
			}
			said[pos.Line] = append(said[pos.Line], text)
		}
		_, warnings, perr := Parse(file, src, noEnv)
		for _, e := range Problems(perr) {
			note(e.Position, e.Hint, e.Error())
		}
		for _, w := range warnings {
			if w.Unknown {
				note(w.Position, w.Hint, w.String())
			}
		}
		mistakes := 0
		for i, line := range strings.Split(string(src), "\n") {
			marks := strings.Split(line, "#! ")[1:]
			mistakes += len(marks)
			got := said[i+1]
			if len(got) != len(marks) {
				t.Errorf("line %d: %d mistakes, said are %q", i+1, len(marks), got)
			}
			for _, mark := range marks {
				if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, strings.TrimSpace(mark)) }) {
					t.Errorf("line %d: nothing is said of %q, but %q", i+1, mark, got)
				}
			}
		}
		if len(said[0]) > 0 || mistakes < 3 {
			t.Errorf("%d mistakes; without a line: %q", mistakes, said[0])
		}
	})
}

// TestReadAnew: what is decoded of a file that was put right is what would be decoded of the file itself.
func TestReadAnew(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/foreign/*.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "testdata/full.toml", "testdata/article.toml", "testdata/registered.toml") {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tree, p, err := readTypes(file, src)
		if err != nil || p.err() != nil {
			t.Fatal(err, p.err())
		}
		text, err := toml.Marshal(tree.tree)
		if err != nil {
			t.Fatal(err)
		}
		want, err := decode(file, tree.text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(file, string(text))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", strconv.Quote(file), diff)
		}
	}
}
