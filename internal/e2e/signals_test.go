package e2e

import (
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// waiting is a job that prints "begun" and goes on when release is called.
func (r *rig) waiting(script ...string) (j *coordinator.Job, release func()) {
	r.t.Helper()
	j = r.enqueue(spec(append([]string{"echo begun", "until rm go-on; do sleep 0.1; done 2>/dev/null"}, script...)...))
	r.until(j, "\nbegun\n")
	c := r.containers(j)
	if len(c) != 1 {
		r.t.Fatalf("job %d has %d containers", j.ID(), len(c))
	}
	return j, func() {
		r.t.Helper()
		if code, out, err := r.engine.Exec(r.t.Context(), c[0].ID, "", "touch", "/builds/group/demo/go-on"); err != nil || code != 0 {
			r.t.Fatalf("exec: %v, exit code %d, %s", err, code, out)
		}
	}
}

// succeeds fails the test unless the job does.
func (r *rig) succeeds(j *coordinator.Job) string {
	r.t.Helper()
	o, log := r.end(j)
	if o.State != job.Success {
		r.t.Errorf("job ended as %+v:\n%s", o, log)
	}
	return log
}

func TestQuitFinishesTheJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, concurrent(1))
	runs, release := r.waiting("echo done")
	stays := r.enqueue(spec("true"))
	r.signal(syscall.SIGQUIT)
	r.logged("told to quit")
	release()
	wants(t, r.succeeds(runs), "\ndone\n")
	if code := r.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if s := stays.State(); s != coordinator.Pending {
		t.Errorf("the waiting job is %s", s)
	}
}

func TestTermAbortsTheJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	plain, _ := r.waiting()
	// A server that knows the finer reason hears it.
	s := withAfter(spec("trap '' TERM", "echo begun", "sleep 300"), "echo never")
	s.Features = job.Features{FailureReasons: []job.Reason{job.RunnerInterrupted}}
	fine := r.enqueue(s)
	r.until(fine, "\nbegun\n")
	r.signal(syscall.SIGTERM)
	if code := r.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for j, reason := range map[*coordinator.Job]job.Reason{plain: job.UnknownFailure, fine: job.RunnerInterrupted} {
		o, log := r.end(j)
		r.ended(o, log, reason, 0)
		wants(t, log, "ERROR: Job failed (system failure): aborted: the runner was shut down\n")
		lacks(t, log, "\nnever")
		if c := r.containers(j); len(c) != 0 {
			t.Errorf("job %d leaves %+v", j.ID(), c)
		}
	}
}

// TestTermTwice: the first one waits for a server that does not take the job's end, the second one does not. The next
// start tells the server how the job ended.
func TestTermTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j, _ := r.waiting()
	mend := r.Inject(coordinator.Fault{Match: about(j), Status: http.StatusBadGateway, Times: -1})
	r.signal(syscall.SIGTERM)
	r.logged("told to stop", "status=502")
	r.endIsKept()
	r.signal(syscall.SIGTERM)
	if code := r.exit(); code != 128+int(syscall.SIGTERM) {
		t.Errorf("exit code %d", code)
	}
	mend()
	r.start()
	o, log := r.end(j)
	r.ended(o, log, job.UnknownFailure, 0)
	wants(t, log, "aborted: the runner was shut down\n")
	lacks(t, log, "killed")
}

// TestTermWaitsSoLong: what could not be delivered within shutdown_timeout is delivered by the next start.
func TestTermWaitsSoLong(t *testing.T) {
	t.Parallel()
	r := newRig(t, globalKeys("shutdown_timeout = 1"))
	j, _ := r.waiting()
	mend := r.Inject(coordinator.Fault{Match: about(j), Status: http.StatusBadGateway, Times: -1})
	r.signal(os.Interrupt)
	if code := r.exit(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	r.logged("slipway: error: shut down: 1 jobs have not ended within 1s (shutdown_timeout)")
	mend()
	r.start()
	// A slow machine has not even stopped the job after a second.
	if o, log := r.end(j); o.State != job.Failed || o.FailureReason == job.ScriptFailure {
		t.Errorf("job ended as %+v:\n%s", o, log)
	}
	r.eventually("the job's spool folder is gone", func() bool { return len(r.spool()) == 0 })
}

func TestHangupReloads(t *testing.T) {
	t.Parallel()
	r := newRig(t, concurrent(1))
	first, release := r.waiting()
	second := r.enqueue(spec("echo second"))
	text := r.readOwn()

	// Nonsense changes nothing.
	line := 1 + strings.Count(text[:strings.Index(text, "executor")], "\n")
	r.writeOwn(strings.Replace(text, `executor = "docker"`, `executor = docker`, 1))
	r.signal(syscall.SIGHUP)
	r.logged("ERROR the new config is not used, the old one stays: " + r.configPath() + ":" + itoa(int64(line)))
	if s := second.State(); s != coordinator.Pending {
		t.Errorf("the second job is %s", s)
	}

	// More jobs at once, and a second runner. The first job goes on.
	text = strings.Replace(text, "concurrent = 1", "concurrent = 2", 1)
	added := r.AddRunner(coordinator.Runner{Description: "added", Tags: []string{"added"}})
	section := text[strings.Index(text, "[[runners]]"):]
	section = strings.NewReplacer(r.token.Reveal(), added.Token.Reveal(), `"rig"`, `"added"`).Replace(section)
	r.writeOwn(text + section)
	r.signal(syscall.SIGHUP)
	r.succeeds(second)
	r.succeeds(r.Enqueue(spec("echo third"), "added"))
	r.logged("runner added")
	release()
	r.succeeds(first)
}

// TestChangedFileReloads: it takes no signal.
func TestChangedFileReloads(t *testing.T) {
	t.Parallel()
	r := newRig(t, concurrent(1))
	first, release := r.waiting()
	second := r.enqueue(spec("echo second"))
	r.writeOwn("concurrent = nonsense\n")
	r.logged("the new config is not used, the old one stays: " + r.configPath() + ":1: ")
	r.writeConfig()
	r.writeOwn(strings.Replace(r.readOwn(), "concurrent = 1", "concurrent = 2", 1))
	r.succeeds(second)
	release()
	r.succeeds(first)
}
