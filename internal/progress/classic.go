// Package progress tells of a build by what BuildKit says of it: in the words of the classic builder, and what became of each
// instruction; and it tells those who read BuildKit's own words what others do for the build. It knows nothing of who asked for it.
package progress

import (
	"fmt"
	"strings"
	"time"

	control "github.com/moby/buildkit/api/services/control"

	"github.com/slipway-ci/slipway/internal/dockerfile"
)

// Classic tells of a build as the classic builder does: one step per instruction of the Dockerfile, in its order,
// though BuildKit works on several at once. A step is told when all before it are; what it prints meanwhile is kept.
type Classic struct {
	list    []*classicStep // in the order of instructions
	index   *vertexIndex
	cached  []cacheState // by stage
	at      int          // the step that is being told
	midLine bool         // what was printed last did not end its line
	write   func(text string)
}

// classicStep is one instruction.
type classicStep struct {
	dockerfile.Instruction
	image                            string // of a FROM: the image's ID
	told, begun, ended, cached, fail bool
	running, reused                  bool // it was told that it runs, or that it need not
	took                             time.Duration
	logs                             []string
}

// cacheState is what is known of a stage so far.
type cacheState struct{ worked, cached bool }

// NewClassic begins to tell of the build of a Dockerfile whose bases are resolved. images are the IDs of its bases, by the names that
// Instruction.Base has.
func NewClassic(file *dockerfile.File, images map[string]string, write func(text string)) *Classic {
	s := &Classic{index: newVertexIndex(file), write: write}
	s.cached = make([]cacheState, len(s.index.stages))
	for _, in := range s.index.instructions {
		s.list = append(s.list, &classicStep{Instruction: in, image: images[in.Base]})
	}
	return s
}

// Take reads what BuildKit tells.
func (s *Classic) Take(status *control.StatusResponse) {
	for _, v := range status.Vertexes {
		i, ok := s.index.find(v.Digest, v.Name)
		if !ok {
			continue
		}
		step := s.list[i]
		step.begun = step.begun || v.Started != nil
		step.ended = v.Completed != nil
		step.cached = step.cached || v.Cached
		step.fail = v.Error != ""
		if v.Started != nil && v.Completed != nil {
			step.took = v.Completed.AsTime().Sub(v.Started.AsTime())
		}
	}
	for _, l := range status.Logs {
		if i, ok := s.index.byDigest[l.Vertex]; ok {
			s.list[i].logs = append(s.list[i].logs, string(l.Msg))
		}
	}
	s.advance()
}

// passed reports that BuildKit goes on in a step's stage without it: it is the same as a step of another stage.
func (s *Classic) passed(i int) bool {
	for _, later := range s.list[i+1:] {
		if later.Stage == s.list[i].Stage && later.begun {
			return true
		}
	}
	return false
}

// settled reports whether it can be told if an instruction that only changes the configuration came out of the cache: it
// did if what comes before it did. If nothing does, what comes after it says so.
func (s *Classic) settled(step *classicStep) bool {
	if step.Stage < 0 || !step.Needed || step.Keyword == "FROM" || s.cached[step.Stage].worked {
		return true
	}
	for i, next := range s.list {
		if i <= s.at || next.Stage != step.Stage || !next.Works() {
			continue
		}
		passed := !next.begun && s.passed(i)
		step.cached = passed || next.cached
		return next.begun || passed
	}
	return true
}

// advance tells what can be told.
func (s *Classic) advance() {
	for ; s.at < len(s.list); s.at++ {
		step := s.list[s.at]
		if !step.Works() || !step.Needed {
			if !s.settled(step) {
				return
			}
			s.tell(step)
			continue
		}
		passed := !step.begun && s.passed(s.at)
		if !step.begun && !passed {
			return
		}
		if passed {
			step.begun, step.ended, step.cached = true, true, true
		}
		s.tell(step)
		if !step.ended {
			return
		}
	}
}

// tell announces a step, once, and prints what it printed since. The line behind the announcement is never the step's
// own: it is what readers of logs take for the builder's verdict.
func (s *Classic) tell(step *classicStep) {
	if !step.told {
		step.told = true
		s.print(fmt.Sprintf("Step %d/%d : %s\n", s.at+1, len(s.list), step.Text))
		if verdict := s.verdict(step); verdict != "" {
			s.print(verdict)
		}
	}
	if step.Works() && step.Needed && step.Keyword != "FROM" && step.begun {
		s.follow(step)
	}
	s.logs(step)
	s.remember(step)
}

// ShortID is an image's ID as Docker shows it: its first 12 digits.
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

const (
	usedCache   = " ---> Using cache\n"
	skippedStep = " ---> Skipped: the target does not need this stage\n"
	doneStep    = " ---> Done\n"
	runningStep = " ---> Running\n"
)

// verdict is what is known of a step when it is announced, "" = nothing yet.
func (s *Classic) verdict(step *classicStep) string {
	switch {
	case !step.Needed:
		return skippedStep
	case step.Keyword == "FROM" && step.image != "":
		return " ---> " + ShortID(step.image) + "\n"
	case step.Keyword == "FROM", step.Stage < 0, step.Works():
		return ""
	case step.cached || s.cached[step.Stage] == (cacheState{true, true}):
		return usedCache
	}
	return doneStep
}

// follow tells how a step that works goes on.
func (s *Classic) follow(step *classicStep) {
	switch {
	case step.running:
	case step.cached: // newer versions say so before the step has ended
		step.running, step.reused = true, true
		s.print(usedCache)
	case step.Keyword == "RUN" || len(step.logs) > 0:
		step.running = true
		s.print(runningStep)
	}
	s.logs(step)
	if step.ended && !step.fail && !step.reused {
		s.print(fmt.Sprintf(" ---> Done in %.1fs\n", step.took.Seconds()))
	}
}

func (s *Classic) logs(step *classicStep) {
	for _, l := range step.logs {
		s.write(l)
		s.midLine = !strings.HasSuffix(l, "\n")
	}
	step.logs = nil
}

// print begins a line of the builder's own.
func (s *Classic) print(line string) {
	if s.midLine {
		line = "\n" + line
	}
	s.midLine = false
	s.write(line)
}

// remember keeps whether all of a stage so far came out of the cache: then what only changes its configuration does too.
func (s *Classic) remember(step *classicStep) {
	if step.Stage < 0 {
		return
	}
	state := &s.cached[step.Stage]
	switch {
	case step.Keyword == "FROM":
		if base := s.index.stages[step.Stage].Base; base >= 0 {
			*state = s.cached[base]
		}
	case step.Works() && step.ended:
		state.cached = step.cached && (state.cached || !state.worked)
		state.worked = true
	}
}

// Finish tells of all steps that are left: the build is done.
func (s *Classic) Finish() {
	for _, step := range s.list[min(s.at, len(s.list)):] {
		if step.Works() && step.Needed && !step.begun {
			step.cached = step.Keyword != "WORKDIR"
		}
		step.begun, step.ended = true, true
	}
	s.advance()
}

// Fail tells of the steps up to the one that failed.
func (s *Classic) Fail() {
	last := -1
	for i, step := range s.list {
		if step.fail {
			last = i
		}
	}
	for ; s.at <= last; s.at++ {
		step := s.list[s.at]
		fresh := !step.told
		s.tell(step)
		if fresh && step.Works() && step.Needed && !step.begun && step.Keyword != "FROM" {
			s.print(" ---> Not built\n")
		}
	}
	if s.midLine { // the error begins a line
		s.print("")
	}
}
