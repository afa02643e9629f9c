package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

// commandEngine is an Engine behind the docker command.
type commandEngine struct{ host string }

func (e commandEngine) Host() string { return e.host }

func (e commandEngine) Images(ctx context.Context) ([]string, error) {
	out, err := dockerOutput(ctx, nil, "image", "ls", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Repository}}@{{.Digest}}")
	var names []string
	for name := range strings.FieldsSeq(out) {
		if !strings.Contains(name, "<none>") {
			names = append(names, name)
		}
	}
	return names, err
}

func (e commandEngine) RemoveImage(ctx context.Context, name string) error {
	out, err := dockerOutput(ctx, nil, "image", "rm", name)
	if err != nil && !strings.Contains(out, "No such image") {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (e commandEngine) RemoveLabeled(ctx context.Context, key, value string) error {
	filter := "label=" + key + "=" + value
	containers, err := dockerOutput(ctx, nil, "ps", "--all", "--quiet", "--filter", filter)
	if err != nil {
		return err
	}
	for id := range strings.FieldsSeq(containers) {
		if out, err := dockerOutput(ctx, nil, "rm", "--force", id); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	// Not pruned: an Engine with containerd's images would break the pulls of all tests that run beside this one.
	images, err := dockerOutput(ctx, nil, "image", "ls", "--quiet", "--filter", "dangling=true", "--filter", filter)
	if err != nil {
		return err
	}
	for id := range strings.FieldsSeq(images) {
		if err := e.RemoveImage(ctx, id); err != nil && !strings.Contains(err.Error(), "conflict") {
			return err
		}
	}
	return nil
}

func (e commandEngine) Build(ctx context.Context, dir, tag string, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "docker", "build", "--tag", tag, dir)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	cmd.Stdout, cmd.Stderr = out, out
	return cmd.Run()
}

// try runs a demo in a temporary folder of its own and gives back what it wrote and what it left in that folder.
func try(t *testing.T, ctx context.Context, o Options) (out, notes string, left []string, err error) {
	t.Helper()
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var o1, o2 bytes.Buffer
	o.Out, o.Notes, o.Offline = &o1, &o2, true
	err = Run(ctx, o)
	left, globErr := filepath.Glob(filepath.Join(tmp, "*"))
	if globErr != nil {
		t.Fatal(globErr)
	}
	return o1.String(), o2.String(), left, err
}

var registryHost = regexp.MustCompile(`registry on (127\.0\.0\.1:\d+)`)

// leftOnEngine lists what is still there of a demo that wrote these notes.
func leftOnEngine(t *testing.T, notes string) []string {
	t.Helper()
	m := registryHost.FindStringSubmatch(notes)
	if m == nil {
		t.Fatalf("no registry in the notes:\n%s", notes)
	}
	names, err := commandEngine{}.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	left := slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, m[1]+"/") })
	for _, list := range [][]string{{"ps", "--all"}, {"image", "ls", "--all"}} {
		out := docker(t, append(list, "--quiet", "--filter", "label="+standInLabel+"="+m[1])...)
		left = append(left, strings.Fields(out)...)
	}
	return left
}

func TestRun(t *testing.T) {
	needEngine(t)
	r := &smallRunner{t: t}
	out, notes, left, err := try(t, t.Context(), Options{Sleep: time.Second, Engine: commandEngine{"unix://" + defaultSocket}, StartRunner: r.start})
	if err != nil {
		t.Fatalf("%v\n%s%s", err, notes, out)
	}
	for _, want := range []string{
		"== first run, cold ==", "== second run, warm ==", "Login Succeeded", "\nStep 2/3 : RUN echo", "\nbuilt once, by demo ", " ---> Using cache\n",
		"0 of 2 steps cached\n", "2 of 2 steps cached, ", "2 of 2 steps cached, without a runner\n", "  overhead ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output has no %q:\n%s", want, out)
		}
	}
	host := registryHost.FindStringSubmatch(notes)
	if host == nil || !strings.Contains(notes, "image: docker:20.10.7  → image: $CI_REGISTRY/docker:20.10.7\n") ||
		!strings.Contains(notes, "→ FROM "+host[1]+"/alpine\n") {
		t.Errorf("the notes do not say which names were changed:\n%s", notes)
	}
	if left := append(left, leftOnEngine(t, notes)...); len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

func TestRunKeeps(t *testing.T) {
	r := &smallRunner{t: t, run: func(context.Context, *job.Spec, io.Writer) error { return errors.New("exit status 1") }}
	e := &keepingEngine{}
	_, notes, left, err := try(t, t.Context(), Options{Keep: true, Engine: e, StartRunner: r.start})
	if err == nil || e.removals > 0 {
		t.Errorf("error: %v, %d removals", err, e.removals)
	}
	if len(left) != 1 || !strings.Contains(notes, "kept: the folder "+left[0]+" ") || !strings.Contains(notes, "kept: the images 127.0.0.1:") {
		t.Fatalf("kept %v, notes:\n%s", left, notes)
	}
	for _, name := range []string{"config.toml", "checkout/Dockerfile", "project.git/HEAD", "state"} {
		if _, err := os.Stat(filepath.Join(left[0], name)); err != nil {
			t.Error(err)
		}
	}
}

// keepingEngine counts what is taken from it.
type keepingEngine struct {
	noEngine
	removals int
}

func (e *keepingEngine) Host() string { return "unix:///var/run/docker.sock" }

func (e *keepingEngine) RemoveImage(context.Context, string) error { e.removals++; return nil }

func (e *keepingEngine) RemoveLabeled(context.Context, string, string) error {
	e.removals++
	return nil
}

// TestRunInterrupted ends the demo in the middle of the first run's long step.
func TestRunInterrupted(t *testing.T) {
	needEngine(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	r := &smallRunner{t: t}
	interrupt := errors.New("interrupted")
	out, notes, left, err := try(t, ctx, Options{
		Sleep: time.Hour, Engine: commandEngine{"unix://" + defaultSocket},
		StartRunner: func(ctx context.Context, config, state string) (func() error, error) {
			r.run = func(ctx context.Context, spec *job.Spec, log io.Writer) error {
				return r.inContainer(ctx, spec, &watcher{log, " ---> Running in ", func() { cancel(interrupt) }})
			}
			return r.start(ctx, config, state)
		},
	})
	if !errors.Is(err, interrupt) {
		t.Errorf("error: %v\n%s%s", err, notes, out)
	}
	if left := append(left, leftOnEngine(t, notes)...); len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// watcher calls seen when a text goes by.
type watcher struct {
	io.Writer
	text string
	seen func()
}

func (w *watcher) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(w.text)) {
		w.seen()
	}
	return w.Writer.Write(b)
}

// noEngine is an Engine that a demo must not need.
type noEngine struct {
	commandEngine
	images []string // that are there; RemoveImage takes them away
	busy   int      // so many calls of RemoveImage fail
	inUse  string   // cannot be removed
}

func (e *noEngine) Images(context.Context) ([]string, error) { return slices.Clone(e.images), nil }

func (e *noEngine) RemoveImage(_ context.Context, name string) error {
	if e.busy--; e.busy >= 0 {
		return errors.New("busy")
	}
	if name == e.inUse {
		return errors.New("in use")
	}
	e.images = slices.DeleteFunc(e.images, func(n string) bool { return n == name })
	return nil
}

func (e *noEngine) RemoveLabeled(context.Context, string, string) error { return nil }

func TestRunWithoutSuccess(t *testing.T) {
	failing := &smallRunner{t: t, run: func(_ context.Context, _ *job.Spec, log io.Writer) error {
		fmt.Fprintln(log, "what went wrong")
		return errors.New("exit status 1")
	}}
	silent := &smallRunner{t: t, run: func(context.Context, *job.Spec, io.Writer) error { return nil }}
	for _, tc := range []struct {
		name  string
		host  string
		start func(context.Context, string, string) (func() error, error)
		out   string
		want  string
	}{
		{
			name: "Engine elsewhere", host: "tcp://10.0.0.1:2376",
			want: "the Docker Engine is at tcp://10.0.0.1:2376: the demo needs one on this machine, because its registry is on 127.0.0.1",
		},
		{
			name: "no runner", host: "unix:///x.sock",
			start: func(context.Context, string, string) (func() error, error) { return nil, errors.New("no runner today") },
			want:  "start the runner: no runner today",
		},
		{
			name: "job fails", host: "unix:///x.sock", start: failing.start, out: "what went wrong\n",
			want: "first run, cold: the job ended as failed (script_failure)",
		},
		{
			name: "job builds nothing", host: "unix:///x.sock", start: silent.start,
			want: "first run, cold: the log shows 0 image builds, not one",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := &noEngine{commandEngine: commandEngine{tc.host}}
			out, notes, left, err := try(t, t.Context(), Options{Engine: e, StartRunner: tc.start})
			if err == nil || err.Error() != tc.want {
				t.Errorf("error: %v\nwant: %s", err, tc.want)
			}
			if !strings.Contains(out, tc.out) {
				t.Errorf("output:\n%s", out)
			}
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if named := strings.Contains(notes, "the Engine's socket is /x.sock"); named != (tc.start != nil) {
				t.Errorf("notes:\n%s", notes)
			}
		})
	}
}

func TestRemoveImages(t *testing.T) {
	t.Parallel()
	const own = "127.0.0.1:5000"
	there := []string{own + "/app:main", own + "/alpine@sha256:0", "127.0.0.1:50001/app:main", "docker:20.10.7", "docker:20.10.7-dind", "alpine:latest", "x/alpine:latest"}
	for _, tc := range []struct {
		name   string
		hub    bool
		before []string
		inUse  string
		want   []string
	}{
		{"stand-ins", false, nil, "", there[2:]},
		{"pulled from outside", true, nil, "", []string{there[2], there[4], there[6]}},
		{"one was there before", true, []string{"alpine:latest"}, "", []string{there[2], there[4], there[5], there[6]}},
		{"one is in use", true, nil, "alpine:latest", []string{there[2], there[4], there[5], there[6]}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := &noEngine{images: slices.Clone(there), busy: 2, inUse: tc.inUse}
				var notes bytes.Buffer
				d := &demo{Options: Options{Engine: e, Notes: &notes}, registry: &Registry{Host: own}, fromHub: tc.hub}
				if err := d.removeImages(t.Context(), tc.before); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(tc.want, e.images); diff != "" {
					t.Errorf("images that stay (-want +got):\n%s", diff)
				}
				if said := strings.Contains(notes.String(), "in use"); said != (tc.inUse != "") {
					t.Errorf("notes: %s", &notes)
				}
			})
		})
	}
}

func TestRemoveImagesGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), cleanUpTime)
		defer cancel()
		e := &noEngine{images: []string{"127.0.0.1:5000/app:main"}, inUse: "127.0.0.1:5000/app:main"}
		d := &demo{Options: Options{Engine: e}, registry: &Registry{Host: "127.0.0.1:5000"}}
		if err := d.removeImages(ctx, nil); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("error: %v", err)
		}
	})
}
