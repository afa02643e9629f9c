package dockerfile

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var platform = Options{BuildPlatform: "linux/amd64", Heredocs: true}

// resolve gives each base a name that tells it: alias/<name>.
func resolve(f *File, images map[string]Image) error {
	for {
		bases, err := f.Bases()
		if err != nil || len(bases) == 0 {
			return err
		}
		for _, b := range bases {
			img := images[b.Name]
			img.Name = alias(b)
			if err := f.Resolve(b, img); err != nil {
				return err
			}
		}
	}
}

func alias(b Base) string {
	return fmt.Sprintf("alias.local/x%x:1", b.Name+b.Platform)
}

// copied is the checked copy with the written names of images in angles.
func copied(t *testing.T, src string, o Options, images map[string]Image) string {
	t.Helper()
	f, err := Read([]byte(src), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := resolve(f, images); err != nil {
		t.Fatal(err)
	}
	out, err := f.Rewrite()
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	for a, name := range f.Written() {
		text = strings.ReplaceAll(text, a, "<"+name+">")
	}
	return text
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o         Options
		src, want string
	}{
		"plain": {src: "FROM alpine:3\nRUN make\n", want: "FROM <alpine:3>\nRUN make\n"},
		"lines are kept, continuations joined": {
			src:  "\xef\xbb\xbf# a comment\n\nFROM alpine\nRUN a && \\\n  # inside\n\n  b\nCMD x",
			want: "\n\nFROM <alpine>\nRUN a &&   b\n\n\n\nCMD x\n",
		},
		"syntax":                  {src: "# syntax=docker/dockerfile:1\n# escape=`\nFROM alpine\nRUN a `\n b\n", want: "# escape=`\n\nFROM <alpine>\nRUN a  b\n"},
		"syntax behind a shebang": {src: "#!/bin/x\n# syntax=evil/x\nFROM alpine\n", want: "\n\nFROM <alpine>\n"},
		"check":                   {src: "#check=skip=all\nFROM alpine\n", want: "# check=skip=all\nFROM <alpine>\n"},
		"arguments": {
			o:    Options{BuildArgs: map[string]string{"TAG": "9"}},
			src:  "ARG TAG=1\nARG IMG=alpine:${TAG}\nARG X=${IMG}-$TARGETARCH\nFROM --platform=$BUILDPLATFORM ${X:-no}\n",
			want: "ARG TAG=1\nARG IMG=alpine:${TAG}\nARG X=${IMG}-$TARGETARCH\nFROM --platform=linux/amd64 <alpine:9-amd64>\n",
		},
		"stages": {
			src:  "FROM golang AS Build\nRUN make\nFROM scratch\nCOPY --from=BUILD /a /a\nCOPY --chown=1:1 --from=0 /b /b\nFROM build\nCOPY --from=nginx:1 /c /c\nCOPY --from=1 /a /\n",
			want: "FROM <golang> AS build\nRUN make\nFROM scratch\nCOPY --from=BUILD /a /a\nCOPY --chown=1:1 --from=0 /b /b\nFROM build\nCOPY --from=<nginx:1> /c /c\nCOPY --from=1 /a /\n",
		},
		"what the target does not need is left out": {
			o:    Options{Target: "a"},
			src:  "FROM one AS a\nFROM two AS b\nRUN --network=host x\nCOPY --from=three / /\nFROM a\n",
			want: "FROM <one> AS a\nFROM scratch AS b\n\n\nFROM scratch\n",
		},
		"mounts": {
			src:  "FROM a\nRUN --mount=type=bind,from=b,target=/x --mount=type=cache,target=/c --mount=from=c,FROM=d,target=/y -- --odd\n",
			want: "FROM <a>\nRUN --mount=type=bind,from=<b>,target=/x --mount=type=cache,target=/c --mount=from=c,from=<d>,target=/y -- --odd\n",
		},
		"quoted flags": {src: "FROM a\nCOPY --from=\"b\" --chown='x y' y z\n", want: "FROM <a>\nCOPY --from=<b> --\"chown=x y\" y z\n"},
		"here-document": {
			src:  "FROM a\nRUN <<-EOF cat\n\t# not a comment\n\tFROM x \\\n\tEOF\nCOPY <<\"A\" <<B /d/\n1\nA\n2\nB\n",
			want: "FROM <a>\nRUN <<-EOF cat\n\t# not a comment\n\tFROM x \\\nEOF\nCOPY <<\"A\" <<B /d/\n1\nA\n2\nB\n",
		},
		"add": {
			src:  "FROM a\nARG V=1\nENV U=http://h/$V\nADD --chown=1 $U/\\$x 'lit$U' $V/ # d\n",
			want: "FROM <a>\nARG V=1\nENV U=http://h/$V\nADD --chown=1 [\"http://h/1/\\\\$x\",\"lit\\\\$U\",\"1/\",\"#\",\"d\"]\n",
		},
		"a long line": {
			src:  "FROM a\nRUN x \\\n" + strings.Repeat("  #c\n  "+strings.Repeat("y", 9000)+" && \\\n", 20) + " z\n",
			want: "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.o.BuildPlatform, c.o.Heredocs = "linux/amd64", true
			got := copied(t, c.src, c.o, nil)
			if diff := cmp.Diff(c.want, got); diff != "" && c.want != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o    Options
		src  string
		line int
		want string
	}{
		"unknown":             {src: "FROM a\nFOO b\n", line: 2, want: "unknown instruction: FOO"},
		"foreign syntax":      {src: "# syntax=my/front\nFROM a\n\nFOO b\n", line: 4, want: "my/front"},
		"no from":             {src: "ARG a\n", line: 1, want: "no FROM"},
		"run first":           {src: "ARG a\nRUN b\n", line: 2, want: "FROM"},
		"blank base":          {src: "ARG X\nFROM $X\n", line: 2, want: "blank"},
		"bad base":            {src: "FROM a\nFROM Alpine\n", line: 2, want: "lowercase"},
		"later stage":         {src: "FROM a\nCOPY --from=b / /\nFROM c AS b\n", line: 2, want: "defined before"},
		"bad index":           {src: "FROM a\nCOPY --from=1 / /\nCOPY --from=x / /\n", line: 2, want: "index"},
		"variable in from":    {src: "FROM a\nCOPY --from=$X / /\n", line: 2, want: "variable"},
		"no target":           {o: Options{Target: "b"}, src: "FROM a\n", line: 1, want: `"b"`},
		"here-document":       {o: Options{BuildArgs: map[string]string{"old": ""}}, src: "FROM a\nRUN <<EOF\nCOPY --from=x / /\nEOF\n", line: 2, want: "23.0"},
		"odd here-document":   {src: "FROM a\nRUN cat ${x#y} <<RUN\nCOPY --from=x / /\nRUN\n", line: 2, want: "here-document"},
		"odd here-document 2": {src: "FROM a\nRUN cat \\<<RUN\nFROM x AS y\nRUN\n", line: 2, want: "here-document"},
		"escape by backtick":  {src: "# escape=`\nFROM a\nRUN --mount=type=bind,x=\\\" \"--from=b x\n", line: 3, want: "escaped"},
		"JSON and more":       {src: "FROM a\nADD [\"http://x/\",\"/y\"] z\n", line: 2, want: "JSON"},
		"mount in quotes":     {src: "FROM a\nRUN --mount='type=bind,\"from=x\"' y\n", line: 2, want: "quotes"},
		"epoch":               {src: "ARG SOURCE_DATE_EPOCH=http://10.0.0.1/\nFROM a\n", line: 1, want: "SOURCE_DATE_EPOCH"},
		"epoch by platform":   {o: Options{TargetPlatform: "linux/x86_64"}, src: "ARG A=${TARGETARCH/amd64/http:\\/\\/10.0.0.1\\/}\nARG SOURCE_DATE_EPOCH=${A%x86_64}\nFROM a\n", line: 2, want: "SOURCE_DATE_EPOCH"},
		"epoch by argument":   {o: Options{BuildArgs: map[string]string{"SOURCE_DATE_EPOCH": "context"}}, src: "FROM a\n", line: 1, want: "SOURCE_DATE_EPOCH"},
		"doubled":             {src: "ARG A=xxxxxxxxxxxxxxxx\n" + strings.Repeat("ARG A=$A$A\n", 60) + "FROM a\n", line: 21, want: "too long"},
		"multiplied":          {src: "ARG A=xxxxxxxxxxxxxxxx\n" + strings.Repeat("ARG A=${A//x/xxxxxxxxxxxxxxxx}\n", 60) + "FROM a\n", line: 4, want: "too long"},
		"nested":              {src: "ARG A=xxxxxxxxxxxxxxxx\nFROM ${A//x/${A//x/${A//x/${A//x/$A}}}}\n", line: 2, want: "substitution"},
		"zero":                {src: "FROM a\nRUN \x00\n", line: 1, want: "text"},
		"empty":               {src: "", line: 1, want: "no instructions"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, c.o.Heredocs = c.o.BuildArgs["old"]
			c.o.BuildPlatform, c.o.Heredocs = "linux/amd64", !c.o.Heredocs
			_, err := Read([]byte(c.src), c.o)
			var e *Error
			if !errors.As(err, &e) || e.Line != c.line || !strings.Contains(e.Error(), c.want) || e.Rule != "" {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		src, target string
		images      map[string]Image
		want        []string
	}{
		"host":          {src: "FROM a\nRUN --network=host x\nRUN --network=none x\n", want: []string{"build-network-host 2"}},
		"insecure":      {src: "FROM a\nRUN --security=insecure x\n", want: []string{"build-insecure 2"}},
		"device":        {src: "FROM a\nRUN --device=x y\n", want: []string{"build-device 2"}},
		"not built":     {src: "FROM a AS t\nFROM b\nRUN --network=host x\n", target: "t"},
		"trigger":       {src: "FROM a\n", images: map[string]Image{"a": {OnBuild: []string{"COPY --from=victim / /"}}}, want: []string{"build-onbuild 1"}},
		"mount trigger": {src: "FROM a\n", images: map[string]Image{"a": {OnBuild: []string{"RUN --mount=from=victim x"}}}, want: []string{"build-onbuild 1"}},
		"host trigger":  {src: "FROM a\n", images: map[string]Image{"a": {OnBuild: []string{"RUN --network=host x"}}}, want: []string{"build-network-host 1"}},
		"stage trigger": {src: "FROM b AS src\nFROM a\n", images: map[string]Image{"a": {OnBuild: []string{"COPY --from=src / /"}}}},
		"own trigger":   {src: "FROM a AS x\nONBUILD COPY --from=victim / /\nFROM x\n", want: []string{"build-onbuild 3"}},
		"not a base":    {src: "FROM b\nCOPY --from=a / /\n", images: map[string]Image{"a": {OnBuild: []string{"COPY --from=victim / /"}}}, want: []string{"build-onbuild 2"}},
		"mounted":       {src: "FROM b\nRUN --mount=from=a x\n", images: map[string]Image{"a": {OnBuild: []string{"COPY --from=victim / /"}}}, want: []string{"build-onbuild 2"}},
		// What TARGETSTAGE is worth depends on the Engine.
		"trigger's address": {src: "FROM a AS example.com\n", images: map[string]Image{"a": {OnBuild: []string{"ARG TARGETSTAGE", "ADD http://${TARGETSTAGE:-10.0.0.1} /"}}}, want: []string{"build-onbuild 1"}},
		"trigger's folder":  {src: "FROM a\n", images: map[string]Image{"a": {OnBuild: []string{"ADD ./$X /", "COPY $X /"}}}},
		"stored":            {src: "FROM a AS x\nONBUILD COPY --from=victim / /\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := platform
			o.Target = c.target
			f, err := Read([]byte(c.src), o)
			if err != nil {
				t.Fatal(err)
			}
			if err := resolve(f, c.images); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range f.Problems() {
				got = append(got, fmt.Sprintf("%s %d", p.Rule, p.Line))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTriggerOfTrigger: newer Engines run what a trigger of a stage's base asks of those that are made from the stage, if
// they come to read it before.
func TestTriggerOfTrigger(t *testing.T) {
	t.Parallel()
	f, err := Read([]byte("FROM a AS x\nFROM x\n"), platform)
	if err != nil {
		t.Fatal(err)
	}
	err = resolve(f, map[string]Image{"a": {OnBuild: []string{"onbuild COPY --from=victim / /"}}})
	if err == nil || !strings.Contains(err.Error(), "a trigger of its own") {
		t.Error(err)
	}
}

// TestTriggerNeeds: a trigger can make a stage needed that was not.
func TestTriggerNeeds(t *testing.T) {
	t.Parallel()
	got := copied(t, "FROM b AS src\nFROM a\n", platform, map[string]Image{"a": {OnBuild: []string{"COPY --from=src / /"}}})
	if want := "FROM <b> AS src\nFROM <a>\n"; got != want {
		t.Error(got)
	}
}

// TestBounds: what is small as a text can be large for who reads it.
func TestBounds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ src, want string }{
		"stages":    {"FROM scratch\n" + strings.Repeat("FROM a\n", 400_000), "instructions"},
		"triggers":  {strings.Repeat("FROM a\n", 200), "instructions"},
		"variables": {"FROM b AS t0\nENV" + manyVariables() + "\n" + chain(5000), "too many variables"},
	} {
		f, err := Read([]byte(c.src), platform)
		if err == nil {
			err = resolve(f, map[string]Image{"a": {OnBuild: slices.Repeat([]string{"RUN x"}, 100)}})
		}
		if err == nil {
			_, err = f.Remotes()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyVariables() string {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, " v%d=x", i)
	}
	return b.String()
}

func chain(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "FROM t%d AS t%d\n", i, i+1)
	}
	return b.String()
}

func TestRemotes(t *testing.T) {
	t.Parallel()
	src := "FROM a AS x\nARG H\nADD $H/f local /\nADD HTTP://u/ /\nFROM x\nADD git@github.com:a/b.git /\n" +
		"ADD https://h/r.git /\nADD https://h/f#x /\nADD https://h/f?x /\nADD github.com/a/b /\nADD ssh://h/x /\nADD $I /\nCOPY http /\n"
	o := platform
	o.BuildArgs = map[string]string{"H": "https://b"}
	f, err := Read([]byte(src), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := resolve(f, map[string]Image{"a": {Env: []string{"I=http://10.0.0.1/"}, OnBuild: []string{"ADD http://trigger/ /"}}}); err != nil {
		t.Fatal(err)
	}
	got, err := f.Remotes()
	if err != nil {
		t.Fatal(err)
	}
	want := []Remote{
		{URL: "http://trigger/", Line: 1},
		{URL: "https://b/f", Line: 3},
		{URL: "HTTP://u/", Line: 4},
		{URL: "git@github.com:a/b.git", Line: 6, Git: true},
		{URL: "https://h/r.git", Line: 7, Git: true},
		{URL: "https://h/f#x", Line: 8, Git: true},
		{URL: "https://h/f?x", Line: 9},
		{URL: "github.com/a/b", Line: 10, Git: true},
		{URL: "ssh://h/x", Line: 11, Git: true},
		{URL: "http://10.0.0.1/", Line: 12},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestInstructions(t *testing.T) {
	t.Parallel()
	o := platform
	o.Target = "x"
	f, err := Read([]byte("ARG A\nFROM a AS x\nrun a \\\n b\nFROM c\nCOPY a $B /\nCOPY --from=x /a /\nCOPY --from=d /a /\nADD https://example.com/a d/* /\n"+
		"RUN --mount=type=bind,source=e,target=/e --mount=type=cache,target=/c --mount=type=bind,from=x,target=/x true\n"), o)
	if err != nil {
		t.Fatal(err)
	}
	want := []Instruction{
		{Text: "ARG A", Keyword: "ARG", Line: 1, Stage: -1, Needed: true},
		{Text: "FROM a AS x", Keyword: "FROM", Line: 2, Needed: true, Base: "a"},
		{Text: "run a  b", Keyword: "RUN", Line: 3, Needed: true},
		{Text: "FROM c", Keyword: "FROM", Line: 5, Stage: 1, Base: "c"},
		{Text: "COPY a $B /", Keyword: "COPY", Line: 6, Stage: 1, Sources: []string{"a", "."}},
		{Text: "COPY --from=x /a /", Keyword: "COPY", Line: 7, Stage: 1, Stages: []int{0}},
		{Text: "COPY --from=d /a /", Keyword: "COPY", Line: 8, Stage: 1, Images: []string{"d"}},
		{Text: "ADD https://example.com/a d/* /", Keyword: "ADD", Line: 9, Stage: 1, Sources: []string{"d/*"}},
		{
			Text: "RUN --mount=type=bind,source=e,target=/e --mount=type=cache,target=/c --mount=type=bind,from=x,target=/x true", Keyword: "RUN", Line: 10, Stage: 1,
			Sources: []string{"e"}, Stages: []int{0},
		},
	}
	if diff := cmp.Diff(want, f.Instructions()); diff != "" {
		t.Error(diff)
	}
}

// FuzzRewrite: no panic; the copy read again has the same instructions, and names no image but the given ones.
func FuzzRewrite(f *testing.F) {
	for _, s := range []string{
		"FROM a\nRUN --mount=type=bind,from=b x\nCOPY --from=c / /\n", "# escape=`\nARG X=1\nFROM a:$X AS b\nADD $X \"y z\" /\nFROM b\n",
		"FROM a\nRUN <<EOF cat <<A\nx\nEOF\ny\nA\nONBUILD COPY <<E /x\nz\nE\n", "FROM a\nRUN x \\\n# y\n\n  z\\\n", "FROM a\nCOPY --chown=\"a b\" '--from=d' -- --x y\n",
		"FROM a\nRUN [\"x\", \"y\"]\nENV a=b c\nHEALTHCHECK --interval=5s CMD x\nSHELL [\"a\"]\nLABEL a b\n", "#syntax=x\n# check=skip=all\nFROM scratch AS Y\nFROM --platform=$BUILDPLATFORM y\n",
	} {
		f.Add(s, "x", true)
	}
	f.Fuzz(func(t *testing.T, src, arg string, heredocs bool) {
		o := Options{BuildPlatform: "linux/amd64", BuildArgs: map[string]string{"X": arg}, Heredocs: heredocs}
		file, err := Read([]byte(src), o)
		if err != nil || resolve(file, map[string]Image{"a": {OnBuild: []string{arg}, Env: []string{"Y=" + arg}}}) != nil {
			return
		}
		out, err := file.Rewrite()
		if err != nil {
			return
		}
		again, err := Read(out, Options{BuildPlatform: "linux/amd64", BuildArgs: map[string]string{"X": "other" + arg}, Heredocs: heredocs})
		if err != nil {
			t.Fatalf("%v: %q", err, out)
		}
		written := file.Written()
		for _, s := range again.stages {
			for _, b := range s.bases() {
				if _, ok := written[b.Name]; !ok {
					t.Errorf("%q is no name of ours in %q", b.Name, out)
				}
			}
		}
		needed := slices.DeleteFunc(file.Instructions(), func(i Instruction) bool { return !i.Needed && i.Keyword != "FROM" })
		for i, in := range again.Instructions() {
			if in.Keyword != needed[i].Keyword {
				t.Errorf("instruction %d is %q, not %q", i, in.Text, needed[i].Text)
			}
		}
		// The copy fetches what was checked, whatever its variables would be: there are none left.
		for _, st := range file.stages {
			st.triggers = nil
		}
		before, err := file.Remotes()
		if err != nil {
			t.Fatal(err)
		}
		after, err := again.Remotes()
		if err != nil {
			t.Fatalf("%v: %q", err, out)
		}
		urls := func(l []Remote) (out []string) {
			for _, r := range l {
				out = append(out, r.URL)
			}
			return out
		}
		if diff := cmp.Diff(urls(before), urls(after)); diff != "" {
			t.Errorf("%s\n%q", diff, out)
		}
	})
}

func TestSample(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../demo/sample/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	copied(t, string(data), platform, nil)
}
