package buildlog

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// classicStep is how the classic builder announces an instruction.
var classicStep = regexp.MustCompile(`^Step (\d+)/(\d+) : (\S+.*)$`)

// classicFailed is how the classic builder ends after a RUN that failed.
var classicFailed = regexp.MustCompile(`^The command '.*' returned a non-zero code: \d+`)

// classicBuild follows one build of the classic builder:
//
//	Step 2/3 : RUN make
//	 ---> Using cache            or " ---> Running in 0123…", or the new layer's ID at once
//	 ---> 4567…
type classicBuild struct {
	build        *Build
	index, total int
	fromSeen     bool
	step         *Step // nil while the instruction at hand is none that counts
	started      time.Time
	fresh        bool // the next line is the builder's verdict on the step
}

func (c *classicBuild) take(line string, begin func() *Build) {
	if m := classicStep.FindStringSubmatch(line); m != nil {
		index, _ := strconv.Atoi(m[1]) // digits; out of range is a number that fits nowhere
		total, _ := strconv.Atoi(m[2])
		if c.announce(index, total, strings.TrimSpace(m[3]), begin) {
			return
		}
	}
	if c.step == nil {
		return
	}
	switch {
	case c.fresh && strings.HasPrefix(line, " ---> Skipped"):
		// The guard tells so of stages that the target does not need: that is no step.
		c.fresh, c.step = false, nil
		c.build.Steps = c.build.Steps[:len(c.build.Steps)-1]
	case c.fresh:
		c.fresh = false
		c.step.Cached = line == " ---> Using cache"
		fallthrough
	case strings.HasPrefix(line, " ---> "), classicFailed.MatchString(line):
		if !c.step.Cached {
			c.step.Duration = time.Since(c.started)
		}
	}
}

// announce begins a step. It reports false for a line that only looks like one: steps are counted without a gap, so
// that most of what a RUN prints cannot pass for the builder's words.
func (c *classicBuild) announce(index, total int, name string, begin func() *Build) bool {
	switch {
	case index == 1:
		*c = classicBuild{build: begin(), total: total}
	case c.build == nil || index != c.index+1 || total != c.total:
		return false
	}
	c.index, c.step = index, nil
	switch instruction, _, _ := strings.Cut(name, " "); {
	case strings.EqualFold(instruction, "FROM"):
		c.fromSeen = true
	case c.fromSeen: // an ARG above the first FROM makes nothing
		c.build.Steps = append(c.build.Steps, Step{Index: index, Total: total, Name: name})
		c.step = &c.build.Steps[len(c.build.Steps)-1]
		c.fresh, c.started = true, time.Now()
	}
	return true
}
