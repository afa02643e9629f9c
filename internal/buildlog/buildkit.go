package buildlog

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// buildKitLine is a line of BuildKit's plain progress: "#5 …".
var buildKitLine = regexp.MustCompile(`^#(\d+) (.*)$`)

// buildKitStep is a heading: "[2/3] RUN make", "[build 2/3] RUN make", "[linux/arm64 build 2/3] RUN make".
var buildKitStep = regexp.MustCompile(`^\[(?:(.*) )?(\d+)/(\d+)\] (.+)$`)

// buildKitDone is the end of a step with its duration: "DONE 0.1s".
var buildKitDone = regexp.MustCompile(`^DONE (\d+\.\d+)s$`)

// buildKitBuild follows one build of BuildKit, whose steps may run at the same time:
//
//	#5 [2/3] RUN make
//	#5 0.217 what make prints
//	#5 DONE 0.5s                 or "#5 CACHED", "#5 ERROR: …"
type buildKitBuild struct {
	build *Build
	steps map[int]int    // number of a heading → index in build.Steps
	names map[int]string // every heading by its number
	first bool           // heading 1 has ended
}

// take reports whether the line was BuildKit's.
func (k *buildKitBuild) take(line string, begin func() *Build) bool {
	m := buildKitLine.FindStringSubmatch(line)
	if m == nil {
		return false
	}
	number, err := strconv.Atoi(m[1])
	if err != nil {
		return false
	}
	text := strings.TrimSpace(m[2])
	switch {
	case strings.HasPrefix(text, "["):
		k.heading(number, text, begin)
		return true
	case k.build == nil:
		return false
	case number == 1 && strings.HasPrefix(text, "DONE "):
		k.first = true
	}
	at, known := k.steps[number]
	if !known {
		return true
	}
	step := &k.build.Steps[at]
	if text == "CACHED" {
		step.Cached = true
	} else if done := buildKitDone.FindStringSubmatch(text); done != nil {
		step.Duration, _ = time.ParseDuration(done[1] + "s") // the pattern is a duration's
	}
	return true
}

// heading begins a step, or goes back to one: BuildKit prints a heading again when it turns from one step to another.
// A number that stands for something else than before, or the first one after it had ended, is the next build's.
func (k *buildKitBuild) heading(number int, text string, begin func() *Build) {
	before, again := k.names[number]
	if k.build == nil || again && (before != text || number == 1 && k.first) {
		*k = buildKitBuild{build: begin(), steps: map[int]int{}, names: map[int]string{}}
	} else if again {
		return
	}
	k.names[number] = text
	m := buildKitStep.FindStringSubmatch(text)
	if m == nil || strings.HasPrefix(m[4], "FROM ") {
		return
	}
	index, _ := strconv.Atoi(m[2])
	total, _ := strconv.Atoi(m[3])
	k.steps[number] = len(k.build.Steps)
	k.build.Steps = append(k.build.Steps, Step{Index: index, Total: total, Stage: m[1], Name: m[4]})
}
