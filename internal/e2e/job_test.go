package e2e

import (
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

func TestScriptAndAfterScript(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	t.Run("success", func(t *testing.T) {
		log := r.must(job.Success, withAfter(spec("x=1", "echo x is $x", "echo err >&2"), "echo status $CI_JOB_STATUS, x is ${x:-gone}"))
		// Both outputs are streams of their own, whose lines may swap.
		wants(t, log, "$ echo x is $x\n", "\nx is 1\n", "\nerr\n", "Running after script...", "status success, x is gone", "Job succeeded")
	})
	t.Run("exit code", func(t *testing.T) {
		o, log := r.run(withAfter(spec("echo before", "exit 3", "echo never"), "echo status $CI_JOB_STATUS"))
		if o.State != job.Failed || o.FailureReason != job.ScriptFailure || o.ExitCode != 3 {
			t.Errorf("outcome %+v", o)
		}
		wants(t, log, "before", "status failed", "ERROR: Job failed: exit code 3")
		lacks(t, log, "\nnever")
	})
}
