package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// why is the line that says why an interrupted job failed.
const why = "ERROR: Job failed (system failure): the runner was killed and started again while the job ran\n"

// killedIn runs a job until it has printed a mark, and kills Slipway then. The job would go on for long.
//
// Each Slipway that starts removes what dead ones left: so what is to be seen of the job on the Engine must be looked at before.
func (r *rig) killedIn(s *job.Spec) *coordinator.Job {
	r.t.Helper()
	j := r.middleOf(s)
	r.kill()
	return j
}

// middleOf runs a job until it has printed a mark.
func (r *rig) middleOf(s *job.Spec) *coordinator.Job {
	r.t.Helper()
	const mark = "in the middle"
	st := &s.Steps[0]
	st.Script = append(st.Script, "echo "+mark, "sleep 300", "echo never")
	j := r.enqueue(s)
	r.until(j, "\n"+mark+"\n")
	return j
}

// interrupted fails the test unless the job ended as one does that a crash interrupted, with nothing left of it.
func (r *rig) interrupted(j *coordinator.Job) {
	r.t.Helper()
	o, log := r.end(j)
	r.ended(o, log, job.SystemFailure, 0)
	wants(r.t, log, "\nin the middle\n")
	lacks(r.t, log, "\nnever")
	once(r.t, log, why)
	if !strings.HasSuffix(log, why) {
		r.t.Errorf("the log does not end with why:\n%s", log)
	}
	r.eventually("the job's container is gone", func() bool { return len(r.containers(j)) == 0 })
	r.eventually("the job's spool folder is gone", func() bool { return len(r.spool()) == 0 })
}

// spool is what is kept of jobs.
func (r *rig) spool() []os.DirEntry {
	r.t.Helper()
	list, err := os.ReadDir(filepath.Join(r.stateDir(), "jobs"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return list
}

// endIsKept waits until it is on disk how a job ended.
func (r *rig) endIsKept() {
	r.t.Helper()
	r.eventually("the job's end is kept", func() bool {
		records, _ := filepath.Glob(filepath.Join(r.stateDir(), "jobs", "*", "record.json"))
		if len(records) != 1 {
			return false
		}
		b, _ := os.ReadFile(records[0])
		return strings.Contains(string(b), `"final":`)
	})
}

// TestKilledInMidJob is not parallel: another Slipway that starts would remove the job's container first.
func TestKilledInMidJob(t *testing.T) {
	r := newRig(t)
	j := r.killedIn(withAfter(spec(lines(3000)), "echo never"))
	next := r.enqueue(spec("echo next"))
	r.start()
	o, log := r.end(next)
	if o.State != job.Success {
		t.Errorf("the next job ended as %+v:\n%s", o, log)
	}
	r.interrupted(j)
	numbered(t, plain(j.Trace()), 3000)
	r.logged("removing a container that a killed runner left", "reported how a job ended")
}

// TestGitLabIsAwayAtTheEnd: a job whose end GitLab could not be told of, however often that was tried, is reported when GitLab
// is back, without a restart.
func TestGitLabIsAwayAtTheEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, runnerKeys("  job_status_final_update_retry_limit = 1"))
	j := r.enqueue(spec("echo begun", "until test -e go-on; do sleep 0.1; done", lines(500), "exit 3"))
	r.until(j, "\nbegun\n")
	mend := r.Inject(coordinator.Fault{Match: about(j), Status: http.StatusBadGateway, Times: -1})
	r.tell(j)
	r.logged("how the job ended cannot be reported now; trying again")
	// Others are not held up.
	mend()
	r.must(job.Success, spec("true"))
	o, log := r.end(j)
	r.ended(o, log, job.ScriptFailure, 3)
	numbered(t, log, 500)
	r.logged("reported how a job ended")
}

// TestKilledTwice: the first restarts cannot report the job, because the server does not answer.
func TestKilledTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j := r.killedIn(spec("true"))
	mend := r.Inject(coordinator.Fault{Match: about(j), Status: http.StatusBadGateway, Times: -1})
	tries := func() int { return strings.Count(r.log.String(), "status=502") }
	r.start()
	r.eventually("it tries", func() bool { return tries() > 0 })
	r.kill()
	before := tries()
	r.start()
	r.eventually("it tries again", func() bool { return tries() > before })
	r.signal(syscall.SIGTERM)
	if code := r.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	mend()
	r.start()
	r.interrupted(j)
}

// TestKilledWhileFinishing: the job was over, only its end was not delivered. That end counts.
func TestKilledWhileFinishing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	mend := r.Inject(coordinator.Fault{Endpoint: coordinator.UpdateJob, Skip: 1, Status: http.StatusServiceUnavailable, Times: -1})
	j := r.enqueue(spec(lines(100), "exit 3"))
	r.until(j, "ERROR: Job failed: exit code 3\n")
	r.endIsKept()
	r.kill()
	mend()
	r.start()
	o, log := r.end(j)
	r.ended(o, log, job.ScriptFailure, 3)
	numbered(t, log, 100)
	lacks(t, log, "killed")
	once(t, log, "ERROR: Job failed: exit code 3\n")
	r.eventually("the job's spool folder is gone", func() bool { return len(r.spool()) == 0 })
}

// TestNeighboursAreLeftAlone: a Slipway that starts removes what a dead one left, and nothing of one that lives.
func TestNeighboursAreLeftAlone(t *testing.T) {
	t.Parallel()
	dead, alive := newRig(t), newRig(t)
	lost := dead.killedIn(spec("true"))
	runs := alive.enqueue(spec("echo begun", "until test -e go-on; do sleep 0.1; done", "echo done"))
	alive.until(runs, "\nbegun\n")
	before := alive.containers(runs)

	third := newRig(t)
	third.must(job.Success, spec("true"))
	third.eventually("what the dead one left is gone", func() bool { return len(dead.containers(lost)) == 0 })
	if now := alive.containers(runs); len(now) != 1 || now[0].ID != before[0].ID || !now[0].Running {
		t.Errorf("the living one's container was touched: %+v", now)
	}
	if code, out, err := third.engine.Exec(t.Context(), before[0].ID, "", "touch", "/builds/group/demo/go-on"); err != nil || code != 0 {
		t.Fatalf("exec: %v, exit code %d, %s", err, code, out)
	}
	if o, log := alive.end(runs); o.State != job.Success {
		t.Errorf("the living one's job ended as %+v:\n%s", o, log)
	}
	dead.start()
	dead.interrupted(lost)
}

func TestOneProcessForAStateFolder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.must(job.Success, spec("true"))
	out, err := slipway("run", "--config", r.configPath()).CombinedOutput()
	if code := exitCode(err); code != 1 {
		t.Errorf("exit code %d: %v", code, err)
	}
	wants(t, string(out), "slipway: error: ", "another Slipway uses this state folder", "slipway: hint: stop the other one, or give this one a folder of its own: state_dir")
	r.must(job.Success, spec("true"))
}

func exitCode(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return -1
}

// about matches the calls about a job.
func about(j *coordinator.Job) func(*http.Request) bool { return aboutID(j.ID()) }

func aboutID(id int64) func(*http.Request) bool {
	path := "/api/v4/jobs/" + itoa(id)
	return func(r *http.Request) bool {
		return r.URL.Path == path || strings.HasPrefix(r.URL.Path, path+"/")
	}
}

// TestSectionAttempts: somebody removes the job's container while the artifacts that it waits for are on their way.
func TestSectionAttempts(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	build := r.enqueue(withArtifacts(spec("echo made >file"), job.Artifact{Paths: []string{"file"}}))
	r.succeeds(build)
	goOn, release := r.gate()
	r.Inject(coordinator.Fault{Endpoint: coordinator.DownloadArtifacts, Times: -1, Match: func(*http.Request) bool { <-goOn; return false }})
	lost := func(attempts string) *coordinator.Job {
		j := r.enqueue(needs(withVariables(withDocker("cat file; docker ps >/dev/null && echo a socket"), "EXECUTOR_JOB_SECTION_ATTEMPTS", attempts), build))
		r.eventually("the container is there", func() bool { return len(r.containers(j)) == 1 })
		// The Engine lists one that it is making before it knows it by its ID.
		r.eventually("the container is gone", func() bool {
			for _, c := range r.containers(j) {
				if err := r.engine.Remove(t.Context(), c.ID); err != nil {
					t.Fatal(err)
				}
			}
			return len(r.containers(j)) == 0
		})
		return j
	}
	once, again := lost("1"), lost("2")
	release()
	o, log := r.end(once)
	r.ended(o, log, job.SystemFailure, 0)
	wants(t, log, "ERROR: Job failed (system failure): the job's container is gone")
	wants(t, r.succeeds(again), "WARNING: the job's container is gone", "\nmade\na socket\n")
	r.leavesNothing()
	r.cleanAfter()
}
