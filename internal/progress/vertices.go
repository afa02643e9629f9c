package progress

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	control "github.com/moby/buildkit/api/services/control"

	"github.com/slipway-ci/slipway/internal/dockerfile"
)

// Vertices are what BuildKit has told of a build so far, by digest. Those of instructions are counted when they end, each once.
type Vertices struct {
	mu  sync.Mutex
	all map[string]*vertex
}

// Vertex is what BuildKit has told of one.
type Vertex struct {
	Begun, Ended, Cached, Failed bool
	Took                         time.Duration // 0 until it has ended
}

type vertex struct {
	Vertex
	name   string
	counts bool // it is to be counted
}

// Take reads what BuildKit tells, and calls count for each instruction that has ended. FROM is not counted: it is neither cached nor
// done. Several goroutines may call it.
func (s *Vertices) Take(status *control.StatusResponse, count func(cached bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, told := range status.Vertexes {
		if s.all == nil {
			s.all = map[string]*vertex{}
		}
		v := s.all[told.Digest]
		if v == nil {
			m := vertexName.FindStringSubmatch(told.Name)
			v = &vertex{name: told.Name, counts: m != nil && m[3] != "FROM"}
			s.all[told.Digest] = v
		}
		v.Begun = v.Begun || told.Started != nil
		v.Cached = v.Cached || told.Cached
		v.Failed = told.Error != ""
		if told.Started != nil && told.Completed != nil {
			v.Took = max(told.Completed.AsTime().Sub(told.Started.AsTime()), 0) // the clock may be set back meanwhile
		}
		v.Ended = v.Ended || told.Completed != nil
		if v.counts && v.Ended && !v.Failed {
			v.counts = false
			count(v.Cached)
		}
	}
}

// Of is what became of the instructions of a Dockerfile, by their places in its Instructions. BuildKit does not tell of all.
func (s *Vertices) Of(file *dockerfile.File) map[int]Vertex {
	index, found := newVertexIndex(file), map[int]Vertex{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for digest, v := range s.all {
		i, ok := index.find(digest, v.name)
		if _, known := found[i]; ok && (!known || v.Begun) {
			found[i] = v.Vertex
		}
	}
	return found
}

// vertexIndex finds the instructions of a Dockerfile that BuildKit tells of: its vertices.
type vertexIndex struct {
	instructions []dockerfile.Instruction
	stages       []dockerfile.Stage
	byDigest     map[string]int // of those that were found: their place in instructions
	counted      [][]candidate  // what BuildKit may count, by stage
	byLabel      map[string]int // the stages, by the names that BuildKit gives them
}

// candidate is something that BuildKit may count: an instruction, or a trigger of a FROM.
type candidate struct {
	at      int // the instruction's place
	keyword string
	text    string // "" = not known
}

func newVertexIndex(f *dockerfile.File) *vertexIndex {
	x := &vertexIndex{instructions: f.Instructions(), stages: f.Stages(), byDigest: map[string]int{}}
	x.counted, x.byLabel = make([][]candidate, len(x.stages)), map[string]int{}
	for i, s := range x.stages { // of two of a name the last one counts
		x.byLabel[cmp.Or(s.Name, fmt.Sprintf("stage-%d", i))] = i
	}
	for at, in := range x.instructions {
		if in.Stage < 0 {
			continue
		}
		of := &x.counted[in.Stage]
		if in.Works() {
			*of = append(*of, candidate{at, in.Keyword, in.Text})
		}
		if in.Keyword == "FROM" {
			for _, k := range x.stages[in.Stage].Triggers {
				if k != "ARG" && k != "ENV" {
					*of = append(*of, candidate{at, k, ""})
				}
			}
		}
	}
	return x
}

// vertexName is how BuildKit's own frontend names what it does for an instruction: "[build 2/3] RUN make".
var vertexName = regexp.MustCompile(`(?s)^\[(.*?)\s*(\d+)/\d+\] (?:ONBUILD )?(\S+)(.*)$`)

// find is the place of a vertex's instruction. What a base's triggers do belongs to its FROM.
func (x *vertexIndex) find(digest, name string) (int, bool) {
	if i, ok := x.byDigest[digest]; ok {
		return i, true
	}
	m := vertexName.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	stage := x.stage(m[1])
	number, err := strconv.Atoi(m[2])
	if stage < 0 || err != nil {
		return 0, false
	}
	i, ok := x.instruction(stage, number, m[3], m[3]+m[4])
	if ok {
		x.byDigest[digest] = i
	}
	return i, ok
}

// stage finds a stage by the name that BuildKit gives it, -1 = none.
func (x *vertexIndex) stage(label string) int {
	fields := strings.Fields(label)
	if len(fields) == 0 {
		if len(x.stages) == 1 {
			return 0
		}
		return -1
	}
	if i, ok := x.byLabel[fields[len(fields)-1]]; ok {
		return i
	}
	return -1
}

// instruction finds that of a stage which BuildKit counts as number. It counts FROM, triggers, and what works on files, but
// leaves out a WORKDIR that is there in any case.
func (x *vertexIndex) instruction(stage, number int, keyword, text string) (int, bool) {
	all := x.counted[stage]
	for i := number - 1; i >= 0 && i < len(all); i++ {
		c := all[i]
		sure := c.keyword != "WORKDIR" || c.text == "" || strings.Contains(c.text, "$") || strings.EqualFold(c.text, text)
		if strings.EqualFold(c.keyword, keyword) && sure {
			return c.at, true
		}
	}
	return 0, false
}
