package pipeline

import (
	"maps"
	"slices"
	"strings"
)

// keywords maps each keyword of one place in the file to whether this package reads it.
type keywords map[string]bool

var (
	rootKeywords = keywords{
		"after_script": true, "before_script": true, "default": true, "image": true, "services": true, "stages": true,
		"variables": true,
		"cache":     false, "include": false, "spec": false, "workflow": false,
	}
	defaultKeywords = keywords{
		"after_script": true, "before_script": true, "image": true, "services": true, "tags": true, "timeout": true,
		"artifacts": false, "cache": false, "hooks": false, "id_tokens": false, "identity": false,
		"interruptible": false, "retry": false,
	}
	jobKeywords = keywords{
		"after_script": true, "allow_failure": true, "before_script": true, "image": true, "script": true,
		"services": true, "stage": true, "tags": true, "timeout": true, "variables": true, "when": true,
		"artifacts": false, "cache": false, "coverage": false, "dast_configuration": false, "dependencies": false,
		"environment": false, "except": false, "extends": false, "hooks": false, "id_tokens": false, "identity": false,
		"inherit": false, "inputs": false, "interruptible": false, "manual_confirmation": false, "needs": false,
		"only": false, "pages": false, "parallel": false, "publish": false, "release": false, "resource_group": false,
		"retry": false, "rules": false, "run": false, "secrets": false, "start_in": false, "trigger": false,
	}
	imageKeywords = keywords{
		"docker": true, "entrypoint": true, "name": true, "pull_policy": true,
		"kubernetes": false, "ports": false,
	}
	serviceKeywords = keywords{
		"alias": true, "command": true, "docker": true, "entrypoint": true, "name": true, "pull_policy": true,
		"variables":  true,
		"kubernetes": false, "ports": false,
	}
	dockerKeywords         = keywords{"platform": true, "user": true}
	globalVariableKeywords = keywords{"description": true, "expand": true, "value": true, "options": false}
	variableKeywords       = keywords{"expand": true, "value": true}
)

// check complains about the keys of a mapping that are not read. where leads the message ("job build: "), may be empty.
func (r *reader) check(v *value, known keywords, where string) {
	for _, e := range v.entries {
		read, ok := known[e.key]
		switch {
		case !ok:
			r.errorf(e.at, known.hint(e.key), "%sunknown keyword %q", where, e.key)
		case !read && e.value.kind != kindNull:
			r.errorf(e.at, "", "%s%s is not supported yet", where, e.key)
		}
	}
}

// hint names the keyword that was probably meant.
func (k keywords) hint(key string) string {
	best, distance := "", min(3, len(key)/2+1)
	for _, known := range slices.Sorted(maps.Keys(k)) {
		if d := editDistance(key, known, distance); d < distance {
			best, distance = known, d
		}
	}
	if best == "" {
		return ""
	}
	return `did you mean "` + best + `"?`
}

// editDistance counts the insertions, deletions, substitutions and swaps of neighbours that turn a into b. Words whose
// lengths already differ by limit or more are as far apart as limit.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	a, b = strings.ToLower(a), strings.ToLower(b)
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
