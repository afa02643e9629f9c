package e2e

import (
	"testing"

	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// withBash is busybox with this machine's bash.
func withBash() demo.Recipe {
	recipe := demo.Alpine()
	recipe.Programs = map[string]string{"/bin/bash": "bash"}
	return recipe
}

const whichShell = "echo shell: ${BASH_VERSION:+bash}"

func TestShellOfTheImage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bash := r.image(withBash())
	t.Run("bash", func(t *testing.T) {
		s := withAfter(withImage(spec(whichShell, "[[ abc == a* ]] && echo a pattern", "a=(1 2 3); echo ${#a[@]} elements"), bash), whichShell)
		log := r.in(t).must(job.Success, s)
		wants(t, log, "\nshell: bash\n", "\na pattern\n", "\n3 elements\n", "Running after script...\n$ "+whichShell+"\nshell: bash\n")
	})
	t.Run("busybox", func(t *testing.T) {
		wants(t, r.in(t).must(job.Success, spec(whichShell)), "\nshell:\n")
	})
	t.Run("a pipe that fails", func(t *testing.T) {
		for _, image := range []string{bash, alpine} {
			lacks(t, r.in(t).fails(job.ScriptFailure, 3, withImage(spec("(exit 3) | cat", "echo never"), image)), "\nnever\n")
		}
	})
	t.Run("redirection over a file", func(t *testing.T) {
		r.in(t).must(job.Success, withImage(spec("echo 1 >file; echo 2 >file"), bash))
	})
	t.Run("none", func(t *testing.T) {
		bare := r.in(t).image(demo.Recipe{Programs: map[string]string{"/bin/bash": "bash"}})
		log := r.in(t).fails(job.ConfigurationError, 0, withImage(spec("echo never"), bare))
		wants(t, log, "ERROR: Job failed: the image has no sh, which runs the script", "Hint: use an image with a shell (a -debug variant, or one with busybox)")
	})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	t.Run("commands of several lines", func(t *testing.T) {
		log := r.in(t).must(job.Success, spec("for i in 1 2; do\n  echo line $i\ndone", "echo one\n"))
		wants(t, log, "\n$ for i in 1 2; do # collapsed multi-line command\nline 1\nline 2\n$ echo one\none\n")
	})
	t.Run("stdin is empty", func(t *testing.T) {
		s := withAfter(spec("cat; echo end of stdin", "read x || echo nothing to read"), "cat; echo and after")
		wants(t, r.in(t).must(job.Success, s), "\nend of stdin\n", "\nnothing to read\n", "\nand after\n")
	})
	t.Run("one shell for before_script and script", func(t *testing.T) {
		wants(t, r.in(t).must(job.Success, spec("x=1; cd /tmp; f() { echo f $x; }", "f; pwd")), "\nf 1\n/tmp\n")
	})
	t.Run("a process that outlives the script", func(t *testing.T) {
		r := r.in(t)
		j := r.enqueue(withAfter(spec("sleep 300 & (while :; do sleep 1; done) >/dev/null 2>&1 &", "sh -c 'sleep 300 >&2 &'", "echo done"), "echo after"))
		wants(t, r.succeeds(j), "\ndone\n", "\nafter\n")
	})
	t.Run("a syntax error", func(t *testing.T) {
		s := withAfter(spec("echo one", "if true; then"), "echo after")
		wants(t, r.in(t).fails(job.ScriptFailure, 2, s), "syntax error", "\nafter\n")
	})
	t.Run("no newline at the end", func(t *testing.T) {
		wants(t, r.in(t).must(job.Success, withAfter(spec("printf 'no newline'; printf 'nor here' >&2"), "printf 'the end'")), "no newline", "nor here", "the end")
	})
	t.Run("control characters", func(t *testing.T) {
		wants(t, r.in(t).must(job.Success, spec(`printf 'a\001b\001slipway:x:0\n\001\001c\n'`)), "\na\x01b\x01slipway:x:0\n\x01\x01c\n")
	})
}

func TestScriptSettings(t *testing.T) {
	t.Parallel()
	r := newRig(t, runnerKeys(`shell = "sh"
  pre_build_script = "echo before; x=1"
  post_build_script = "echo after $x"`))
	wants(t, r.must(job.Success, withImage(spec(whichShell), r.image(withBash()))), "\nshell:\n")
	wants(t, r.must(job.Success, spec("echo x is $x")), "\nbefore\n$ echo x is $x\nx is 1\nafter 1\n")
	lacks(t, r.fails(job.ScriptFailure, 3, spec("exit 3")), "\nafter 1\n")
}
