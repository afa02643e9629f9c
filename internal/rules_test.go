package internal_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Where the code of the guard names a rule: deny("rule", …), a Dockerfile's problem(line, "rule", …), the rule that a
// refused part of the API gets, and the rows of what no build may ask for.
var ruleForms = []*regexp.Regexp{
	regexp.MustCompile(`\bdeny\("([a-z-]+)"`),
	regexp.MustCompile(`\bproblem\([a-z]+, "([a-z-]+)"`),
	regexp.MustCompile(`\.Rule(?:, d\.Cure)? = "([a-z-]+)"`),
	regexp.MustCompile(`\{"[a-z]+", "(build-[a-z]+)", "`),
}

// TestRulesAreExplained holds docs/guard.md against the code, both ways: each rule has its row, with its reason and its
// cure, and each row a rule.
func TestRulesAreExplained(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/guard.md")
	if err != nil {
		t.Fatal(err)
	}
	table, found := strings.CutPrefix(string(text[strings.Index(string(text), "\n| rule |"):]), "\n")
	if !found {
		t.Fatal("docs/guard.md has no table of rules")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	explained := map[string]bool{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 3 || strings.TrimSpace(cells[1]) == "" || strings.TrimSpace(cells[2]) == "" {
			if !strings.HasPrefix(line, "|---") {
				t.Errorf("the row has no reason or no cure: %s", line)
			}
			continue
		}
		for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(cells[0], -1) {
			explained[m[1]] = true
		}
	}
	used := map[string]string{}
	for _, dir := range []string{"guard", "dockerfile", "tarball"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, form := range ruleForms {
				for _, m := range form.FindAllStringSubmatch(string(source), -1) {
					used[m[1]] = file
				}
			}
		}
	}
	if len(used) < 50 {
		t.Errorf("only %d rules are found in the code", len(used))
	}
	for rule, file := range used {
		if !explained[rule] {
			t.Errorf("[%s] of %s has no row in docs/guard.md", rule, file)
		}
	}
	for rule := range explained {
		if used[rule] == "" {
			t.Errorf("docs/guard.md explains [%s], which is no rule", rule)
		}
	}
}
