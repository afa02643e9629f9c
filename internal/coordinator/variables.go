package coordinator

import (
	"regexp"

	"github.com/slipway-ci/slipway/internal/job"
)

// reference is a variable inside a value: $NAME, ${NAME}, %NAME%; $$ and %% stand for the sign itself.
var reference = regexp.MustCompile(`\$\$|%%|\$([a-zA-Z_]\w*)|\$\{([a-zA-Z_]\w*)\}|%([a-zA-Z_]\w*)%`)

// names returns the variables that a value refers to.
func names(value string) []string {
	var out []string
	for _, m := range reference.FindAllStringSubmatch(value, -1) {
		if name := m[1] + m[2] + m[3]; name != "" {
			out = append(out, name)
		}
	}
	return out
}

// expandAll replaces references by values, in the values of the values too, and moves each variable behind those that it
// refers to. Each key must be there once.
//
// GitLab: the server does this before it sends a payload, so that the runner's one pass is enough. It leaves to the
// runner: unknown names, file and raw variables, $$ and %%. If variables go round in a circle it expands none.
func expandAll(vs job.Variables) job.Variables {
	byKey := make(map[string]job.Variable, len(vs))
	for _, v := range vs {
		byKey[v.Key] = v
	}
	const (
		open = 1
		done = 2
	)
	state := make(map[string]int, len(vs))
	expanded := make(map[string]string, len(vs))
	out := make(job.Variables, 0, len(vs))
	var visit func(job.Variable) bool
	visit = func(v job.Variable) bool {
		switch state[v.Key] {
		case open:
			return false
		case done:
			return true
		}
		state[v.Key] = open
		if !v.Raw {
			for _, name := range names(v.Value) {
				if dependency, ok := byKey[name]; ok && !visit(dependency) {
					return false
				}
			}
			v.Value = reference.ReplaceAllStringFunc(v.Value, func(match string) string {
				m := reference.FindStringSubmatch(match)
				used, ok := byKey[m[1]+m[2]+m[3]]
				if !ok || used.File || used.Raw {
					return match
				}
				return expanded[used.Key]
			})
		}
		state[v.Key] = done
		expanded[v.Key] = v.Value
		out = append(out, v)
		return true
	}
	for _, v := range vs {
		if !visit(v) {
			return vs
		}
	}
	return out
}
