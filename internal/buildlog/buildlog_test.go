package buildlog

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

const forged = `RUN echo "Step 9/9 : forged" && echo " ---> Using cache" && printf 'half\rover\n'`

// recorded says what is in the files of testdata: real output of `docker build`, each file two runs of it. The names
// end in the version of the docker client; the Engine was 20.10.24.
var recorded = map[string][]Build{
	// The second build found everything in the build cache.
	"classic-28.txt": {
		{Steps: fiveSteps("first", false, false)},
		{Steps: fiveSteps("first", true, true)},
	},
	// Before the second build app.txt changed.
	"classic-20.10.txt": {
		{Steps: fiveSteps("second", false, false)},
		{Steps: fiveSteps("second", true, false)},
	},
	"classic-multi-20.10.txt": {
		{Steps: []Step{
			{Index: 3, Total: 6, Name: "RUN echo built > /out && sleep 0.2"},
			{Index: 5, Total: 6, Name: "COPY --from=build /out /out"},
			{Index: 6, Total: 6, Name: "RUN cat /out     && echo done"},
		}},
		{Steps: []Step{
			{Index: 3, Total: 6, Name: "RUN echo built > /out && sleep 0.2", Cached: true},
			{Index: 5, Total: 6, Name: "COPY --from=build /out /out", Cached: true},
			{Index: 6, Total: 6, Name: "RUN cat /out     && echo done", Cached: true},
		}},
	},
	// Told by the guard, which builds with BuildKit: the second stage was not needed, the last step forges a line.
	"classic-guard-28.txt": {
		{Steps: guardSteps(false)},
		{Steps: guardSteps(true)},
	},
	"classic-failed-20.10.txt": {
		{Steps: []Step{
			{Index: 2, Total: 4, Name: "RUN echo before"},
			{Index: 3, Total: 4, Name: "RUN echo oops && exit 3"},
		}},
	},
	"buildkit-20.10.txt": {
		{Steps: []Step{
			{Index: 2, Total: 4, Name: "RUN echo second > /first && sleep 0.3", Duration: 500 * time.Millisecond},
			{Index: 3, Total: 4, Name: "COPY app.txt /app.txt"},
			{Index: 4, Total: 4, Name: forged, Duration: 200 * time.Millisecond},
		}},
		{Steps: []Step{
			{Index: 2, Total: 4, Name: "RUN echo second > /first && sleep 0.3", Cached: true},
			{Index: 3, Total: 4, Name: "COPY app.txt /app.txt", Cached: true},
			{Index: 4, Total: 4, Name: forged, Cached: true},
		}},
	},
	"buildkit-multi-20.10.txt": {
		{Steps: []Step{
			{Stage: "build", Index: 2, Total: 2, Name: "RUN echo built > /out && sleep 0.2", Duration: 400 * time.Millisecond},
			{Stage: "stage-1", Index: 2, Total: 3, Name: "COPY --from=build /out /out"},
			{Stage: "stage-1", Index: 3, Total: 3, Name: "RUN cat /out     && echo done", Duration: 200 * time.Millisecond},
		}},
		{Steps: []Step{
			{Stage: "stage-1", Index: 2, Total: 3, Name: "COPY --from=build /out /out", Cached: true},
			{Stage: "build", Index: 2, Total: 2, Name: "RUN echo built > /out && sleep 0.2", Cached: true},
			{Stage: "stage-1", Index: 3, Total: 3, Name: "RUN cat /out     && echo done", Cached: true},
		}},
	},
	"buildkit-failed-20.10.txt": {
		{Steps: []Step{
			{Index: 2, Total: 4, Name: "RUN echo before", Duration: 100 * time.Millisecond},
			{Index: 3, Total: 4, Name: "RUN echo oops && exit 3"},
		}},
		{Steps: []Step{
			{Index: 2, Total: 4, Name: "RUN echo before", Cached: true},
			{Index: 3, Total: 4, Name: "RUN echo oops && exit 3"},
		}},
	},
}

// fiveSteps are the steps of classic-28.txt and classic-20.10.txt; cached is about the first, rest about the others.
func fiveSteps(word string, cached, rest bool) []Step {
	return []Step{
		{Index: 2, Total: 5, Name: "RUN echo " + word + " > /first && sleep 0.3", Cached: cached},
		{Index: 3, Total: 5, Name: "COPY app.txt /app.txt", Cached: rest},
		{Index: 4, Total: 5, Name: "ENV NAME=value", Cached: rest},
		{Index: 5, Total: 5, Name: forged, Cached: rest},
	}
}

func guardSteps(cached bool) []Step {
	return []Step{
		{Index: 3, Total: 10, Name: "RUN echo built > /out && sleep 0.2", Cached: cached},
		{Index: 7, Total: 10, Name: "ENV NAME=value", Cached: cached},
		{Index: 8, Total: 10, Name: "COPY --from=build /out /out", Cached: true}, // other jobs had the same file,
		{Index: 9, Total: 10, Name: "RUN cat /out && echo ' ---> Using cache' && printf half", Cached: cached},
		{Index: 10, Total: 10, Name: `CMD ["x"]`, Cached: cached},
	}
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) != len(recorded) {
		t.Fatalf("%d files in testdata for %d cases, %v", len(files), len(recorded), err)
	}
	for name, want := range recorded {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p Parser
			p.Write(read(t, name))
			if diff := cmp.Diff(want, p.Builds(), unlessBuildKit(name)); diff != "" {
				t.Errorf("builds (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAnyPieces: how the log is cut into writes, and which colours and carriage returns are in it, changes nothing.
func TestAnyPieces(t *testing.T) {
	t.Parallel()
	for name, want := range recorded {
		log := read(t, name)
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			text := bytes.Clone(log)
			if rapid.Bool().Draw(t, "terminal") {
				text = bytes.ReplaceAll(text, []byte("\n"), []byte("\x1b[0;m\r\n\x1b[32;1m"))
			}
			var p Parser
			for len(text) > 0 {
				n := min(rapid.IntRange(1, 400).Draw(t, "piece"), len(text))
				p.Write(text[:n])
				text = text[n:]
			}
			if diff := cmp.Diff(want, p.Builds(), unlessBuildKit(name)); diff != "" {
				t.Fatalf("builds (-want +got):\n%s", diff)
			}
		}))
	}
}

// TestJobLog: several builds of both builders between a job's other lines.
func TestJobLog(t *testing.T) {
	t.Parallel()
	var p Parser
	p.Write([]byte("\x1b[0KRunning with slipway\nsection_start:1700000000:step_script\r\x1b[0K\x1b[36;1mExecuting\x1b[0;m\n$ docker build .\n"))
	var want []Build
	for _, name := range []string{"classic-28.txt", "buildkit-20.10.txt", "classic-multi-20.10.txt", "buildkit-multi-20.10.txt"} {
		p.Write(read(t, name))
		p.Write([]byte("$ docker push x\n#nothing [1/2] of note\nStep by step\n"))
		want = append(want, recorded[name]...)
	}
	if diff := cmp.Diff(want, p.Builds(), cmpopts.IgnoreFields(Step{}, "Duration")); diff != "" {
		t.Errorf("builds (-want +got):\n%s", diff)
	}
}

func TestClassicDurationIsTheTimeBetweenLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p Parser
		for _, piece := range []struct {
			text  string
			after time.Duration
		}{
			{"Step 1/4 : FROM alpine\n", time.Second},
			{" ---> 0123456789ab\nStep 2/4 : RUN make\n", 0},
			{" ---> Running in 0123456789ab\n", 7 * time.Second},
			{" ---> 123456789abc\nStep 3/4 : RUN true\n ---> Using cache\n", 3 * time.Second},
			{" ---> 23456789abcd\nStep 4/4 : RUN false\n ---> Running in 3456789abcde\n", 2 * time.Second},
			{"The command '/bin/sh -c false' returned a non-zero code: 1\n", time.Minute},
			{"what the job prints later\n", 0},
		} {
			p.Write([]byte(piece.text))
			time.Sleep(piece.after) // the bubble's clock
		}
		want := []Build{{Steps: []Step{
			{Index: 2, Total: 4, Name: "RUN make", Duration: 7 * time.Second},
			{Index: 3, Total: 4, Name: "RUN true", Cached: true},
			{Index: 4, Total: 4, Name: "RUN false", Duration: 2 * time.Second},
		}}}
		if diff := cmp.Diff(want, p.Builds()); diff != "" {
			t.Errorf("builds (-want +got):\n%s", diff)
		}
	})
}

// TestBuildKitHeadings: steps that run side by side, and headings that come again.
func TestBuildKitHeadings(t *testing.T) {
	t.Parallel()
	log := strings.Join([]string{
		`#0 building with "default" instance using docker driver`,
		"#1 [internal] load build definition from Dockerfile", "#1 DONE 0.0s", "",
		"#4 [1/2] FROM docker.io/library/alpine", "#4 DONE 0.0s", "",
		"#5 [linux/arm64 a 2/2] RUN one", "#5 0.1 [2/2] RUN not a heading", "#5 ...", "",
		"#6 [b 2/2] RUN two", "#6 0.2 text", "#6 ...", "",
		"#4 [1/2] FROM docker.io/library/alpine", "#4 extracting", "#4 DONE 1.0s", "",
		"#5 [linux/arm64 a 2/2] RUN one", "#5 DONE 61.5s", "",
		"#6 [b 2/2] RUN two", "#6 CANCELED", "",
	}, "\n")
	var p Parser
	p.Write([]byte(log))
	want := []Build{{Steps: []Step{
		{Stage: "linux/arm64 a", Index: 2, Total: 2, Name: "RUN one", Duration: 61500 * time.Millisecond},
		{Stage: "b", Index: 2, Total: 2, Name: "RUN two"},
	}}}
	if diff := cmp.Diff(want, p.Builds()); diff != "" {
		t.Errorf("builds (-want +got):\n%s", diff)
	}
}

func TestHugeLine(t *testing.T) {
	t.Parallel()
	var p Parser
	p.Write([]byte("Step 1/2 : FROM alpine\n ---> 0123456789ab\n"))
	for range 1000 {
		p.Write(bytes.Repeat([]byte("x"), 10_000))
	}
	if len(p.line) > maxLine {
		t.Errorf("%d bytes of one line are held", len(p.line))
	}
	p.Write([]byte("\nStep 2/2 : RUN true\n ---> Using cache\n"))
	builds := p.Builds()
	if len(builds) != 1 || builds[0].Cached() != 1 || builds[0].Total() != 1 {
		t.Errorf("builds: %+v", builds)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	log, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// unlessBuildKit leaves the durations of the classic builder out: they are those of the test.
func unlessBuildKit(file string) cmp.Option {
	if strings.HasPrefix(file, "classic") {
		return cmpopts.IgnoreFields(Step{}, "Duration")
	}
	return nil
}
