package dockerfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// scratch is the base that is no image.
const scratch = "scratch"

// maxBases bounds the images that one Dockerfile can have asked for.
const maxBases = 100

// Base is an image that a Dockerfile names.
type Base struct {
	Name     string // as it is after expansion: alpine:3
	Platform string // os/arch[/variant]
}

// Image is what a base is on the Engine.
type Image struct {
	Name    string   // for this image alone: what the checked copy calls it
	OnBuild []string // its triggers
	Env     []string
}

// ref is a name in an instruction that stands for files: COPY --from, RUN --mount=from.
type ref struct {
	name  string // as it was written
	stage int    // -1: it is the image base, or nothing
	base  Base
	// elsewhere is the copy's name for files from elsewhere, "" = it is none of them.
	elsewhere string
}

// stage is what begins with a FROM.
type stage struct {
	cmd       *instructions.Stage
	from      *instruction
	name      string // in lower case, "" = none
	baseStage int    // -1: it is base, or scratch
	base      Base   // no name: scratch, or another stage
	platform  string // --platform, expanded; "" = not given
	commands  []*instruction
	triggers  []*instruction // of its base, once that is known
	needed    bool
	elsewhere string // the copy's name for files from elsewhere, which it is made from; "" = it is not
	scratch   bool   // a context says that it is made from nothing
	replaced  bool   // a context has taken its place
}

// link finds out what each name means.
func (f *File) link() error {
	if err := f.readGlobals(); err != nil {
		return err
	}
	for i, s := range f.stages {
		if err := f.linkFrom(i, s); err != nil {
			return err
		}
	}
	for i, s := range f.stages {
		for _, in := range s.commands {
			if err := f.linkCommand(i, in); err != nil {
				return err
			}
		}
	}
	if err := f.findTarget(); err != nil {
		return err
	}
	for _, s := range f.stages {
		if s.baseStage >= 0 {
			if err := f.takeTriggers(s, triggersOf(f.stages[s.baseStage])); err != nil {
				return err
			}
		}
	}
	f.reach()
	return nil
}

// triggersOf are the ONBUILD instructions of a stage.
func triggersOf(s *stage) []string {
	var out []string
	for _, in := range s.commands {
		if t, ok := in.cmd.(*instructions.OnbuildCommand); ok {
			out = append(out, t.Expression)
		}
	}
	return out
}

// linkFrom expands a FROM. Stage names are found in the case in which the Engine finds them.
func (f *File) linkFrom(i int, s *stage) error {
	line := s.from.line()
	name, err := f.expand(s.cmd.BaseName, f.globals)
	switch {
	case err != nil:
		return f.mistake(err, line)
	case name == "":
		return &Error{Line: line, What: fmt.Sprintf("base name (%s) should not be blank", s.cmd.BaseName)}
	}
	s.platform, err = f.expand(s.cmd.Platform, f.globals)
	if err != nil {
		return f.mistake(err, line)
	}
	if s.cmd.Platform != "" && !plainPlatform(s.platform) {
		return &Error{Line: line, What: fmt.Sprintf("%q (%s) is no platform", s.platform, s.cmd.Platform)}
	}
	if c, ok := f.stageContext(s); ok {
		return f.replace(s, c)
	}
	for j := range i {
		if f.stages[j].name != "" && f.stages[j].name == name {
			s.baseStage = j // the last one of that name
		}
	}
	if s.baseStage >= 0 || name == scratch {
		return nil
	}
	if c, ok := f.context(name, f.platformOf(s)); ok {
		if c.Image == "" {
			s.elsewhere = c.Name
			return nil
		}
		name = c.Image
	}
	return f.takeImage(s, name)
}

func plainPlatform(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/()") == ""
}

// checkName refuses what is no image name, in the Engine's words.
func (f *File) checkName(name string, line int) error {
	if _, err := reference.ParseNormalizedNamed(name); err != nil {
		return &Error{Line: line, What: fmt.Sprintf("failed to parse stage name %q: %v", name, err)}
	}
	return nil
}

// linkCommand finds out what COPY --from and RUN --mount=from mean, in stage i.
func (f *File) linkCommand(i int, in *instruction) error {
	switch c := in.cmd.(type) {
	case *instructions.CopyCommand:
		if c.From == "" {
			return nil
		}
		r, err := f.find(i, c.From, true, in.line())
		if err != nil {
			return err
		}
		in.refs = append(in.refs, r)
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			if m.From == "" {
				continue
			}
			r, err := f.find(i, m.From, false, in.line())
			if err != nil {
				return err
			}
			in.refs = append(in.refs, r)
		}
	}
	return nil
}

// find says what a name means in stage i: one that came before it, by name or (COPY) number, or an image.
func (f *File) find(i int, name string, byNumber bool, line int) (ref, error) {
	r := ref{name: name, stage: -1}
	if strings.ContainsAny(name, "$\\`'\"") {
		return r, &Error{
			Line: line, What: fmt.Sprintf("variable expansion is not supported for --from (%s)", name),
			Cure: "define a stage with FROM using ARG from global scope",
		}
	}
	if n, err := strconv.Atoi(name); err == nil && byNumber {
		if n < 0 || n >= i {
			return r, &Error{Line: line, What: fmt.Sprintf("invalid stage index %d", n)}
		}
		r.stage = n
		return r, nil
	}
	for j, s := range f.stages {
		if s.name == "" || !strings.EqualFold(s.name, name) {
			continue
		}
		r.stage = j // the last one of that name
	}
	switch {
	case r.stage >= i:
		return r, &Error{Line: line, What: fmt.Sprintf("cannot copy from stage %q, it needs to be defined before current stage", name)}
	case r.stage >= 0 || name == scratch:
		return r, nil
	}
	if c, ok := f.context(name, f.o.TargetPlatform); ok {
		if c.Image == "" {
			r.elsewhere = c.Name
			return r, nil
		}
		if name = c.Image; name == scratch {
			r.elsewhere = scratch
			return r, nil
		}
	}
	r.base = Base{name, f.o.TargetPlatform}
	return r, f.checkName(name, line)
}

func (f *File) findTarget() error {
	f.target = len(f.stages) - 1
	if f.o.Target == "" {
		return nil
	}
	// The Engine takes a name only, and the last stage that has it.
	for i := len(f.stages) - 1; i >= 0; i-- {
		if f.stages[i].name == strings.ToLower(f.o.Target) {
			f.target = i
			return nil
		}
	}
	return &Error{Line: f.stages[0].from.line(), What: fmt.Sprintf("target stage %q could not be found", f.o.Target)}
}

// reach marks what the target needs, and checks what was not needed before.
func (f *File) reach() {
	visit := func(i int) {
		s := f.stages[i]
		if s.needed {
			return
		}
		s.needed = true
		for _, in := range s.commands {
			f.forbidden(in, in.line())
		}
	}
	for again := true; again; {
		again = false
		for i := len(f.stages) - 1; i >= 0; i-- {
			s := f.stages[i]
			if i == f.target {
				visit(i)
			}
			if !s.needed {
				continue
			}
			for _, j := range s.needs() {
				if !f.stages[j].needed {
					visit(j)
					again = true
				}
			}
		}
	}
}

// needs are the stages that a stage takes from.
func (s *stage) needs() []int {
	var out []int
	if s.baseStage >= 0 {
		out = append(out, s.baseStage)
	}
	for _, list := range [][]*instruction{s.triggers, s.commands} {
		for _, in := range list {
			for _, r := range in.refs {
				if r.stage >= 0 {
					out = append(out, r.stage)
				}
			}
		}
	}
	return out
}

// bases are the images that a stage takes from.
func (s *stage) bases() []Base {
	var out []Base
	if s.base.Name != "" {
		out = append(out, s.base)
	}
	for _, in := range s.commands {
		for _, r := range in.refs {
			if r.base.Name != "" {
				out = append(out, r.base)
			}
		}
	}
	return out
}

// Bases are the images that the target needs and that are not resolved yet, each once. To resolve one can add others.
func (f *File) Bases() ([]Base, error) {
	var out []Base
	seen := map[Base]bool{}
	for _, s := range f.stages {
		if !s.needed {
			continue
		}
		for _, b := range s.bases() {
			if _, ok := f.images[b]; !ok && !seen[b] {
				seen[b] = true
				out = append(out, b)
			}
		}
	}
	if len(out)+len(f.images) > maxBases {
		return nil, &Error{Line: 1, What: fmt.Sprintf("it names more than %d images", maxBases)}
	}
	return out, nil
}

// Resolve says what a base is. The error, an *Error, is a mistake in the image's triggers.
func (f *File) Resolve(b Base, img Image) error {
	f.images[b] = img
	for i, s := range f.stages {
		if s.base == b && s.base.Name != "" {
			if s.replaced && len(img.OnBuild) > 0 {
				f.problem(s.from.line(), "build-onbuild", "use an image without triggers as the context", "the image %s, which takes the place of the stage %s, has triggers", b.Name, s.name)
			}
			if err := f.takeTriggers(s, img.OnBuild); err != nil {
				return err
			}
		}
		for _, in := range s.commands {
			if !slices.ContainsFunc(in.refs, func(r ref) bool { return r.base == b && b.Name != "" }) {
				continue
			}
			// It is no base here, and its triggers do not run; but newer Engines fetch what they name.
			for _, text := range img.OnBuild {
				if _, err := f.checkTrigger(text, i, in.line()); err != nil {
					return err
				}
			}
		}
	}
	f.reach()
	return nil
}

// takeTriggers reads the ONBUILD instructions that a stage runs before its own.
func (f *File) takeTriggers(s *stage, triggers []string) error {
	for _, text := range triggers {
		in, err := f.checkTrigger(text, slices.Index(f.stages, s), s.from.line())
		if err != nil {
			return err
		}
		f.forbidden(in, s.from.line())
		s.triggers = append(s.triggers, in)
	}
	return nil
}

// checkTrigger reads an ONBUILD instruction of an image that a line of a stage names. It cannot be rewritten, because it
// is in the image: what would need that is forbidden.
func (f *File) checkTrigger(text string, stage, line int) (*instruction, error) {
	if err := f.count(line); err != nil {
		return nil, err
	}
	in, err := f.readTrigger(text, stage)
	if err == nil {
		err = f.linkCommand(stage, in)
	}
	if err != nil {
		return nil, &Error{Line: line, What: fmt.Sprintf("the base image's trigger ONBUILD %s: %v", text, err)}
	}
	for _, r := range in.refs {
		if r.base.Name != "" {
			f.problem(line, "build-onbuild", "name the image in the Dockerfile, as a stage called "+r.name,
				"the base image's trigger ONBUILD %s takes from the image %s, which nobody checked", text, r.name)
		}
	}
	if add, ok := in.cmd.(*instructions.AddCommand); ok && slices.ContainsFunc(add.SourcePaths, perhapsRemote) {
		f.problem(line, "build-onbuild", "use a base image without it, and write the ADD in the Dockerfile",
			"the base image's trigger ONBUILD %s may fetch from an address that is not known before", text)
	}
	return in, nil
}

// perhapsRemote reports a source of ADD of which a variable may make an address. What variables are worth, the Engine's
// versions do not all agree on.
func perhapsRemote(src string) bool {
	before, _, ok := strings.Cut(src, "$")
	folder := strings.HasPrefix(before, "/") || strings.HasPrefix(before, "./")
	return ok && !folder
}

// readTrigger parses one trigger. It is parsed by the Engine as a Dockerfile of its own, in its own version's way: only
// what all versions read alike is taken.
func (f *File) readTrigger(text string, stage int) (*instruction, error) {
	parsed, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	if len(parsed.AST.Children) != 1 {
		return nil, fmt.Errorf("it is not one instruction")
	}
	n := parsed.AST.Children[0]
	if strings.HasPrefix(strings.TrimSpace(text), "#") || strings.ContainsRune(text, '\n') && len(n.Heredocs) == 0 {
		return nil, fmt.Errorf("it has several lines")
	}
	if flags, _ := splitFlags(n.Original, '\\'); strings.ContainsAny(flags, "\\`'\"") {
		return nil, fmt.Errorf("its flags have quotes")
	}
	if err := f.ambiguous(n); err != nil {
		return nil, err
	}
	n.PrevComment = nil
	cmd, err := instructions.ParseCommand(n)
	if err != nil {
		return nil, err
	}
	if _, ok := cmd.(*instructions.OnbuildCommand); ok { // no Dockerfile can say that, but docker commit can
		return nil, fmt.Errorf("it has a trigger of its own, which some versions of the Engine would run")
	}
	return &instruction{node: n, cmd: cmd, stage: stage}, nil
}
