package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// patience bounds what has to happen for a test to go on; it only matters when something is broken. What is to be cut short sleeps
// longer, most of it for 300 seconds: so that it ends within patience shows that it was.
const patience = 4 * time.Minute

// in is the rig for a subtest, which may run beside others.
func (r *rig) in(t *testing.T) *rig {
	c := *r
	c.t = t
	return &c
}

// apiAtLeast reports whether the Engine speaks version 1.minor of its API.
func (r *rig) apiAtLeast(minor int) bool {
	var n int
	fmt.Sscanf(r.engine.APIVersion(), "1.%d", &n)
	return n >= minor
}

var images atomic.Int64

// image makes an image for one test and returns its name.
func (r *rig) image(recipe demo.Recipe) string {
	r.t.Helper()
	return r.imageNamed(fmt.Sprintf("slipway.test/made-%d:%d", os.Getpid(), images.Add(1)), recipe)
}

func (r *rig) imageNamed(name string, recipe demo.Recipe) string {
	r.t.Helper()
	if err := load(r.engine, name, recipe); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := r.engine.RemoveImage(context.Background(), name); err != nil {
			r.t.Error(err)
		}
	})
	return name
}

// removeImages removes all images whose names begin so.
func (r *rig) removeImages(prefix string) {
	r.t.Helper()
	names, err := r.engine.Images(context.Background())
	if err != nil {
		r.t.Error(err)
	}
	for _, n := range names {
		if strings.HasPrefix(n, prefix) {
			if err := r.engine.RemoveImage(context.Background(), n); err != nil {
				r.t.Error(err)
			}
		}
	}
}

// withEntrypoint is busybox with an entrypoint script.
func withEntrypoint(script string) demo.Recipe {
	recipe := demo.Alpine()
	recipe.Files["/entrypoint"] = demo.File{Mode: 0o755, Content: []byte("#!/bin/sh\n" + script)}
	recipe.Entrypoint = []string{"/entrypoint"}
	return recipe
}

func withImage(s *job.Spec, name string, entrypoint ...string) *job.Spec {
	s.Image.Name, s.Image.Entrypoint = name, entrypoint
	return s
}

// enqueue lets the runner have a job.
func (r *rig) enqueue(s *job.Spec) *coordinator.Job { return r.Enqueue(s, "dockerd") }

// batch runs jobs as many at once as the runner takes, and returns them by the same names when all have ended.
func (r *rig) batch(specs map[string]*job.Spec) (jobs map[string]*coordinator.Job, outcomes map[string]coordinator.Outcome, logs map[string]string) {
	r.t.Helper()
	jobs, outcomes, logs = map[string]*coordinator.Job{}, map[string]coordinator.Outcome{}, map[string]string{}
	for name, s := range specs {
		jobs[name] = r.enqueue(s)
	}
	for name, j := range jobs {
		outcomes[name], logs[name] = r.end(j)
	}
	return jobs, outcomes, logs
}

// until waits for a text in the job's log.
func (r *rig) until(j *coordinator.Job, text string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	w := &watcher{text: text, found: cancel}
	if err := j.Follow(ctx, w); !w.seen {
		r.t.Fatalf("the log of job %d lacks %q (%v):\n%s\n%s", j.ID(), text, err, plain(j.Trace()), r.log)
	}
}

// watcher looks for a text in what is written to it.
type watcher struct {
	text  string
	all   bytes.Buffer
	seen  bool
	found func()
}

func (w *watcher) Write(p []byte) (int, error) {
	w.all.Write(p)
	if !w.seen && strings.Contains(plain(w.all.Bytes()), w.text) {
		w.seen = true
		w.found()
	}
	return len(p), nil
}

// eventually waits until ok reports true: there is nothing to be waited on for what happens after a job.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	eventually(r.t, what, ok)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ok() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// gate holds up who receives from it, until release is called or the test ends: the rig's server does not end before its answers do.
func (r *rig) gate() (held <-chan struct{}, release func()) {
	ch := make(chan struct{})
	release = sync.OnceFunc(func() { close(ch) })
	r.t.Cleanup(release)
	return ch, release
}

// instanceID is what the rig's Slipway calls itself, "" before it has begun.
func (r *rig) instanceID() string {
	id, _ := os.ReadFile(filepath.Join(r.stateDir(), "instance"))
	return strings.TrimSpace(string(id))
}

// instance is the label of all that the rig's Slipway makes on the Engine.
func (r *rig) instance() string { return "slipway.instance=" + r.instanceID() }

// containers are those of a job that are there now.
func (r *rig) containers(j *coordinator.Job) []docker.Info {
	r.t.Helper()
	all, err := r.engine.Containers(r.t.Context(), r.instance())
	if err != nil {
		r.t.Fatal(err)
	}
	var out []docker.Info
	for _, c := range all {
		if c.Labels["com.gitlab.gitlab-runner.job.id"] == strconv.FormatInt(j.ID(), 10) {
			out = append(out, c)
		}
	}
	return out
}

// killContainer ends a job's container as an operator or the kernel does.
func (r *rig) killContainer(j *coordinator.Job) {
	r.t.Helper()
	list := r.containers(j)
	if len(list) != 1 {
		r.t.Fatalf("job %d has %d containers", j.ID(), len(list))
	}
	if err := r.engine.Kill(r.t.Context(), list[0].ID); err != nil {
		r.t.Fatal(err)
	}
}

// fails fails the test unless the job failed for that reason with that exit code.
func (r *rig) fails(reason job.Reason, code int, s *job.Spec) string {
	r.t.Helper()
	o, log := r.run(s)
	r.ended(o, log, reason, code)
	return log
}

func (r *rig) ended(o coordinator.Outcome, log string, reason job.Reason, code int) {
	r.t.Helper()
	if o.State != job.Failed || o.FailureReason != reason || o.ExitCode != code {
		r.t.Errorf("job ended as %+v, want %s with exit code %d:\n%s", o, reason, code, log)
	}
}
