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
	r := newRig(t)
	asleep := func(pairs ...string) *job.Spec {
		return withVariables(withAfter(spec("echo asleep; sleep 300"), "echo status $CI_JOB_STATUS"), pairs...)
	}
	total := asleep()
	total.RunnerInfo.Timeout = 2
	_, outcomes, logs := r.batch(map[string]*job.Spec{
		"job":    total,
		"script": asleep("RUNNER_SCRIPT_TIMEOUT", "15s"),
		"after": withVariables(withAfter(spec("echo fine"), "echo resting; sleep 300", "echo never"),
			"RUNNER_AFTER_SCRIPT_TIMEOUT", "15s"),
		"after counts": withVariables(withAfter(spec("echo fine"), "echo resting; sleep 300"),
			"RUNNER_AFTER_SCRIPT_TIMEOUT", "2s", "AFTER_SCRIPT_IGNORE_ERRORS", "false"),
	})
	timedOut := coordinator.Outcome{State: job.Failed, FailureReason: job.TimeoutFailure}
	for name, want := range map[string]coordinator.Outcome{
		"job": timedOut, "script": timedOut, "after": {State: job.Success}, "after counts": timedOut,
	} {
		if outcomes[name] != want {
			t.Errorf("%s: job ended as %+v, want %+v\n%s", name, outcomes[name], want, logs[name])
		}
	}
	wants(t, logs["job"], "ERROR: Job failed: execution took longer than 2s seconds", "\nHint: `timeout:` of the job allows more")
	lacks(t, logs["job"], "Running after_script")
	wants(t, logs["script"], "\nasleep\n", "\nstatus timedout\n", "ERROR: Job failed: step_script took longer than 15s (RUNNER_SCRIPT_TIMEOUT sets how long it may take)")
	wants(t, logs["after"], "\nresting\n", "WARNING: after_script failed, but job will continue unaffected: after_script took longer than 15s (RUNNER_AFTER_SCRIPT_TIMEOUT sets", "Job succeeded")
	lacks(t, logs["after"], "\nnever\n")
	wants(t, logs["after counts"], "ERROR: Job failed: after_script took longer than 2s")
}

func TestBadTimeouts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	specs := map[string]*job.Spec{}
	for _, bad := range []string{"5", "-1s", "2h", "soon"} {
		specs[bad] = withVariables(withAfter(spec("sleep 1; echo done"), "echo after"), "RUNNER_SCRIPT_TIMEOUT", bad, "RUNNER_AFTER_SCRIPT_TIMEOUT", bad)
	}
	_, outcomes, logs := r.batch(specs)
	for bad, log := range logs {
		if outcomes[bad].State != job.Success {
			t.Errorf("%s: job ended as %+v", bad, outcomes[bad])
		}
		wants(t, log, "\ndone\n", "\nafter\n")
		for _, name := range []string{"RUNNER_SCRIPT_TIMEOUT", "RUNNER_AFTER_SCRIPT_TIMEOUT"} {
			wants(t, log, fmt.Sprintf("WARNING: %s is %q: not a duration like 10m30s within the job's timeout of %s; it is ignored", name, bad, time.Hour))
		}
	}
}
