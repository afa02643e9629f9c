package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestOneContainer: a job has one container, with after_script too, and whatever became of its script.
func TestOneContainer(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`pull_policy = "never"`))
	events := r.events()
	p := r.gitProject("file", "text")
	jobs, _, _ := r.batch(map[string]*job.Spec{
		"plain":             spec("true"),
		"with everything":   withAfter(withGit(p, withVariables(asUser(spec("cat file"), "1000"), "A", "b")), "cat file"),
		"that fails":        withAfter(spec("exit 3"), "true"),
		"whose shell dies":  withAfter(withImage(spec("kill -9 $PPID; sleep 60"), r.image(withEntrypoint(tiny))), "true"),
		"that cannot start": withImage(spec("true"), alpine, "/nowhere"),
		"without an image":  withImage(spec("true"), "slipway.test/nowhere:1"),
	})
	for name, j := range jobs {
		want := 1
		if name == "without an image" {
			want = 0
		}
		r.eventually("the container is removed", func() bool { return count(events, "destroy", j) >= want })
		if made := count(events, "create", j); made != want {
			t.Errorf("a job %s had %d containers, want %d:\n%s", name, made, want, events)
		}
	}
}

// count says how often something happened to the containers of a job.
func count(events *lockedBuffer, action string, j *coordinator.Job) (n int) {
	for line := range strings.Lines(events.String()) {
		if line == fmt.Sprintf("%s %d\n", action, j.ID()) {
			n++
		}
	}
	return n
}

// events follows what happens to the containers of the rig's Slipway.
func (r *rig) events() *lockedBuffer {
	r.t.Helper()
	r.eventually("slipway has its state folder", func() bool { return r.instanceID() != "" })
	out := &lockedBuffer{}
	cmd := exec.CommandContext(r.t.Context(), "docker", "events", "--since", "1m", "--filter", "type=container", "--filter", "label="+r.instance(),
		"--format", `{{.Action}} {{index .Actor.Attributes "com.gitlab.gitlab-runner.job.id"}}`)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return out
}
