package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

func TestTimeouts(t *testing.T) {
	t.Parallel()
	r := newRig(t, manyJobs)
	asleep := func(pairs ...string) *job.Spec {
		return withVariables(withAfter(spec("echo asleep; sleep 300"), "echo status $CI_JOB_STATUS"), pairs...)
	}
	total := asleep()
	total.RunnerInfo.Timeout = 2
	jobs := map[string]*coordinator.Job{
		"job":    r.enqueue(total),
		"script": r.enqueue(asleep("RUNNER_SCRIPT_TIMEOUT", "3s")),
		"after": r.enqueue(withVariables(withAfter(spec("echo fine"), "echo resting; sleep 300", "echo never"),
			"RUNNER_AFTER_SCRIPT_TIMEOUT", "2s")),
		"after counts": r.enqueue(withVariables(withAfter(spec("echo fine"), "echo resting; sleep 300"),
			"RUNNER_AFTER_SCRIPT_TIMEOUT", "2s", "AFTER_SCRIPT_IGNORE_ERRORS", "false")),
	}
	outcomes, logs := make(map[string]coordinator.Outcome), make(map[string]string)
	for name, j := range jobs {
		outcomes[name], logs[name] = r.end(j)
		if took := j.Times().Final.Sub(j.Times().HandedOut); took > atOnce {
			t.Errorf("%s: the job took %s", name, took)
		}
	}
	timedOut := coordinator.Outcome{State: job.Failed, FailureReason: job.TimeoutFailure}
	for name, want := range map[string]coordinator.Outcome{
		"job": timedOut, "script": timedOut, "after": {State: job.Success}, "after counts": timedOut,
	} {
		if outcomes[name] != want {
			t.Errorf("%s: job ended as %+v, want %+v\n%s", name, outcomes[name], want, logs[name])
		}
	}
	wants(t, logs["job"], "ERROR: Job failed: execution took longer than 2s seconds")
	lacks(t, logs["job"], "Running after_script")
	wants(t, logs["script"], "\nasleep\n", "\nstatus timedout\n", "ERROR: Job failed: step_script took longer than 3s")
	wants(t, logs["after"], "\nresting\n", "WARNING: after_script failed, but job will continue unaffected: after_script took longer than 2s", "Job succeeded")
	lacks(t, logs["after"], "\nnever\n")
	wants(t, logs["after counts"], "ERROR: Job failed: after_script took longer than 2s")
}

func TestBadTimeouts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, bad := range []string{"5", "-1s", "2h", "soon"} {
		s := withVariables(withAfter(spec("sleep 1; echo done"), "echo after"), "RUNNER_SCRIPT_TIMEOUT", bad, "RUNNER_AFTER_SCRIPT_TIMEOUT", bad)
		log := r.must(job.Success, s)
		for _, name := range []string{"RUNNER_SCRIPT_TIMEOUT", "RUNNER_AFTER_SCRIPT_TIMEOUT"} {
			wants(t, log, fmt.Sprintf("WARNING: %s is %q: not a duration like 10m30s within the job's timeout of %s; it is ignored", name, bad, time.Hour))
		}
	}
}
