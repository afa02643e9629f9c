// Package buildlog reads what `docker build` prints and tells which steps came out of the Engine's build cache.
// It knows the text of the classic builder and BuildKit's plain progress, alone or mixed into a job log, and nothing
// of jobs or Engines.
package buildlog

import "time"

// Step is one instruction of a Dockerfile that makes something. FROM is none, nor is what the builder does for itself.
type Step struct {
	// Index and Total are the Engine's own count, "Step 2/3" or "[2/3]"; it includes FROM.
	Index, Total int
	// Stage is the name of the build stage where BuildKit prints one.
	Stage string
	// Name is the instruction: "RUN make".
	Name string
	// Cached reports that the Engine used its build cache.
	Cached bool
	// Duration is what BuildKit says it took. The classic builder says nothing: there it is the time between the
	// lines, as they came in. 0 for a step that did not end.
	Duration time.Duration
}

// Build is one `docker build`, with its steps in the order in which they were printed.
type Build struct {
	Steps []Step
}

// Cached counts the steps that came out of the build cache.
func (b Build) Cached() int {
	n := 0
	for _, s := range b.Steps {
		if s.Cached {
			n++
		}
	}
	return n
}

// Total counts all steps.
func (b Build) Total() int { return len(b.Steps) }
