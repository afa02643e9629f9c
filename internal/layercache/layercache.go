// Package layercache says of a build which of its steps came out of the Engine's build cache, what that saved, and why the
// others did not, by comparing it with the last build of the same image on this machine. It knows nothing of Engines,
// Dockerfiles or jobs: a build is told to it as a list of steps and the files that they take.
package layercache

import "time"

// Outcome is what became of a step.
type Outcome string

// The outcomes of a step. Done includes steps that are done again although nothing has changed.
const (
	NotReached Outcome = ""
	Cached     Outcome = "cached"
	Done       Outcome = "done"
	Failed     Outcome = "failed"
)

// Build is one build, as far as its steps can depend on it.
type Build struct {
	Time   time.Time
	Stages []Stage
	// Args are the build arguments that the client gave, each with a digest of its value: values can be secret.
	Args map[string]string
	// Files are those of the context that the builder asked for; nil if they are not known, or too many.
	Files Files
	// NoCache says that the client asked for all steps anew.
	NoCache bool

	large bool // too large to be remembered
}

// Stage is what begins with a FROM.
type Stage struct {
	Name   string // "" = none
	Line   int    // of its FROM
	Base   int    // the stage that it is made from, -1 = none
	Image  string // the image that it is made from, as the Dockerfile names it; "" = none
	ID     string // of that image
	Needed bool   // the target needs it
	Steps  []Step // all instructions but FROM
}

// Step is one instruction.
type Step struct {
	Text  string // in one line
	Line  int
	Works bool // it makes or takes files; others change the image's configuration only
	// Run says that a program runs, which sees all build arguments.
	Run bool
	// Sources are the files and folders of the context that it takes, as patterns; "." is all of it.
	Sources []string
	Unsure  bool     // there are too many sources to say which files they take
	Stages  []int    // those that it takes files from
	Images  []string // those that it takes files from, by their IDs
	Fetches bool     // it takes files from the network

	Outcome Outcome
	Took    time.Duration // when it was last done, 0 = not known
	Size    int64         // bytes of its layer, 0 = not known
}

// chain gives the steps of a stage, after those of the stages that it is made from.
func (b *Build) chain(stage int) []*Step {
	var out []*Step
	if base := b.Stages[stage].Base; base >= 0 && base < stage { // the last stages first would never end
		out = b.chain(base)
	}
	for i := range b.Stages[stage].Steps {
		out = append(out, &b.Stages[stage].Steps[i])
	}
	return out
}

// before gives the steps before one of a stage, by its number there, those of the stages that it is made from too.
func (b *Build) before(stage, step int) []*Step {
	all := b.chain(stage)
	return all[:len(all)-len(b.Stages[stage].Steps)+step]
}

// root is the stage of an image that a stage comes from in the end.
func (b *Build) root(stage int) *Stage {
	for b.Stages[stage].Base >= 0 && b.Stages[stage].Base < stage {
		stage = b.Stages[stage].Base
	}
	return &b.Stages[stage]
}

// stage finds the stage that another build calls so: by name, else by number.
func (b *Build) stage(name string, number int) (int, bool) {
	if name == "" {
		return number, number < len(b.Stages) && b.Stages[number].Name == ""
	}
	for i := len(b.Stages) - 1; i >= 0; i-- {
		if b.Stages[i].Name == name {
			return i, true
		}
	}
	return 0, false
}
