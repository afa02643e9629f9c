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

// watchContainers follows which containers the rig's Slipway creates from now on. made fails the test if there were not so many.
func (r *rig) watchContainers() (made func(n int, by string)) {
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
	created := func() (names []string) {
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "runner-"+r.token.Short()+"-") {
				names = append(names, strings.TrimSpace(line))
			}
		}
		return names
	}
	return func(n int, by string) {
		r.t.Helper()
		r.eventually("the events of "+by, func() bool { return len(created()) >= n }) // they come after the job's end
		if names := created(); len(names) != n {
			r.t.Errorf("%s took %d containers, want %d: %v", by, len(names), n, names)
		}
	}
}

// TestOrdinaryUserStartsClean: what a job wrote as the container's root is handed over to the runner's user before the
// container goes, and the next job finds nothing of it.
func TestOrdinaryUserStartsClean(t *testing.T) {
	t.Parallel()
	r := newRig(t, ordinaryUser(t))
	made := r.watchContainers()
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
	made(3, "3 jobs")

	// The container of a failed script has ended; it is started again.
	dies := r.enqueue(p.spec("main", hostile, "echo dying; sleep 300"))
	r.until(dies, "\ndying\n")
	r.killContainer(dies)
	o, log := r.end(dies)
	r.ended(o, log, job.ScriptFailure, 137)
	starts()
	made(5, "5 jobs")

	// A crash leaves the files as they are. One more container hands them over, in the next job.
	j := r.killedIn(p.spec("main", hostile))
	r.start()
	starts()
	r.interrupted(j)
	made(8, "7 jobs and a crash")
	starts()
	made(9, "8 jobs and a crash")
	r.eventually("nothing is left on the Engine", func() bool {
		list, err := r.engine.Containers(t.Context(), r.instance())
		return err == nil && len(list) == 0
	})
}
