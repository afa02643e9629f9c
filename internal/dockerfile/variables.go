package dockerfile

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// env are variables.
type env map[string]string

// Keys is for the expansion's messages.
func (e env) Keys() []string { return slices.Sorted(maps.Keys(e)) }

// What the expansion of variables may handle: a few lines, each of which has the one before twice, would make more than there
// is memory. A substitution has its replacement as often as its pattern is found.
const (
	maxExpanded    = 32 << 20
	maxSubstituted = 4 << 10
)

var substitution = regexp.MustCompile(`\$\{(\w+|.)/`)

// expand replaces variables in a word.
func (f *File) expand(word string, e env) (string, error) {
	limit := maxExpanded - f.expanded
	if at := substitution.FindStringIndex(word); at != nil {
		if strings.Contains(word[at[1]:], "$") {
			return "", fmt.Errorf("there is a variable in or behind the substitution %s…: give its result a name with ARG first", word[at[0]:at[1]])
		}
		limit = min(limit, maxSubstituted)
	}
	m := &metered{e, limit - len(word)}
	result := ""
	var err error
	if m.left >= 0 {
		result, _, err = f.lex.ProcessWord(word, m)
	}
	if m.left < 0 {
		return "", fmt.Errorf("its variables are too long")
	}
	f.expanded += limit - m.left + len(result)
	return result, err
}

// metered are variables of which only so much is read.
type metered struct {
	env
	left int // in bytes; less than none: there was more
}

// Get is how the expansion reads it.
func (m *metered) Get(key string) (string, bool) {
	v, ok := m.env[key]
	if m.left -= len(v); m.left < 0 {
		return "", ok
	}
	return v, ok
}

// readGlobals gives the arguments above the first FROM their values, after the platform's.
func (f *File) readGlobals() error {
	f.globals = env{}
	for _, p := range []struct{ prefix, platform string }{{"BUILD", f.o.BuildPlatform}, {"TARGET", f.o.TargetPlatform}} {
		parts := append(strings.SplitN(p.platform, "/", 3), "", "", "")
		f.globals[p.prefix+"PLATFORM"] = p.platform
		f.globals[p.prefix+"OS"], f.globals[p.prefix+"ARCH"], f.globals[p.prefix+"VARIANT"] = parts[0], parts[1], parts[2]
		f.globals[p.prefix+"OSVERSION"] = ""
	}
	f.globals["TARGETSTAGE"] = f.o.Target
	if f.o.Target == "" {
		f.globals["TARGETSTAGE"] = f.stages[len(f.stages)-1].name
	}
	if f.globals["TARGETSTAGE"] == "" {
		f.globals["TARGETSTAGE"] = "default"
	}
	for k := range f.globals {
		if v, ok := f.o.BuildArgs[k]; ok {
			f.globals[k] = v
		}
	}
	for _, in := range f.all {
		if in.stage >= 0 {
			break
		}
		for _, arg := range in.cmd.(*instructions.ArgCommand).Args {
			v, ok := f.o.BuildArgs[arg.Key]
			if !ok && arg.Value == nil {
				continue
			}
			if !ok {
				if arg.Key == epoch && strings.Contains(*arg.Value, "$") {
					// Of the platform's arguments the Engine may think otherwise: x86_64 is amd64 there.
					return notEpoch(*arg.Value, in.line())
				}
				var err error
				if v, err = f.expand(*arg.Value, f.globals); err != nil {
					return f.mistake(err, in.line())
				}
			}
			f.globals[arg.Key] = v
		}
	}
	v, ok := f.o.BuildArgs[epoch]
	if !ok {
		v = f.globals[epoch]
	}
	if strings.Trim(v, "0123456789") != "" {
		return notEpoch(v, 1)
	}
	return nil
}

// epoch is the argument that newer Engines take for a URL or a repository if it is no number.
const epoch = "SOURCE_DATE_EPOCH"

func notEpoch(value string, line int) error {
	return &Error{Line: line, What: fmt.Sprintf("%s is %q", epoch, value), Cure: "it must be a number of seconds"}
}

// Remote is something that a build fetches from the network.
type Remote struct {
	URL  string
	Line int
	Git  bool
}

// Remotes are what ADD fetches in what is built. All bases must be resolved: their variables can be part of a URL.
func (f *File) Remotes() ([]Remote, error) {
	var out []Remote
	envs := make([]env, len(f.stages))
	for i, s := range f.stages {
		if !s.needed {
			continue
		}
		e := env{}
		if s.baseStage >= 0 {
			maps.Copy(e, envs[s.baseStage])
		}
		for _, kv := range f.images[s.base].Env {
			k, v, _ := strings.Cut(kv, "=")
			e[k] = v
		}
		for _, in := range slices.Concat(s.triggers, s.commands) {
			found, err := f.step(in, e)
			if err != nil {
				return nil, err
			}
			out = append(out, found...)
		}
		envs[i] = e
	}
	return out, nil
}

// step follows the variables through one instruction, and returns what it fetches.
func (f *File) step(in *instruction, e env) ([]Remote, error) {
	switch c := in.cmd.(type) {
	case *instructions.EnvCommand:
		next := env{}
		for _, kv := range c.Env {
			k, err := f.expand(kv.Key, e)
			if err != nil {
				return nil, f.mistake(err, in.line())
			}
			if next[k], err = f.expand(kv.Value, e); err != nil {
				return nil, f.mistake(err, in.line())
			}
		}
		maps.Copy(e, next)
	case *instructions.ArgCommand:
		for _, arg := range c.Args {
			if err := f.setArg(arg, e); err != nil {
				return nil, f.mistake(err, in.line())
			}
		}
	case *instructions.AddCommand:
		var out []Remote
		var sources []string
		variable := false
		for _, src := range c.SourcePaths {
			v, err := f.expand(src, e)
			if err != nil {
				return nil, f.mistake(err, in.line())
			}
			sources = append(sources, v)
			variable = variable || strings.Contains(src, "$")
			if r, ok := remote(v); ok {
				r.Line = in.line()
				out = append(out, r)
			}
		}
		if variable && len(c.SourceContents) > 0 {
			return nil, &Error{Line: in.line(), What: "ADD has a here-document and a variable source", Cure: "write two instructions"}
		}
		if variable {
			in.sources = sources
		}
		return out, nil
	}
	return nil, nil
}

func (f *File) setArg(arg instructions.KeyValuePairOptional, e env) error {
	v, ok := f.o.BuildArgs[arg.Key]
	if !ok && arg.Value != nil {
		var err error
		if v, err = f.expand(*arg.Value, e); err != nil {
			return err
		}
		ok = true
	} else if !ok {
		v, ok = f.globals[arg.Key]
	}
	if ok {
		e[arg.Key] = v
	}
	return nil
}

// remote says whether a source of ADD is on the network, whatever the Engine's version makes of it.
func remote(src string) (Remote, bool) {
	lower := strings.ToLower(src)
	web := strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://")
	if u, err := url.Parse(src); web && err == nil && !strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), ".git") && u.Fragment == "" {
		return Remote{URL: src}, true
	}
	if web || strings.Contains(lower, "://") || strings.HasPrefix(lower, "git@") || strings.HasPrefix(lower, "github.com/") {
		return Remote{URL: src, Git: true}, true
	}
	if g, _, err := dfgitutil.ParseGitRef(src); err == nil && g != nil {
		return Remote{URL: src, Git: true}, true
	}
	return Remote{}, false
}
