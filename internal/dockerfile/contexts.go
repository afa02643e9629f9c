package dockerfile

import (
	"strings"

	"github.com/distribution/reference"
)

// Context is what a named context stands for: docker buildx build --build-context NAME=…
type Context struct {
	// Image is an image that takes the name's place, "" = files from elsewhere.
	Image string
	// Name is what the checked copy calls files from elsewhere.
	Name string
}

// context finds the named context that BuildKit finds for a name and a platform, if there is one. Stages are not looked at.
//
// BuildKit: frontend/dockerui, NamedContext: the name in its familiar form, first with the platform, and without :latest.
func (f *File) context(name, platform string) (Context, bool) {
	if len(f.o.Contexts) == 0 {
		return Context{}, false
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return Context{}, false
	}
	name = strings.TrimSuffix(reference.FamiliarString(named), ":latest")
	if c, ok := f.o.Contexts[name+"::"+platform]; ok {
		return c, true
	}
	c, ok := f.o.Contexts[name]
	return c, ok
}

// replace puts a context in the place of a stage that has its name: what the stage's own lines say does not count.
func (f *File) replace(s *stage, c Context) error {
	s.replaced, s.commands = true, nil
	if c.Image == "" {
		s.elsewhere = c.Name
		return nil
	}
	return f.takeImage(s, c.Image)
}

// takeImage makes a stage from an image.
func (f *File) takeImage(s *stage, name string) error {
	if name == scratch {
		s.scratch = true
		return nil
	}
	s.base = Base{name, f.platformOf(s)}
	return f.checkName(name, s.from.line())
}

// platformOf is the platform that a stage is for.
func (f *File) platformOf(s *stage) string {
	if s.platform == "" {
		return f.o.TargetPlatform
	}
	return s.platform
}

// stageContext is the context that has a stage's name.
func (f *File) stageContext(s *stage) (Context, bool) {
	if s.name == "" {
		return Context{}, false
	}
	return f.context(s.name, f.platformOf(s))
}

// lines is where a written instruction is in the copy, and where it was.
type lines struct{ copyFrom, copyTo, from, to int }

// Source is the Dockerfile as it was written.
func (f *File) Source() []byte { return f.src }

// Line says which lines of the Dockerfile a line of the copy is, 0 = none. Rewrite must have been called.
func (f *File) Line(n int) (from, to int) {
	for _, l := range f.lines {
		if l.copyFrom <= n && n <= l.copyTo {
			if l.copyFrom == l.copyTo || l.to-l.from != l.copyTo-l.copyFrom {
				return l.from, l.to
			}
			return l.from + n - l.copyFrom, l.from + n - l.copyFrom // line by line: a here-document
		}
	}
	return 0, 0
}
