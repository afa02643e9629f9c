package source

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// Strategy is GIT_STRATEGY: what happens to the work tree that the last job left.
type Strategy string

// The strategies.
const (
	Fetch Strategy = "fetch" // keep it and bring it to the job's commit
	Clone Strategy = "clone" // start from an empty folder
	None  Strategy = "none"  // leave it as it is, no Git
	Empty Strategy = "empty" // an empty folder of its own, no Git
)

// ParseStrategy reads GIT_STRATEGY. For what is none of the strategies it returns the default and false.
//
// GitLab: the default is fetch where the project allows it, else clone.
func ParseStrategy(value string, allowFetch bool) (Strategy, bool) {
	s := Strategy(value)
	if slices.Contains([]Strategy{Fetch, Clone, None, Empty}, s) {
		return s, true
	}
	if allowFetch {
		return Fetch, value == ""
	}
	return Clone, value == ""
}

// Words splits a list of flags as a shell splits simple words: at blanks, with quotes and backslashes. Nothing is
// expanded. An empty value gives nil.
func Words(s string) []string {
	var words []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, c := range s {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, inWord = true, true
		case c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case quote == 0 && strings.ContainsRune(" \t\r\n", c):
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// cleanFlags is GIT_CLEAN_FLAGS, understood.
type cleanFlags struct {
	skip bool     // "none"
	all  bool     // what is not in the commit goes, no exceptions: the host needs no Git for that
	args []string // of git clean
}

// parseCleanFlags lets through what git clean takes, and nothing that it could take for something else.
//
// GitLab: without a value -ffdx; "none" switches cleaning off.
func parseCleanFlags(words []string) (cleanFlags, error) {
	switch {
	case len(words) == 0:
		return cleanFlags{all: true}, nil
	case len(words) == 1 && words[0] == "none":
		return cleanFlags{skip: true}, nil
	}
	seen := map[rune]bool{}
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--force", w == "--quiet", w == "--dry-run":
			seen[rune(w[2])] = true
		case strings.HasPrefix(w, "--exclude="):
			seen['e'] = true
		case w == "--exclude" && i+1 < len(words):
			seen['e'] = true
			i++
		case len(w) > 1 && w[0] == '-' && w[1] != '-':
			flags, pattern, excludes := strings.Cut(w[1:], "e")
			if strings.Trim(flags, "fdxXqn") != "" || excludes && pattern == "" && i+1 == len(words) {
				return cleanFlags{}, badCleanFlag(w)
			}
			for _, f := range flags {
				seen[f] = true
			}
			if excludes {
				seen['e'] = true
				if pattern == "" {
					i++
				}
			}
		default:
			return cleanFlags{}, badCleanFlag(w)
		}
	}
	everything := seen['f'] && seen['d'] && seen['x'] && !seen['e'] && !seen['X'] && !seen['n'] && !seen['q']
	return cleanFlags{all: everything, args: words}, nil
}

func badCleanFlag(w string) error {
	return &job.Error{
		Reason: job.ScriptFailure, ExitCode: 1, Err: fmt.Errorf("GIT_CLEAN_FLAGS: %q: %w", w, ErrFlags),
		Hint: "GIT_CLEAN_FLAGS takes -f, -d, -x, -X, -q, -n and -e <pattern>, as in -ffdx -e node_modules/, or none",
	}
}

// fetchFlags is GIT_FETCH_EXTRA_FLAGS, understood.
type fetchFlags struct {
	args    []string
	allTags bool     // the server must be asked each time
	noTags  bool     // no tags but the job's own
	ignored []string // what has no meaning here
}

// parseFetchFlags keeps the flags that make sense for a mirror that many jobs share. Others, those too that make Git
// run a program, are left out and reported.
//
// GitLab: without a value --prune --quiet; "none" means no flags.
func parseFetchFlags(words []string) fetchFlags {
	if len(words) == 0 {
		words = []string{"--prune"}
	}
	var f fetchFlags
	for _, w := range words {
		switch w {
		case "none", "-q", "--quiet", "-v", "--verbose", "--progress", "--no-progress", "-f", "--force":
			// What a fetch prints names the mirror's refs, which mean nothing to the job; it is forced anyway.
		case "-p", "--prune", "--no-prune", "-P", "--prune-tags", "-4", "--ipv4", "-6", "--ipv6", "--atomic":
			f.args = append(f.args, w)
		case "-t", "--tags":
			f.args, f.allTags = append(f.args, "--tags"), true
		case "-n", "--no-tags":
			f.args, f.noTags = append(f.args, "--no-tags"), true
		default:
			f.ignored = append(f.ignored, w)
		}
	}
	return f
}
