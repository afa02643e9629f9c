package layercache

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report is what there is to say of a build.
type Report struct {
	Cached, Total int           // steps that make or take files
	SavedTime     time.Duration // what the cached ones took when they were last done here
	SavedBytes    int64         // what their layers have
	Since         time.Duration // since the build that it was compared with; 0 = there is none
	Misses        []Miss        // steps that were not cached although all before them were
}

// Miss is a step that was not cached.
type Miss struct {
	Line int
	Text string
	Why  string
}

// maxMisses bounds what is told of one build.
const maxMisses = 3

// Compare says what became of a build's steps, and why. last is the last build of the same image, nil if there is none. What
// last knows of steps and files that are the same is taken over, so that now can be the next one's last. shown makes texts of the
// Dockerfile and names of files fit for people, before they are cut to a length that fits into a line.
func (now *Build) Compare(last *Build, shown func(string) string) Report {
	if now.large = !now.bound(shown); now.large || last != nil && !now.alike(last) {
		last = nil
	}
	c := comparison{now: now, last: last, shown: func(text string) string { return short(shown(text)) }, missed: make([]bool, len(now.Stages))}
	places := last.places()
	if last != nil {
		c.report.Since = max(now.Time.Sub(last.Time), 1)
		now.Files.recall(last.Files)
	}
	for i := range now.Stages {
		stage := &now.Stages[i]
		if stage.Base >= 0 && stage.Base < i {
			c.missed[i] = c.missed[stage.Base]
		}
		if !stage.Needed {
			continue
		}
		seen := map[string]int{}
		for j := range stage.Steps {
			step := &stage.Steps[j]
			nth := seen[step.Text]
			seen[step.Text]++
			if step.Works {
				before, at := last.find(places, stage.Name, i, step.Text, nth)
				c.take(place{i, j}, before, at)
			}
		}
	}
	return c.report
}

// take reports on a step that works. before is the step as the last build had it, and was where; nil if it had none.
func (c *comparison) take(at place, before *Step, was place) {
	step := &c.now.Stages[at.stage].Steps[at.step]
	if before != nil && step.Outcome != Done {
		step.Took, step.Size = max(before.Took, 0), cmp.Or(step.Size, max(before.Size, 0))
	}
	switch step.Outcome {
	case NotReached:
		return
	case Cached:
		c.report.Cached++
		c.report.SavedTime += step.Took
		c.report.SavedBytes += step.Size
	case Done, Failed:
		follows := c.missed[at.stage] || slices.ContainsFunc(step.Stages, func(s int) bool { return s >= 0 && s < at.stage && c.missed[s] })
		c.missed[at.stage] = true
		if !follows && c.last != nil && !c.now.NoCache && len(c.report.Misses) < maxMisses {
			c.report.Misses = append(c.report.Misses, Miss{step.Line, c.shown(step.Text), c.why(at, before, was)})
		}
	}
	c.report.Total++
}

// alike reports whether two builds have half of their steps in common: images without names are known by their
// Dockerfile's only, and a project may have several of those.
func (now *Build) alike(last *Build) bool {
	texts := map[string]bool{}
	for _, s := range last.Stages {
		for _, step := range s.Steps {
			texts[step.Text] = true
		}
	}
	all, common := 0, 0
	for _, s := range now.Stages {
		for _, step := range s.Steps {
			all++
			if texts[step.Text] {
				common++
			}
		}
	}
	return 2*common >= all
}

// comparison is of two builds, for people.
type comparison struct {
	now, last *Build
	shown     func(text string) string
	missed    []bool // by stage: it has a step that was not cached
	report    Report
}

// place is where a step is.
type place struct{ stage, step int }

// places are those of all steps, by their text, in each stage.
func (b *Build) places() []map[string][]int {
	if b == nil {
		return nil
	}
	out := make([]map[string][]int, len(b.Stages))
	for i, s := range b.Stages {
		out[i] = map[string][]int{}
		for j, step := range s.Steps {
			out[i][step.Text] = append(out[i][step.Text], j)
		}
	}
	return out
}

// find is a step of another build as this one had it, and where; nil if it had none. The same instruction may stand in a stage more
// than once: it is the nth.
func (b *Build) find(places []map[string][]int, stage string, number int, text string, nth int) (*Step, place) {
	if b == nil {
		return nil, place{}
	}
	i, ok := b.stage(stage, number)
	if !ok || nth >= len(places[i][text]) {
		return nil, place{}
	}
	j := places[i][text][nth]
	return &b.Stages[i].Steps[j], place{i, j}
}

// why says what a step has that the last build did not have. before is the step there, nil if it was not there. What stood in
// another Dockerfile than this build's is not told: who reads this log may not have been meant to read that.
func (c *comparison) why(at place, before *Step, was place) string {
	now, last := c.now, c.last
	s := now.Stages[at.stage].Steps[at.step]
	if before == nil {
		return "it is new or has changed"
	}
	if base, old := now.root(at.stage), last.root(was.stage); base.Image != old.Image {
		return "it has another base"
	} else if base.ID != old.ID {
		return fmt.Sprintf("its base %s is a newer image, or another one", c.shown(base.Image))
	}
	if changed := c.changedBefore(&s, now.before(at.stage, at.step), last.before(was.stage, was.step)); changed != "" {
		return changed
	}
	if name := s.changedArg(now.before(at.stage, at.step), now.Args, last.Args); name != "" {
		return fmt.Sprintf("the build argument %s has another value", c.shown(name))
	}
	if len(s.Sources) > 0 || s.Unsure {
		if now.Files == nil || last.Files == nil || s.Unsure {
			return "files may have changed; there are too many to say which"
		}
		if d := now.Files.since(last.Files, s.Sources); d.any() {
			return c.files(d)
		}
	}
	switch {
	case !slices.Equal(s.Images, before.Images):
		return "an image that it takes files from is a newer or another one"
	case len(s.Stages) > 0 && before.Outcome != NotReached:
		return "files that it takes from another stage have changed"
	case s.Fetches:
		return "what it fetches may have changed"
	case before.Outcome == Failed:
		return "it failed the last time"
	case before.Outcome == NotReached:
		return "the last build ended before it"
	}
	return "nothing that it is made of has changed; the Engine has probably removed it from its build cache"
}

// sees reports whether an instruction is part of a later step's key in the build cache. Programs see the image's configuration,
// and what copies files only what variables its own text has.
//
// BuildKit: a step stands on the files that are there, and on what its own operation says.
func (s *Step) sees(earlier *Step) bool {
	switch keyword(earlier.Text) {
	case "ENV", "ARG":
		return s.Run || strings.Contains(s.Text, "$")
	case "USER", "SHELL":
		return s.Run
	}
	return earlier.Works
}

// changedBefore names the first instruction before a step that is not as it was.
func (c *comparison) changedBefore(s *Step, now, last []*Step) string {
	unseen := func(earlier *Step) bool { return !s.sees(earlier) }
	now, last = slices.DeleteFunc(now, unseen), slices.DeleteFunc(last, unseen)
	for i, earlier := range now {
		if i >= len(last) || last[i].Text != earlier.Text {
			return fmt.Sprintf("line %d before it, %s, is new or has changed", earlier.Line, c.shown(earlier.Text))
		}
	}
	if len(last) > len(now) {
		return "an instruction before it was taken out"
	}
	return ""
}

// changedArg names a build argument that a step sees, declared before it, and that has another value than it had.
func (s *Step) changedArg(before []*Step, now, last map[string]string) string {
	for _, declared := range before {
		if keyword(declared.Text) != "ARG" {
			continue
		}
		for _, word := range strings.Fields(declared.Text)[1:] {
			name, _, _ := strings.Cut(word, "=")
			used := s.Run || strings.Contains(s.Text, "$"+name) || strings.Contains(s.Text, "${"+name)
			if used && now[name] != last[name] {
				return name
			}
		}
	}
	return ""
}

// files says what has become of some: "changed: src/main.go; new: a, b, c, d and 2 more".
func (c *comparison) files(d difference) string {
	if d.within(".git") {
		return "only .git has changed, which .dockerignore can leave out"
	}
	var parts []string
	for _, p := range []struct {
		names []string
		what  string
	}{{d.changed, "changed"}, {d.added, "new"}, {d.removed, "gone"}} {
		if len(p.names) > 0 {
			parts = append(parts, p.what+": "+c.list(p.names))
		}
	}
	return strings.Join(parts, "; ")
}

// maxListed is how many files are named.
const maxListed = 4

func (c *comparison) list(names []string) string {
	var first []string
	for _, n := range names[:min(len(names), maxListed)] {
		first = append(first, c.shown(n))
	}
	out := strings.Join(first, ", ")
	if more := len(names) - maxListed; more > 0 {
		out += fmt.Sprintf(" and %d more", more)
	}
	return out
}

// maxShown is how much of an instruction, or of a file's name, is shown, in runes.
const maxShown = 70

// short is a text that fits into a line of the log.
func short(text string) string {
	if r := []rune(text); len(r) > maxShown {
		return string(r[:maxShown-1]) + "…"
	}
	return text
}
