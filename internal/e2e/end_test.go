package e2e

import (
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// tiny is an entrypoint like tini: it stays, and the shell is its child.
const tiny = "export GREETING=hello\n\"$@\"\nexit $?\n"

// TestKillFirstProcess: the kernel keeps the container's first process from its own children; the shell below an
// init is not kept from anything.
func TestKillFirstProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	init := r.image(withEntrypoint(tiny))
	after := func(s *job.Spec) *job.Spec {
		return withAfter(s, "echo status $CI_JOB_STATUS, ${GREETING:-none}", "test -f kept && echo kept")
	}
	t.Run("kill -9 1", func(t *testing.T) {
		log := r.in(t).must(job.Success, spec("kill -9 1", "echo alive"))
		wants(t, log, "\nalive\n")
	})
	t.Run("the parent that is the first", func(t *testing.T) {
		log := r.in(t).must(job.Success, spec("kill -9 $PPID", "echo alive"))
		wants(t, log, "\nalive\n")
	})
	t.Run("the parent below an init", func(t *testing.T) {
		log := r.in(t).fails(job.ScriptFailure, 137, after(withImage(spec("touch kept", "kill -9 $PPID", "sleep 60; echo alive"), init)))
		wants(t, log, "\nstatus failed, hello\n", "\nkept\n", "ERROR: Job failed: exit code 137")
		lacks(t, log, "\nalive\n", "Hint:")
	})
	t.Run("the script itself", func(t *testing.T) {
		log := r.in(t).fails(job.ScriptFailure, 137, after(spec("touch kept", "kill -9 $$", "echo alive")))
		wants(t, log, "\nstatus failed, none\n", "\nkept\n")
		lacks(t, log, "\nalive\n")
	})
	t.Run("all processes below an init", func(t *testing.T) {
		log := r.in(t).fails(job.ScriptFailure, 137, after(withImage(spec("kill -9 -1; sleep 60"), init)))
		wants(t, log, "\nstatus failed, hello\n")
	})
}

func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`memory = "64m"`))
	const hint = "Hint: a process was killed for want of memory: let the job use less, or raise memory in [runners.docker]"
	t.Run("a command", func(t *testing.T) {
		log := r.in(t).fails(job.ScriptFailure, 137, withAfter(spec("tail /dev/zero"), "echo status $CI_JOB_STATUS"))
		wants(t, log, "\nstatus failed\n", "ERROR: Job failed: exit code 137", hint)
	})
	t.Run("a command of a command", func(t *testing.T) {
		log := r.in(t).fails(job.ScriptFailure, 2, spec("sh -c 'tail /dev/zero || { sleep 1; exit 2; }'"))
		wants(t, log, hint)
	})
	t.Run("the container", func(t *testing.T) {
		s := withImage(spec("echo never"), alpine, "/bin/sh", "-c", "exec tail /dev/zero")
		log := r.in(t).fails(job.ScriptFailure, 137, s)
		wants(t, log, hint)
	})
	t.Run("enough", func(t *testing.T) {
		log := r.in(t).fails(job.ScriptFailure, 137, spec("kill -9 $$"))
		lacks(t, log, "Hint:")
	})
}
