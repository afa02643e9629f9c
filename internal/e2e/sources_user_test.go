package e2e

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// watchContainers counts the containers that the rig's Slipway creates from now on.
func (r *rig) watchContainers() (names func() []string) {
	r.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "docker", "events", "--since", strconv.FormatInt(time.Now().Unix(), 10),
		"--filter", "type=container", "--filter", "event=create", "--format", "{{.Actor.Attributes.name}}")
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { stop(); _ = cmd.Wait() })
	return func() []string {
		var names []string
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "runner-"+r.token.Short()+"-") {
				names = append(names, strings.TrimSpace(line))
			}
		}
		return names
	}
}

// TestOrdinaryUserStartsClean: what a job wrote as the container's root is handed over to the runner's user before the
// container goes, and the next job finds nothing of it.
func TestOrdinaryUserStartsClean(t *testing.T) {
	t.Parallel()
	r := newRig(t, ordinaryUser(t))
	created := r.watchContainers()
	p := r.repository("group/demo", sample)
	c := newCanary(t)
	look := func() *job.Spec {
		return p.spec("main", listing, "ls -A $RUNNER_TEMP_PROJECT_DIR | sed 's/^/temp: /'", `echo "status: $(git status --porcelain --ignored)."`)
	}
	clean := r.must(job.Success, look())
	hostile := strings.ReplaceAll(plant+plantGit[0].script+plantTemp, "CANARY", c.dir) +
		"\nchown 0:0 $CI_PROJECT_DIR $RUNNER_TEMP_PROJECT_DIR; chmod 700 $CI_PROJECT_DIR $RUNNER_TEMP_PROJECT_DIR"
	starts := func() {
		t.Helper()
		log := r.must(job.Success, look())
		wants(t, log, "\nstatus: .\n")
		lacks(t, log, "temp: dir", "temp: pipe", "temp: deep")
		sameListing(t, clean, log, false)
	}
	r.must(job.Success, p.spec("main", hostile))
	starts()
	if n := len(created()); n != 3 {
		t.Errorf("3 jobs took %d containers: %v", n, created())
	}

	// The container of a failed script has ended; it is started again.
	dies := r.enqueue(p.spec("main", hostile, "echo dying; sleep 300"))
	r.until(dies, "\ndying\n")
	r.killContainer(dies)
	o, log := r.end(dies)
	r.ended(o, log, job.ScriptFailure, 137)
	starts()
	if n := len(created()); n != 5 {
		t.Errorf("5 jobs took %d containers: %v", n, created())
	}

	// A crash leaves the files as they are. One more container hands them over, in the next job.
	j := r.killedIn(p.spec("main", hostile))
	r.start()
	starts()
	r.interrupted(j)
	if n := len(created()); n != 8 {
		t.Errorf("7 jobs and a crash took %d containers, want one each: %v", n, created())
	}
	starts()
	if n := len(created()); n != 9 {
		t.Errorf("8 jobs and a crash took %d containers, want one each: %v", n, created())
	}
	r.eventually("nothing is left on the Engine", func() bool {
		list, err := r.engine.Containers(t.Context(), r.instance())
		return err == nil && len(list) == 0
	})
}
