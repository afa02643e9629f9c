package progress

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	control "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipway-ci/slipway/internal/dockerfile"
)

const id = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

const text = `FROM base AS build
RUN make
ENV A=b
COPY f /f
FROM base
COPY --from=build /made /
CMD ["/made"]
`

// read is a Dockerfile whose bases are resolved.
func read(t testing.TB, src string) *dockerfile.File {
	t.Helper()
	f, err := dockerfile.Read([]byte(src), dockerfile.Options{BuildPlatform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	for {
		bases, err := f.Bases()
		if err != nil {
			t.Fatal(err)
		}
		if len(bases) == 0 {
			return f
		}
		for _, b := range bases {
			if err := f.Resolve(b, dockerfile.Image{Name: "alias/" + b.Name}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// told collects what is told of a build of text.
func told(t testing.TB) (*Classic, *strings.Builder) {
	out := &strings.Builder{}
	return NewClassic(read(t, text), map[string]string{"base": id}, func(s string) { out.WriteString(s) }), out
}

// The ends of an instruction.
const (
	running = iota
	done
	cached
	failed
)

// said is what BuildKit tells of an instruction. What took time took a second and a half.
func said(name string, state int) *control.StatusResponse {
	v := &control.Vertex{Digest: "of " + name, Name: name, Started: timestamppb.New(time.Unix(1, 0))}
	if state != running {
		v.Completed = timestamppb.New(time.Unix(2, 5e8))
	}
	v.Cached = state == cached
	if state == failed {
		v.Error = "exit code: 1"
	}
	return &control.StatusResponse{Vertexes: []*control.Vertex{v}}
}

func logs(name, msg string) *control.StatusResponse {
	return &control.StatusResponse{Logs: []*control.VertexLog{{Vertex: "of " + name, Msg: []byte(msg)}}}
}

// TestClassic: what BuildKit does at the same time is told in the order of the text.
func TestClassic(t *testing.T) {
	t.Parallel()
	s, out := told(t)
	for _, m := range []*control.StatusResponse{
		said("[internal] load build context", done),
		said("[build 1/3] FROM docker.io/library/alias", cached),
		said("[build 2/3] RUN make", running),
		said("[stage-1 1/2] FROM docker.io/library/alias", cached),
		logs("[build 2/3] RUN make", "making"),
		said("[build 2/3] RUN make", done),
		said("[build 3/3] COPY f /f", done),
		said("[stage-1 2/2] COPY --from=build /made /", done),
	} {
		s.Take(m)
	}
	s.Finish()
	want := `Step 1/7 : FROM base AS build
 ---> 0123456789ab
Step 2/7 : RUN make
 ---> Running
making
 ---> Done in 1.5s
Step 3/7 : ENV A=b
 ---> Done
Step 4/7 : COPY f /f
 ---> Done in 1.5s
Step 5/7 : FROM base
 ---> 0123456789ab
Step 6/7 : COPY --from=build /made /
 ---> Done in 1.5s
Step 7/7 : CMD ["/made"]
 ---> Done
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestClassicFails: nothing is told of what comes after the step that failed.
func TestClassicFails(t *testing.T) {
	t.Parallel()
	s, out := told(t)
	s.Take(said("[build 1/3] FROM docker.io/library/alias", cached))
	s.Take(said("[build 2/3] RUN make", cached))
	s.Take(said("[build 3/3] COPY f /f", failed))
	s.Fail()
	want := `Step 1/7 : FROM base AS build
 ---> 0123456789ab
Step 2/7 : RUN make
 ---> Using cache
Step 3/7 : ENV A=b
 ---> Using cache
Step 4/7 : COPY f /f
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestClassicTellsEachStepOnce: whatever BuildKit tells, and in which order.
func TestClassicTellsEachStepOnce(t *testing.T) {
	t.Parallel()
	names := []string{
		"[build 1/3] FROM x", "[build 2/3] RUN make", "[build 3/3] COPY f /f", "[stage-1 1/2] FROM x", "[stage-1 2/2] COPY --from=build /made /",
		"[build 9/3] RUN make", "[stage-9 1/1] RUN x", "[] RUN make", "[build 99999999999999999999/3] RUN make", "[build 0/0] FROM x", "[build -1/3] RUN make", "",
	}
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		s, out := told(t)
		for range 20 {
			s.Take(said(names[r.IntN(len(names))], r.IntN(failed)))
			s.Take(logs(names[r.IntN(len(names))], "log\n"))
		}
		s.Finish()
		steps := 0
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "Step ") {
				steps++
				if !strings.HasPrefix(line, fmt.Sprintf("Step %d/7 : ", steps)) {
					t.Fatalf("seed %d: step %d is %q", seed, steps, line)
				}
			}
		}
		if steps != 7 {
			t.Fatalf("seed %d: %d steps:\n%s", seed, steps, out)
		}
	}
}

// TestVertices counts each instruction that has ended once, and no FROM.
func TestVertices(t *testing.T) {
	t.Parallel()
	var c Vertices
	got := map[bool]int{}
	for _, m := range []*control.StatusResponse{
		said("[1/4] FROM x", cached), said("[2/4] RUN a", running), said("[2/4] RUN a", done), said("[2/4] RUN a", done), said("[3/4] RUN b", cached),
		said("[4/4] RUN c", failed), said("[internal] load build context", done), said("exporting to image", done),
	} {
		c.Take(m, func(cached bool) { got[cached]++ })
	}
	if diff := cmp.Diff(map[bool]int{true: 1, false: 1}, got); diff != "" {
		t.Error(diff)
	}
}

// TestVerticesOf finds what became of each instruction; what a base's triggers do belongs to its FROM.
func TestVerticesOf(t *testing.T) {
	t.Parallel()
	var v Vertices
	for _, m := range []*control.StatusResponse{
		said("[build 1/3] FROM x", cached), said("[build 2/3] RUN make", done), said("[build 3/3] COPY f /f", failed), said("[stage-1 2/2] COPY --from=build /made /", running),
		said("[internal] load build context", done), said("[build 3/3] RUN other", done),
	} {
		v.Take(m, func(bool) {})
	}
	took := 1500 * time.Millisecond
	want := map[int]Vertex{
		0: {Begun: true, Ended: true, Cached: true, Took: took}, 1: {Begun: true, Ended: true, Took: took}, 3: {Begun: true, Ended: true, Failed: true, Took: took}, 5: {Begun: true},
	}
	if diff := cmp.Diff(want, v.Of(read(t, text))); diff != "" {
		t.Error(diff)
	}
}

// reader keeps what a client was told.
type reader struct{ got []*control.StatusResponse }

func (r *reader) Send(m *control.StatusResponse) error {
	r.got = append(r.got, m)
	return nil
}

// TestFollowers: what is done besides is a step of the build for all who follow it, and for nobody else.
func TestFollowers(t *testing.T) {
	t.Parallel()
	var f Followers
	first, second := &reader{}, &reader{}
	send, stopFirst := f.Add(first, nil)
	_, stopSecond := f.Add(second, nil)
	_, done := f.Step("nothing to do")
	done(nil)
	line, done := f.Step("pull")
	for _, text := range []string{"noise", `{"status":"Pulling from a","id":"latest"}`, `{"status":"Downloading","id":"b","progressDetail":{"current":1,"total":2}}`} {
		if err := line([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := send(&control.StatusResponse{}); err != nil {
		t.Fatal(err)
	}
	stopFirst()
	done(errors.New("it broke"))
	stopSecond()
	if len(first.got) != 4 || len(second.got) != 4 {
		t.Fatalf("they were told\n%v\n%v", first.got, second.got)
	}
	begun, log, status, ended := second.got[0].Vertexes[0], second.got[1].Logs[0], second.got[2].Statuses[0], second.got[3].Vertexes[0]
	if begun.Name != "pull" || string(log.Msg) != "latest: Pulling from a\n" || status.Name != "Downloading" || status.Total != 2 || ended.Error != "it broke" || ended.Completed == nil {
		t.Errorf("told\n%v", second.got)
	}
	for _, digest := range []string{log.Vertex, status.Vertex, ended.Digest} {
		if digest != begun.Digest {
			t.Errorf("%s is not of the step %s", digest, begun.Digest)
		}
	}
}

// slowReader is a client that stalls with the first message.
type slowReader struct {
	reader
	stalled, on chan struct{}
}

func (r *slowReader) Send(m *control.StatusResponse) error {
	if len(r.got) == 0 {
		close(r.stalled)
		<-r.on
	}
	return r.reader.Send(m)
}

// TestStalledFollower: who stalls keeps nobody waiting, and is told of each step that it was begun and has ended, but not of all in between.
func TestStalledFollower(t *testing.T) {
	t.Parallel()
	var f Followers
	client := &slowReader{stalled: make(chan struct{}), on: make(chan struct{})}
	send, stop := f.Add(client, nil)
	if err := send(&control.StatusResponse{}); err != nil {
		t.Fatal(err)
	}
	<-client.stalled
	for _, name := range []string{"pull", "push"} {
		line, done := f.Step(name)
		for range 2 * maxUntold {
			_ = line([]byte(`{"status":"Downloading","id":"b","progressDetail":{"current":1,"total":2}}`))
		}
		done(nil)
	}
	close(client.on)
	stop()
	var steps []string
	for _, m := range client.got {
		for _, v := range m.Vertexes {
			steps = append(steps, fmt.Sprint(v.Name, v.Completed != nil))
		}
	}
	if want := []string{"pullfalse", "pulltrue", "pushfalse", "pushtrue"}; !slices.Equal(steps, want) || len(client.got) != 1+maxUntold+3 {
		t.Errorf("of %d messages, told are %q", len(client.got), steps)
	}
}
