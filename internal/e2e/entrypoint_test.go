package e2e

import (
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// exporting is an entrypoint as images have it: it prepares the environment and becomes what it is given.
const exporting = "echo entered\nexport GREETING=\"hello from $0\"\nexec \"$@\"\n"

func TestEntrypoint(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	image := r.image(withEntrypoint(exporting))
	greet := func(text string) *job.Spec {
		return withAfter(withImage(spec("echo script: ${GREETING:-none}", text), image), "echo after: ${GREETING:-none}")
	}
	t.Run("is seen by script and after_script", func(t *testing.T) {
		t.Parallel()
		log := r.in(t).must(job.Success, greet("true"))
		wants(t, log, "script: hello from /entrypoint\n", "after: hello from /entrypoint\n")
		if n := strings.Count(log, "entered\n"); n != 1 {
			t.Errorf("the entrypoint ran %d times:\n%s", n, log)
		}
	})
	t.Run("runs again when the container ended in mid-script", func(t *testing.T) {
		t.Parallel()
		r := r.in(t)
		j := r.enqueue(greet("echo sleeping; sleep 300"))
		r.until(j, "\nsleeping\n")
		r.killContainer(j)
		o, log := r.end(j)
		r.ended(o, log, job.ScriptFailure, 137)
		wants(t, log, "script: hello from /entrypoint\n", "after: hello from /entrypoint\n", "exit code 137")
		if n := strings.Count(log, "entered\n"); n != 2 {
			t.Errorf("the entrypoint ran %d times:\n%s", n, log)
		}
	})
	t.Run("is left out by the job", func(t *testing.T) {
		t.Parallel()
		s := greet("true")
		s.Image.Entrypoint = []string{""}
		log := r.in(t).must(job.Success, s)
		wants(t, log, "\nscript: none\n", "\nafter: none\n")
		lacks(t, log, "entered\n")
	})
	t.Run("is a shell or env", func(t *testing.T) {
		t.Parallel()
		for _, entrypoint := range [][]string{{"/bin/sh", "-c"}, {"/usr/bin/env", "GREETING=hello"}} {
			s := greet("true")
			s.Image.Entrypoint = entrypoint
			wants(t, r.in(t).must(job.Success, s), "\nscript: ", "\nafter: ")
		}
	})
	t.Run("is replaced by the job", func(t *testing.T) {
		t.Parallel()
		s := greet("true")
		s.Image.Entrypoint = []string{"/bin/sh", "-c", `export GREETING="hello from the list"; exec "$@"`, "name"}
		log := r.in(t).must(job.Success, s)
		wants(t, log, "script: hello from the list\n", "after: hello from the list\n")
		lacks(t, log, "entered\n")
	})
}

func TestEntrypointOverwriteDisabled(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys("disable_entrypoint_overwrite = true"))
	s := withImage(spec("echo script: $GREETING"), r.image(withEntrypoint(exporting)), "")
	wants(t, r.must(job.Success, s), "script: hello from /entrypoint\n")
}

// TestEntrypointIsNotAShell: the command that an entrypoint is given is what reads the stages.
func TestEntrypointIsNotAShell(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const hint = `Hint: the image's entrypoint must exec the command it is given; image: entrypoint: [""] leaves it out`
	t.Run("that ends", func(t *testing.T) {
		t.Parallel()
		r := r.in(t)
		log := r.fails(job.ConfigurationError, 0, withImage(spec("echo never"), alpine, "/bin/true"))
		wants(t, log, "ERROR: Job failed: the container ended before the script did", hint)
	})
	t.Run("that fails", func(t *testing.T) {
		t.Parallel()
		r := r.in(t)
		s := withAfter(withImage(spec("echo never"), alpine, "/bin/sh", "-c", "echo no licence; exit 4"), "echo never")
		log := r.fails(job.ScriptFailure, 4, s)
		wants(t, log, "no licence\n", "ERROR: Job failed: exit code 4", hint)
		lacks(t, log, "\nnever")
	})
	t.Run("that is not there", func(t *testing.T) {
		t.Parallel()
		r := r.in(t)
		log := r.fails(job.ConfigurationError, 0, withImage(spec("echo never"), alpine, "/nowhere"))
		wants(t, log, "the container does not start", "Hint: check image: entrypoint:")
	})
}

// TestDockerEntrypoint: the official docker image's entrypoint looks for the Engine and tells docker where it is.
func TestDockerEntrypoint(t *testing.T) {
	t.Parallel()
	echo := "echo engine: ${DOCKER_HOST-socket}"
	t.Run("without a socket", func(t *testing.T) {
		t.Parallel()
		log := newRig(t).must(job.Success, withAfter(withImage(spec(echo), dockerClient), "echo then; "+echo))
		wants(t, log, "\nengine: tcp://docker:2375\n", "\nthen\nengine: tcp://docker:2375\n")
	})
	t.Run("with a guarded socket", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, withSocket())
		j := r.enqueue(withAfter(withImage(spec(echo, "docker version --format {{.Server.Os}}", "sleep 60"), dockerClient), echo+"; docker version --format '{{.Server.Os}} again'"))
		r.until(j, "\nlinux\n")
		r.killContainer(j)
		o, log := r.end(j)
		r.ended(o, log, job.ScriptFailure, 137)
		wants(t, log, "\nengine: socket\n", "\nlinux again\n")
	})
	t.Run("with the Engine's socket", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, withSocket(), slipwayKeys(`socket = "raw"`))
		s := withAfter(withImage(spec(echo, "docker version --format {{.Server.Os}}", "docker kill $(hostname)", "sleep 60"), dockerClient), "echo then; "+echo)
		log := r.fails(job.ScriptFailure, 137, s)
		wants(t, log, "\nengine: socket\n", "\nlinux\n", "\nthen\nengine: socket\n", "WARNING: the Engine's socket is mounted raw")
	})
}
