package dockerfile

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestContexts puts named contexts where BuildKit would: in the place of images and of whole stages, but not of stages that
// came before.
func TestContexts(t *testing.T) {
	t.Parallel()
	image, files := Context{Image: "ground:1"}, Context{Name: "elsewhere"}
	for _, c := range []struct {
		name, src string
		contexts  map[string]Context
		bases     []string
		copied    string
	}{
		{"an image", "FROM alpine\nRUN a\n", map[string]Context{"alpine": image}, []string{"ground:1"}, "FROM ours/ground:1\nRUN a\n"},
		{"by its whole name", "FROM docker.io/library/alpine:latest\n", map[string]Context{"alpine": image}, []string{"ground:1"}, "FROM ours/ground:1\n"},
		{"another tag", "FROM alpine:3\n", map[string]Context{"alpine": image}, []string{"alpine:3"}, "FROM ours/alpine:3\n"},
		{"a tag", "FROM alpine:3\n", map[string]Context{"alpine:3": image}, []string{"ground:1"}, "FROM ours/ground:1\n"},
		{"a platform", "FROM --platform=linux/arm64 alpine\n", map[string]Context{"alpine::linux/arm64": image}, []string{"ground:1"}, "FROM --platform=linux/arm64 ours/ground:1\n"},
		{"another platform", "FROM alpine\n", map[string]Context{"alpine::linux/arm64": image}, []string{"alpine"}, "FROM ours/alpine\n"},
		{
			"a folder", "FROM extra\nCOPY --from=extra a b\nRUN --mount=type=bind,from=extra,target=/x c\n",
			map[string]Context{"extra": files},
			nil,
			"FROM elsewhere\nCOPY --from=elsewhere a b\nRUN --mount=type=bind,from=elsewhere,target=/x c\n",
		},
		{
			"a stage before", "FROM one AS extra\nFROM two\nCOPY --from=extra a b\n",
			map[string]Context{"two": image},
			[]string{"one", "ground:1"},
			"FROM ours/one AS extra\nFROM ours/ground:1\nCOPY --from=extra a b\n",
		},
		{
			"a stage", "FROM secret AS extra\nRUN lost\nFROM one\nCOPY --from=extra a b\n",
			map[string]Context{"extra": files},
			[]string{"one"},
			"FROM elsewhere AS extra\n\nFROM ours/one\nCOPY --from=extra a b\n",
		},
		{"a stage by an image", "FROM secret AS extra\nRUN lost\nFROM extra\n", map[string]Context{"extra": image}, []string{"ground:1"}, "FROM ours/ground:1 AS extra\n\nFROM extra\n"},
		{"nothing", "FROM alpine\nCOPY --from=alpine a b\n", map[string]Context{"alpine": {Image: "scratch"}}, nil, "FROM scratch\nCOPY --from=scratch a b\n"},
		{"scratch", "FROM scratch\n", map[string]Context{"scratch": image}, nil, "FROM scratch\n"},
		{"by argument", "ARG X=alpine\nFROM $X\n", map[string]Context{"alpine": files}, nil, "ARG X=alpine\nFROM elsewhere\n"},
		{"a number", "FROM one AS a\nFROM two\nCOPY --from=0 a b\n", map[string]Context{"0": image}, []string{"one", "two"}, "FROM ours/one AS a\nFROM ours/two\nCOPY --from=0 a b\n"},
	} {
		f, err := Read([]byte(c.src), Options{BuildPlatform: "linux/amd64", Contexts: c.contexts})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var bases []string
		all, err := f.Bases()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			bases = append(bases, b.Name)
			if err := f.Resolve(b, Image{Name: "ours/" + b.Name}); err != nil {
				t.Fatal(err)
			}
		}
		copied, err := f.Rewrite()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.bases, bases); diff != "" {
			t.Errorf("%s: bases:\n%s", c.name, diff)
		}
		if diff := cmp.Diff(c.copied, string(copied)); diff != "" {
			t.Errorf("%s: the copy:\n%s", c.name, diff)
		}
	}
}

// TestContextWithTriggers: BuildKit does not run the triggers of an image that takes the place of a stage, and the copy
// would.
func TestContextWithTriggers(t *testing.T) {
	t.Parallel()
	f, err := Read([]byte("FROM one AS extra\nFROM extra\n"), Options{BuildPlatform: "linux/amd64", Contexts: map[string]Context{"extra": {Image: "ground"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Resolve(Base{"ground", "linux/amd64"}, Image{Name: "x", OnBuild: []string{"RUN a"}}); err != nil {
		t.Fatal(err)
	}
	if p := f.Problems(); len(p) != 1 || p[0].Rule != "build-onbuild" {
		t.Error(p)
	}
}

// TestLines finds the lines of the Dockerfile by those of its copy.
func TestLines(t *testing.T) {
	t.Parallel()
	src := "# syntax=x\n# a comment\nFROM one\n\nRUN a \\\n  b \\\n  c\n# between\nRUN <<E\nfirst\nsecond\nE\nRUN last\n"
	f, err := Read([]byte(src), Options{BuildPlatform: "linux/amd64", Heredocs: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Resolve(Base{"one", "linux/amd64"}, Image{Name: "ours"}); err != nil {
		t.Fatal(err)
	}
	copied, err := f.Rewrite()
	if err != nil {
		t.Fatal(err)
	}
	if string(f.Source()) != src {
		t.Error("the source is another one")
	}
	written := strings.Split(src, "\n")
	for i, line := range strings.Split(string(copied), "\n") {
		from, to := f.Line(i + 1)
		switch {
		case line == "":
			if from != 0 || to != 0 {
				t.Errorf("line %d of the copy is empty, and stands for %d to %d", i+1, from, to)
			}
		case strings.HasPrefix(line, "RUN a"):
			if from != 5 || to != 7 {
				t.Errorf("%q is %d to %d", line, from, to)
			}
		case strings.HasPrefix(line, "FROM"):
			if from != 3 || to != 3 {
				t.Errorf("%q is %d to %d", line, from, to)
			}
		case from != to || written[from-1] != line:
			t.Errorf("%q is %d to %d", line, from, to)
		}
	}
}
