// Package dockerfile reads a Dockerfile once, checks it and rewrites it, so that the Engine gets a checked copy. It knows nothing of the Engine or of jobs: what names mean is asked of its caller.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Options are what a Dockerfile means beyond its own text.
type Options struct {
	BuildArgs map[string]string
	// Target is the stage that is built, "" = the last one.
	Target string
	// BuildPlatform and TargetPlatform are os/arch[/variant]; TargetPlatform "" is BuildPlatform.
	BuildPlatform, TargetPlatform string
	// Contexts are named contexts, as the client wrote their names; a name may end in ::os/arch[/variant].
	Contexts map[string]Context
	// Heredocs says that the Engine's own parser knows here-documents. Where it does not, what follows one would be
	// read in two ways.
	Heredocs bool
}

// The bounds of a Dockerfile. Each instruction, and each trigger of a base in each stage, may be looked at for every stage.
const (
	maxSize         = 4 << 20
	maxInstructions = 10_000
)

// Error is a mistake in a Dockerfile, or something in it that a rule forbids.
type Error struct {
	Line int
	Rule string // the rule, "" for a mistake
	What string
	Cure string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("Dockerfile line %d: %s", e.Line, e.What)
	if e.Cure != "" {
		s += "; " + e.Cure
	}
	return s
}

// File is a Dockerfile that was read.
type File struct {
	o         Options
	escape    rune
	check     string // the value of its "check" directive
	lex       *shell.Lex
	globals   env
	all       []*instruction // in the order of the text
	stages    []*stage
	target    int
	images    map[Base]Image
	problems  []*Error
	reported  map[string]bool
	expanded  int // bytes that the expansion of variables has handled
	read      int // instructions, those of triggers too
	hadSyntax string
	src       []byte
	lines     []lines // of the copy
}

// instruction is one line, continuations joined.
type instruction struct {
	node  *parser.Node
	cmd   any // of package instructions
	stage int // -1 above the first FROM
	refs  []ref
	// sources are those of an ADD that has variables in them, expanded; nil for all others.
	sources []string
}

func (i *instruction) line() int       { return i.node.StartLine }
func (i *instruction) keyword() string { return strings.ToUpper(i.node.Value) }

// Instruction is an instruction as it is shown.
type Instruction struct {
	Text    string // as it was written, in one line
	Keyword string // FROM
	Line    int
	Stage   int    // -1 above the first FROM
	Needed  bool   // the target needs its stage
	Base    string // of a FROM: the image's name, expanded; "" = another stage, or scratch
	// Sources are what it takes from the build's context, as it was written; "." is all, and also what variables may stand for.
	Sources []string
	// Stages and Images are those that it takes files from; images by their names, expanded.
	Stages []int
	Images []string
}

// Read reads a Dockerfile. The error, an *Error, is a mistake of its author; what rules forbid is in Problems.
func Read(src []byte, o Options) (*File, error) {
	if len(src) > maxSize {
		return nil, &Error{Line: 1, What: fmt.Sprintf("it is larger than %d bytes", maxSize)}
	}
	if bytes.IndexByte(src, 0) >= 0 {
		return nil, &Error{Line: 1, What: "it is not text: it has a zero byte"}
	}
	if o.TargetPlatform == "" {
		o.TargetPlatform = o.BuildPlatform
	}
	f := &File{o: o, src: src, images: map[Base]Image{}, reported: map[string]bool{}}
	f.hadSyntax, _, _, _ = parser.DetectSyntax(src)
	f.check, _ = directive("check", src)
	parsed, err := parser.Parse(bytes.NewReader(src))
	if err != nil {
		return nil, f.mistake(err, 1)
	}
	f.escape = parsed.EscapeToken
	f.lex = shell.NewLex(f.escape)
	for _, n := range parsed.AST.Children {
		if err := f.add(n); err != nil {
			return nil, err
		}
	}
	if len(f.stages) == 0 {
		return nil, &Error{Line: 1, What: "it has no FROM"}
	}
	if err := f.link(); err != nil {
		return nil, err
	}
	return f, nil
}

func directive(key string, src []byte) (string, bool) {
	_, value, _, ok := parser.ParseDirective(key, src)
	return value, ok
}

// add reads one instruction.
func (f *File) add(n *parser.Node) error {
	if err := f.count(n.StartLine); err != nil {
		return err
	}
	n.PrevComment = nil // they configure a linter that is not here
	cmd, err := instructions.ParseInstruction(n)
	if err != nil {
		return f.mistake(err, n.StartLine)
	}
	in := &instruction{node: n, cmd: cmd, stage: len(f.stages) - 1}
	if st, ok := cmd.(*instructions.Stage); ok {
		in.stage++
		f.stages = append(f.stages, &stage{cmd: st, from: in, baseStage: -1, name: strings.ToLower(st.Name)})
	} else if len(f.stages) > 0 {
		s := f.stages[len(f.stages)-1]
		s.commands = append(s.commands, in)
	} else if _, ok := cmd.(*instructions.ArgCommand); !ok {
		return &Error{Line: n.StartLine, What: "no build stage in current context: only ARG may come before the first FROM"}
	}
	f.all = append(f.all, in)
	return f.ambiguous(n)
}

// count counts an instruction in.
func (f *File) count(line int) error {
	if f.read++; f.read > maxInstructions {
		return &Error{Line: line, What: fmt.Sprintf("it has more than %d instructions, those of base images' triggers counted", maxInstructions)}
	}
	return nil
}

// mistake says where an error of the parser is.
func (f *File) mistake(err error, line int) error {
	var at *parser.LocationError
	if errors.As(err, &at) && len(at.Locations) > 0 && len(at.Locations[0]) > 0 {
		line = max(line, at.Locations[0][0].Start.Line)
	}
	e := &Error{Line: line, What: err.Error()}
	if f.hadSyntax != "" {
		e.Cure = fmt.Sprintf("the frontend of its syntax line (%s) is not used here: what the Engine's own one does not know cannot be built", f.hadSyntax)
	}
	return e
}

// problem notes, once, what a rule forbids.
func (f *File) problem(line int, rule, cure, format string, args ...any) {
	e := &Error{Line: line, Rule: rule, Cure: cure, What: fmt.Sprintf(format, args...)}
	if key := e.Rule + e.Error(); !f.reported[key] {
		f.reported[key] = true
		f.problems = append(f.problems, e)
	}
}

// Problems are what rules forbid in what is built, in the order of the text. Resolving bases can add some.
func (f *File) Problems() []*Error { return f.problems }

// Syntax is the frontend that a syntax line asks for, "" = none. It never runs.
func (f *File) Syntax() string { return f.hadSyntax }

// Instructions are all instructions, for display.
func (f *File) Instructions() []Instruction {
	out := make([]Instruction, len(f.all))
	for i, in := range f.all {
		out[i] = Instruction{
			Text: strings.TrimSpace(in.node.Original), Keyword: in.keyword(), Line: in.line(), Stage: in.stage,
			Needed: in.stage < 0 || f.stages[in.stage].needed,
		}
		if in.stage >= 0 && in == f.stages[in.stage].from {
			out[i].Base = f.stages[in.stage].base.Name
		}
		out[i].Sources = in.takes()
		for _, r := range in.refs {
			if r.stage >= 0 {
				out[i].Stages = append(out[i].Stages, r.stage)
			} else if r.base.Name != "" {
				out[i].Images = append(out[i].Images, r.base.Name)
			}
		}
	}
	return out
}

// takes are the paths of the build's context that an instruction takes.
func (i *instruction) takes() []string {
	var paths []string
	switch c := i.cmd.(type) {
	case *instructions.CopyCommand:
		if c.From == "" {
			paths = slices.Clone(c.SourcePaths)
		}
	case *instructions.AddCommand:
		for _, p := range c.SourcePaths {
			if _, away := remote(p); !away {
				paths = append(paths, p)
			}
		}
	case *instructions.RunCommand:
		// Only that reads more of a mount than its stage. Words stay as they are.
		if err := c.Expand(func(word string) (string, error) { return word, nil }); err != nil {
			return nil
		}
		for _, m := range instructions.GetMounts(c) {
			if m.Type == instructions.MountTypeBind && m.From == "" {
				paths = append(paths, m.Source)
			}
		}
	}
	for j, p := range paths {
		if strings.Contains(p, "$") || p == "" {
			paths[j] = "."
		}
	}
	return paths
}

// Stage is a stage as it is shown.
type Stage struct {
	Name     string   // in lower case, "" = none
	Base     int      // the stage that it is made from, -1 = none
	Triggers []string // the keywords of what it runs first, because its base says so
}

// Stages are all stages. Resolving bases can add triggers.
func (f *File) Stages() []Stage {
	out := make([]Stage, len(f.stages))
	for i, s := range f.stages {
		out[i] = Stage{Name: s.name, Base: s.baseStage}
		for _, in := range s.triggers {
			out[i].Triggers = append(out[i].Triggers, in.keyword())
		}
	}
	return out
}

// Works reports whether an instruction makes or takes files, so that the Engine tells of it by itself. Others change the
// image's configuration only.
func (i Instruction) Works() bool {
	switch i.Keyword {
	case "RUN", "COPY", "ADD", "WORKDIR":
		return true
	}
	return i.Base != ""
}
