package source

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// Submodules says which submodules a job gets, and how.
type Submodules struct {
	Strategy   string   // GIT_SUBMODULE_STRATEGY: normal or recursive; "" and none = no submodules
	Paths      []string // Words of GIT_SUBMODULE_PATHS; empty = all
	Flags      []string // Words of GIT_SUBMODULE_UPDATE_FLAGS
	Depth      int      // GIT_SUBMODULE_DEPTH; 0 = the whole history
	ForceHTTPS bool     // GIT_SUBMODULE_FORCE_HTTPS
	SSH        []string // how URLs of the GitLab server begin over SSH: git@host: and ssh://git@host/
}

func (s Submodules) on() bool { return s.Strategy != "" && s.Strategy != "none" }

// modulePlan is Submodules, understood.
type modulePlan struct {
	recursive bool
	remote    bool // the branch's tip, not the commit that the project names
	depth     int
	paths     pathspecs
	ignored   []string // flags that have no meaning here
}

func (s Submodules) plan() (modulePlan, error) {
	p := modulePlan{recursive: s.Strategy == "recursive", depth: max(0, s.Depth)}
	if s.Strategy != "normal" && s.Strategy != "recursive" {
		return p, scriptError("GIT_SUBMODULE_STRATEGY takes none, normal or recursive", "GIT_SUBMODULE_STRATEGY is %q", s.Strategy)
	}
	for i := 0; i < len(s.Flags); i++ {
		name, value, joined := strings.Cut(s.Flags[i], "=")
		if !joined && (name == "--depth" || name == "--jobs" || name == "-j") && i+1 < len(s.Flags) {
			i++
			value = s.Flags[i]
		}
		switch name {
		case "--remote":
			p.remote = true
		case "--recursive":
			p.recursive = true
		case "--depth":
			n, err := strconv.Atoi(value)
			if err != nil || n <= 0 {
				return p, scriptError("give --depth a number above 0", "GIT_SUBMODULE_UPDATE_FLAGS: --depth %q", value)
			}
			p.depth = n
		case "--init", "-j", "--jobs", "-f", "--force", "-q", "--quiet", "--progress", "--checkout", "--single-branch", "--no-single-branch",
			"--recommend-shallow", "--no-recommend-shallow":
			// How it is done here anyway, or nothing that the job could see.
		default:
			p.ignored = append(p.ignored, s.Flags[i])
		}
	}
	if p.depth >= deepest {
		p.depth = 0
	}
	var err error
	p.paths, err = parsePathspecs(s.Paths)
	return p, err
}

// pathspecs pick submodules by their path, as Git's do.
type pathspecs struct {
	all           bool // nothing but exclusions
	words         []string
	picks, leaves []*regexp.Regexp
}

// parsePathspecs reads names, patterns and exclusions: ":(exclude)path", ":!path" and ":^path".
func parsePathspecs(words []string) (pathspecs, error) {
	var p pathspecs
	for _, w := range words {
		spec, leave := w, false
		for _, magic := range []string{":(exclude)", ":!", ":^"} {
			if rest, ok := strings.CutPrefix(w, magic); ok {
				spec, leave = rest, true
				break
			}
		}
		spec = strings.TrimPrefix(strings.TrimSuffix(spec, "/"), "./")
		if spec == "" || strings.HasPrefix(spec, ":") {
			return p, scriptError("it takes paths, patterns like libs/*, and :(exclude)path", "GIT_SUBMODULE_PATHS: %q is not understood", w)
		}
		re := globPattern(spec)
		if leave {
			p.leaves = append(p.leaves, re)
			continue
		}
		p.words, p.picks = append(p.words, w), append(p.picks, re)
	}
	p.all = len(p.picks) == 0
	return p, nil
}

// globPattern: as in Git's pathspecs, * and ? stand for slashes too, and a folder's name for all that is below it.
func globPattern(spec string) *regexp.Regexp {
	var b strings.Builder
	for _, c := range spec {
		switch c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	return regexp.MustCompile(`(?s)^` + b.String() + `(/.*)?$`)
}

// pick returns the paths that are wanted.
//
// Git: a pathspec that matches nothing is an error.
func (p pathspecs) pick(paths []string) (map[string]bool, error) {
	picked := map[string]bool{}
	for i, re := range p.picks {
		found := false
		for _, path := range paths {
			if re.MatchString(path) {
				picked[path], found = true, true
			}
		}
		if !found {
			return nil, scriptError("the commit has these submodules: "+strings.Join(paths, " "), "GIT_SUBMODULE_PATHS: %q is no submodule", p.words[i])
		}
	}
	for _, path := range paths {
		if p.all {
			picked[path] = true
		}
		for _, re := range p.leaves {
			if re.MatchString(path) {
				delete(picked, path)
			}
		}
	}
	return picked, nil
}

// scriptError is the fault of the job's author.
func scriptError(hint, format string, args ...any) error {
	return &job.Error{Reason: job.ScriptFailure, ExitCode: 1, Err: fmt.Errorf(format, args...), Hint: hint}
}
