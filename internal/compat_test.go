package internal_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/config"
)

// row is a line of a table in COMPAT.md.
type row struct {
	line            int
	section         string // the heading above it
	what, state, by string
}

// The states that COMPAT.md may give a row.
var states = regexp.MustCompile(`^(works|partly|not yet|never|no effect)$`)

// ownTest names a test with its package, and maybe the script that the test runs: cli.TestScripts/register.
var ownTest = regexp.MustCompile(`([a-z0-9]+)\.(Test[A-Z]\w*)(?:/([a-z-]+))?`)

// TestCompatRows: each row says one of the agreed states, and what works names its test or admits that there is none.
func TestCompatRows(t *testing.T) {
	t.Parallel()
	rows, _ := readCompat(t)
	for _, r := range rows {
		if !states.MatchString(r.state) {
			t.Errorf("line %d: %q is no state", r.line, r.state)
		}
		shown := ownTest.MatchString(r.by) || strings.Contains(r.by, "no test of its own")
		if (r.state == "works" || r.state == "partly") && !shown {
			t.Errorf("line %d: names no test and does not say so", r.line)
		}
	}
}

// TestCompatNamesTests: every test that COMPAT.md names is there, in the package that it names.
func TestCompatNamesTests(t *testing.T) {
	t.Parallel()
	_, text := readCompat(t)
	bare := ownTest.ReplaceAllString(text, "")
	for _, name := range regexp.MustCompile(`\bTest[A-Z]\w*`).FindAllString(bare, -1) {
		t.Errorf("%s stands without its package", name)
	}
	sources := map[string]string{}
	for _, m := range ownTest.FindAllStringSubmatch(text, -1) {
		name, pkg, test, script := m[0], m[1], m[2], m[3]
		if _, ok := sources[pkg]; !ok {
			sources[pkg] = testSource(t, pkg)
		}
		if !strings.Contains(sources[pkg], "\nfunc "+test+"(t *testing.T) {") {
			t.Errorf("there is no %s", name)
		}
		if script == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(pkg, "testdata", script+".txtar")); err != nil {
			t.Errorf("there is no %s: %v", name, err)
		}
	}
}

func testSource(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}

// TestCompatNamesKeys holds the tables of config.toml against the code, both ways: no key without a row, no row for a
// key that nobody knows, and the state of a key without effect is the one that the program warns with.
func TestCompatNamesKeys(t *testing.T) {
	t.Parallel()
	rows, _ := readCompat(t)
	have := map[string]row{}
	for _, r := range rows {
		prefix, ok := keyPrefix(r.section)
		if !ok {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(r.what, -1) {
			key := prefix + m[1]
			if other, twice := have[key]; twice {
				t.Errorf("%s stands in line %d and in line %d", key, other.line, r.line)
			}
			have[key] = r
		}
	}
	known := config.Implemented()
	for _, s := range config.Unimplemented() {
		known = append(known, s.Key)
		if r, ok := have[s.Key]; ok && !strings.HasPrefix(r.state, stateOf(s)) {
			t.Errorf("line %d: %s is %q, but the program says %q", r.line, s.Key, r.state, stateOf(s))
		}
	}
	for _, key := range known {
		if _, ok := have[key]; !ok {
			t.Errorf("%s has no row", key)
		}
	}
	for key, r := range have {
		if !slices.Contains(known, key) && !strings.HasPrefix(key, "runners.feature_flags.") {
			t.Errorf("line %d: %s is no key", r.line, key)
		}
	}
}

// stateOf is what a key without effect is in COMPAT.md.
func stateOf(s config.Setting) string {
	switch s.Status {
	case config.Later:
		return "not yet"
	case config.Never:
		return "never"
	case config.Moot:
		return "no effect"
	}
	return "" // of no meaning by itself: whatever the key that it belongs to is
}

// keyPrefix is what the keys below a heading begin with.
func keyPrefix(heading string) (string, bool) {
	if heading == "Global" {
		return "", true
	}
	table, ok := strings.CutPrefix(heading, "`[")
	return strings.Trim(table, "[]`") + ".", ok
}

// readCompat reads the tables of COMPAT.md.
func readCompat(t *testing.T) (rows []row, text string) {
	t.Helper()
	b, err := os.ReadFile("../COMPAT.md")
	if err != nil {
		t.Fatal(err)
	}
	section := ""
	for i, l := range strings.Split(string(b), "\n") {
		if heading, ok := strings.CutPrefix(l, "#"); ok {
			section = strings.TrimLeft(heading, "# ")
		}
		cells := strings.Split(strings.Trim(l, "|"), " | ")
		if !strings.HasPrefix(l, "| ") || strings.HasPrefix(l, "| feature |") {
			continue
		}
		if len(cells) != 3 {
			cells = []string{"", fmt.Sprintf("a row of %d columns", len(cells)), ""}
		}
		rows = append(rows, row{
			line: i + 1, section: section,
			what: strings.TrimSpace(cells[0]), state: strings.TrimSpace(cells[1]), by: strings.TrimSpace(cells[2]),
		})
	}
	if len(rows) == 0 {
		t.Fatal("COMPAT.md has no tables")
	}
	return rows, string(b)
}
