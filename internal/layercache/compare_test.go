package layercache

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sample is a build of two stages, all of it done.
func sample() *Build {
	return &Build{
		Time: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC),
		Stages: []Stage{
			{Name: "made", Line: 1, Base: -1, Image: "golang", ID: "sha256:1", Needed: true, Steps: []Step{
				{Text: "ARG VERSION", Line: 2},
				{Text: "COPY go.mod cmd /src/", Line: 3, Works: true, Sources: []string{"go.mod", "cmd"}, Outcome: Done, Took: time.Second, Size: 100},
				{Text: "RUN go build", Line: 4, Works: true, Run: true, Outcome: Done, Took: time.Minute, Size: 1000},
			}},
			{Line: 5, Base: -1, Image: "alpine", ID: "sha256:2", Needed: true, Steps: []Step{
				{Text: "COPY --from=made /out /", Line: 6, Works: true, Stages: []int{0}, Outcome: Done},
				{Text: "ADD https://example.com/x /", Line: 7, Works: true, Fetches: true, Outcome: Done},
			}},
		},
		Args:  map[string]string{"VERSION": "digest"},
		Files: Files{"go.mod": {Size: 1, Sum: 1, Summed: true}, "cmd/main.go": {Size: 2, Sum: 2, Summed: true}, "README.md": {Size: 3}},
	}
}

func same(text string) string { return text }

// again is the same build an hour later, with some steps cached: those whose lines are given are not.
func again(lines ...int) *Build {
	b := sample()
	b.Time = b.Time.Add(time.Hour)
	for i := range b.Stages {
		for j := range b.Stages[i].Steps {
			s := &b.Stages[i].Steps[j]
			s.Took, s.Size, s.Outcome = 0, 0, NotReached
			if s.Works {
				s.Outcome = Cached
			}
			for _, l := range lines {
				if s.Line == l {
					s.Outcome, s.Took = Done, time.Second
				}
			}
		}
	}
	return b
}

func (b *Build) step(line int) *Step {
	for i := range b.Stages {
		for j := range b.Stages[i].Steps {
			if s := &b.Stages[i].Steps[j]; s.Line == line {
				return s
			}
		}
	}
	return nil
}

// TestReasons changes one thing in a build and looks what it is told to be.
func TestReasons(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		missed []int // lines
		change func(last, now *Build)
		want   []string // line: why
	}{
		"nothing":      {want: nil},
		"file changed": {missed: []int{3, 4, 6}, change: func(_, now *Build) { now.Files["cmd/main.go"] = File{Size: 5} }, want: []string{"3: changed: cmd/main.go"}},
		"only another file": {missed: []int{3}, change: func(_, now *Build) { now.Files["README.md"] = File{Size: 5} }, want: []string{
			"3: nothing that it is made of has changed; the Engine has probably removed it from its build cache",
		}},
		"file's mode":  {missed: []int{3}, change: func(_, now *Build) { now.Files["go.mod"] = File{Mode: 1, Size: 1, Sum: 1, Summed: true} }, want: []string{"3: changed: go.mod"}},
		"new file":     {missed: []int{3}, change: func(_, now *Build) { now.Files["cmd/x"] = File{} }, want: []string{"3: new: cmd/x"}},
		"file is gone": {missed: []int{3}, change: func(_, now *Build) { delete(now.Files, "cmd/main.go") }, want: []string{"3: gone: cmd/main.go"}},
		"many files": {missed: []int{3}, change: func(_, now *Build) {
			for i := range 9 {
				now.Files[fmt.Sprintf("cmd/%d", i)] = File{}
			}
		}, want: []string{"3: new: cmd/0, cmd/1, cmd/2, cmd/3 and 5 more"}},
		"too many files":        {missed: []int{3}, change: func(_, now *Build) { now.Files = nil }, want: []string{"3: files may have changed; there are too many to say which"}},
		"argument, and it runs": {missed: []int{4, 6}, change: func(_, now *Build) { now.Args["VERSION"] = "other" }, want: []string{"4: the build argument VERSION has another value"}},
		"argument is not given": {missed: []int{4}, change: func(_, now *Build) { now.Args = nil }, want: []string{"4: the build argument VERSION has another value"}},
		"argument that no line declares": {missed: []int{4}, change: func(_, now *Build) { now.Args["OTHER"] = "x" }, want: []string{
			"4: nothing that it is made of has changed; the Engine has probably removed it from its build cache",
		}},
		"base":          {missed: []int{3, 4, 6}, change: func(_, now *Build) { now.Stages[0].ID = "sha256:3" }, want: []string{"3: its base golang is a newer image, or another one"}},
		"base's name":   {missed: []int{3}, change: func(_, now *Build) { now.Stages[0].Image = "golang:2" }, want: []string{"3: it has another base"}},
		"instruction":   {missed: []int{4}, change: func(_, now *Build) { now.step(4).Text = "RUN make" }, want: []string{"4: it is new or has changed"}},
		"one before it": {missed: []int{4}, change: func(_, now *Build) { now.step(2).Text = "ARG VERSION=2" }, want: []string{"4: line 2 before it, ARG VERSION=2, is new or has changed"}},
		"one taken out": {missed: []int{4}, change: func(_, now *Build) {
			now.Stages[0].Steps = append(now.Stages[0].Steps[:1:1], now.Stages[0].Steps[2])
		}, want: []string{"4: an instruction before it was taken out"}},
		"what copies does not see ARG": {missed: []int{3}, change: func(_, now *Build) { now.step(2).Text = "ARG VERSION=2"; now.Files["go.mod"] = File{} }, want: []string{"3: changed: go.mod"}},
		"but by a variable": {missed: []int{3}, change: func(last, now *Build) {
			last.step(3).Text, now.step(3).Text = "COPY $VERSION /", "COPY $VERSION /"
			now.Args = nil
		}, want: []string{"3: the build argument VERSION has another value"}},
		"another image to copy from": {missed: []int{6}, change: func(last, now *Build) {
			last.step(6).Stages, last.step(6).Images = nil, []string{"sha256:1"}
			now.step(6).Stages, now.step(6).Images = nil, []string{"sha256:2"}
		}, want: []string{"6: an image that it takes files from is a newer or another one"}},
		"of another stage":   {missed: []int{6}, want: []string{"6: files that it takes from another stage have changed"}},
		"from the network":   {missed: []int{7}, want: []string{"7: what it fetches may have changed"}},
		"failed before":      {missed: []int{4}, change: func(last, _ *Build) { last.step(4).Outcome = Failed }, want: []string{"4: it failed the last time"}},
		"was not reached":    {missed: []int{4}, change: func(last, _ *Build) { last.step(4).Outcome = NotReached }, want: []string{"4: the last build ended before it"}},
		"two stages at once": {missed: []int{4, 7}, change: func(_, now *Build) { now.step(4).Text = "RUN make" }, want: []string{"4: it is new or has changed", "7: what it fetches may have changed"}},
		"all asked anew":     {missed: []int{3, 4, 6, 7}, change: func(_, now *Build) { now.NoCache = true }},
		"another Dockerfile": {missed: []int{3, 4, 6, 7}, change: func(_, now *Build) {
			for l := range 8 {
				if s := now.step(l); s != nil {
					s.Text += " else"
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			last, now := sample(), again(c.missed...)
			if c.change != nil {
				c.change(last, now)
			}
			var got []string
			for _, m := range now.Compare(last, same).Misses {
				got = append(got, fmt.Sprintf("%d: %s", m.Line, m.Why))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("misses (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSaved: what cached steps took and made when they were last done is known from one build to the next.
func TestSaved(t *testing.T) {
	t.Parallel()
	second := again(6)
	second.Files["README.md"] = File{Size: 3, Time: 4} // is not known to be the same, and no step takes it
	r := second.Compare(sample(), same)
	want := Report{Cached: 3, Total: 4, SavedTime: 61 * time.Second, SavedBytes: 1100, Since: time.Hour, Misses: []Miss{
		{6, "COPY --from=made /out /", "files that it takes from another stage have changed"},
	}}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("second build (-want +got):\n%s", diff)
	}
	third := again()
	if r := third.Compare(second, same); r.SavedTime != 62*time.Second || r.Cached != 4 {
		t.Errorf("third build: %+v", r)
	}
	if diff := cmp.Diff([]string{
		"the build of app:1: 3 of 4 steps cached, which saved about 1m1s; the last one here was about an hour ago",
		"not cached: line 6, COPY --from=made /out /: files that it takes from another stage have changed",
	}, r.Lines("app:1")); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"the build: 0 of 4 steps cached; it is the first one here"}, again(3, 4, 6, 7).Compare(nil, same).Lines("")); diff != "" {
		t.Errorf("lines of a first build (-want +got):\n%s", diff)
	}
	if lines := (&Build{}).Compare(nil, same).Lines("x"); lines != nil {
		t.Errorf("of a build without steps: %q", lines)
	}
}

// TestOnlyGit: what of .git changes with each commit is not worth a list.
func TestOnlyGit(t *testing.T) {
	t.Parallel()
	d := Files{".git/HEAD": {Size: 2}, ".git/index": {}, "a": {}}.since(Files{".git/HEAD": {Size: 1}, "a": {}}, []string{"."})
	if got := (&comparison{shown: same}).files(d); got != "only .git has changed, which .dockerignore can leave out" {
		t.Error(got)
	}
}

// TestLongNames: neither an instruction nor a file's name fills the log.
func TestLongNames(t *testing.T) {
	t.Parallel()
	now := again(3)
	now.Files["cmd/"+strings.Repeat("x", 10_000)] = File{}
	now.step(3).Text = "COPY " + strings.Repeat("ä", 10_000)
	last := sample()
	last.step(3).Text = now.step(3).Text
	for _, line := range now.Compare(last, same).Lines("x") {
		if len(line) > 500 {
			t.Errorf("a line of %d bytes: %.200s", len(line), line)
		}
	}
}

// TestMeasure finds the sizes of layers, from the last one back to where the history does not fit.
func TestMeasure(t *testing.T) {
	t.Parallel()
	b := &Build{Stages: []Stage{
		{Base: -1, Needed: true, Steps: []Step{{Text: "COPY a /"}, {Text: "run b"}}},
		{Base: 0, Needed: true, Steps: []Step{{Text: "ENV x=y"}, {Text: "ONBUILD RUN x"}, {Text: "RUN c"}}},
		{Base: -1, Steps: []Step{{Text: "RUN not needed"}}},
	}}
	b.Measure([]Layer{{"RUN |1 A=b /bin/sh -c c # buildkit", 1}, {"ENV x=y", 0}, {"RUN /bin/sh -c b # buildkit", 2}, {"COPY a / # buildkit", 3}, {"/bin/sh -c #(nop) CMD", 4}})
	var got []int64
	for _, s := range b.Stages {
		for _, step := range s.Steps {
			got = append(got, step.Size)
		}
	}
	if diff := cmp.Diff([]int64{3, 2, 0, 0, 1, 0}, got); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
	(&Build{}).Measure([]Layer{{"RUN x", 1}})
	b.Measure([]Layer{{"COPY x", 9}}) // does not fit
	if b.Stages[1].Steps[2].Size != 1 {
		t.Error("a history of another image was believed")
	}
}

// TestAnyRecord: whatever lies in a record, it is compared without a panic.
func TestAnyRecord(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SampledFrom([]string{"", "a", "RUN x", "ARG A=b C", "COPY . .", "FROM"})
		number := rapid.IntRange(-3, 5)
		draw := rapid.Custom(func(t *rapid.T) *Build {
			b := &Build{Args: map[string]string{"A": words.Draw(t, "arg")}}
			if rapid.Bool().Draw(t, "files") {
				b.Files = Files{words.Draw(t, "file"): {Size: int64(number.Draw(t, "size"))}}
			}
			for range rapid.IntRange(0, 4).Draw(t, "stages") {
				s := Stage{Name: words.Draw(t, "name"), Base: number.Draw(t, "base"), Image: words.Draw(t, "image"), Needed: rapid.Bool().Draw(t, "needed")}
				for range rapid.IntRange(0, 4).Draw(t, "steps") {
					s.Steps = append(s.Steps, Step{
						Text: words.Draw(t, "text"), Works: rapid.Bool().Draw(t, "works"), Run: rapid.Bool().Draw(t, "run"), Sources: []string{words.Draw(t, "source")},
						Stages:  []int{number.Draw(t, "stage")},
						Outcome: rapid.SampledFrom([]Outcome{NotReached, Cached, Done, Failed, "else"}).Draw(t, "outcome"),
					})
				}
				b.Stages = append(b.Stages, s)
			}
			return b
		})
		last, now := draw.Draw(t, "last"), draw.Draw(t, "now")
		now.Measure([]Layer{{words.Draw(t, "layer"), 1}})
		now.Compare(last, same).Lines("x")
		if _, err := json.Marshal(now); err != nil {
			t.Fatal(err)
		}
	})
}

// TestShownBeforeCut: what is to be masked is masked while it is whole.
func TestShownBeforeCut(t *testing.T) {
	t.Parallel()
	last, now := sample(), again(3)
	secret := strings.Repeat("s", maxShown)
	last.step(3).Text, now.step(3).Text = "COPY "+secret+" /", "COPY "+secret+" /"
	now.Files["cmd/"+secret] = File{}
	r := now.Compare(last, func(text string) string { return strings.ReplaceAll(text, secret, "***") })
	if diff := cmp.Diff([]Miss{{3, "COPY *** /", "new: cmd/***"}}, r.Misses); diff != "" {
		t.Errorf("misses (-want +got):\n%s", diff)
	}
	// One that is too long to be remembered is cut before.
	long := strings.Repeat("s", 2*maxText)
	now = again(3)
	now.step(3).Text = "COPY " + long
	r = now.Compare(sample(), func(text string) string { return strings.ReplaceAll(text, long, "***") })
	if len(r.Misses) != 1 || !strings.HasPrefix(r.Misses[0].Text, "COPY *** ") || strings.Contains(now.step(3).Text, "ss") {
		t.Errorf("misses %+v", r.Misses)
	}
}

// TestClockSetBack: a duration that cannot be is none.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	last := sample()
	last.step(3).Took, last.step(4).Took, last.step(4).Size = -time.Hour, time.Second, -1
	now := again()
	now.Time = last.Time.Add(-time.Hour)
	if r := now.Compare(last, same); r.SavedTime != time.Second || r.SavedBytes != 100 || r.Since <= 0 {
		t.Errorf("%+v", r)
	}
}

// TestSameInstructionTwice: the second of two is compared with the second.
func TestSameInstructionTwice(t *testing.T) {
	t.Parallel()
	build := func(outcomes ...Outcome) *Build {
		b := &Build{Stages: []Stage{{Base: -1, Needed: true}}}
		for i, o := range outcomes {
			b.Stages[0].Steps = append(b.Stages[0].Steps, Step{Text: "RUN x", Line: i, Works: true, Run: true, Outcome: o})
		}
		return b
	}
	r := build(Cached, Done).Compare(build(Done, Failed), same)
	if diff := cmp.Diff([]Miss{{1, "RUN x", "it failed the last time"}}, r.Misses); diff != "" {
		t.Errorf("misses (-want +got):\n%s", diff)
	}
}
