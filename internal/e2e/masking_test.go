package e2e

import (
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

func TestMasking(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`pull_policy = "never"`))
	const secret, lines = "s3cr3t-Value", "first-half\nsecond-half"
	masked := func(script ...string) *job.Spec {
		s := withAfter(spec(script...), "echo after $SECRET; echo to stderr $SECRET >&2")
		s.Variables = job.Variables{{Key: "SECRET", Value: secret, Masked: true}, {Key: "LINES", Value: lines, Masked: true}, {Key: "OF", Value: "<$SECRET>"}}
		return s
	}
	check := func(t *testing.T, trace []byte) {
		t.Helper()
		for _, text := range []string{"s3cr3t", "-Value", "first-half", "second-half", "abcdef", "0123456789abcdefghij"} {
			if strings.Contains(string(trace), text) {
				t.Errorf("the log has %q:\n%s", text, trace)
			}
		}
	}
	const split = "printf 'split: s3cr3''t'; sleep 1; printf %s -Val; sleep 1; echo 'ue!'"
	specs := map[string]*job.Spec{}
	for _, timestamps := range []string{"true", "false"} {
		specs[timestamps] = withVariables(masked(
			split,
			"echo s3cr3t-Value as it stands",
			`echo "lines: $LINES"`,
			"echo $OF",
			"echo 'https://host/?a=1&private_token=abcdef&b=2'",
			"echo token $CI_JOB_TOKEN glpat-0123456789abcdefghij gldt-0123456789abcdefghij",
		), "FF_TIMESTAMPS", timestamps)
	}
	jobs, outcomes, logs := r.batch(specs)
	for timestamps, log := range logs {
		if outcomes[timestamps].State != job.Success {
			t.Errorf("job ended as %+v", outcomes[timestamps])
		}
		wants(t, log, "to stderr [MASKED]\n", "\n$ echo [MASKED] as it stands\n[MASKED] as it stands\n",
			"\nlines: [MASKED]\n", "\n<[MASKED]>\n", "\nhttps://host/?a=1&private_token=[MASKED]&b=2\n",
			"\ntoken [MASKED] glpat-[MASKED] gldt-[MASKED]\n", "after [MASKED]\n", "[MASKED]!\n")
		if timestamps == "false" {
			wants(t, log, "\nsplit: [MASKED]!\n")
		}
		// The command shows the parts in pieces of their own.
		check(t, []byte(strings.ReplaceAll(string(jobs[timestamps].Trace()), "$ "+split, "")))
	}
	t.Run("by the runner", func(t *testing.T) {
		j := r.enqueue(withImage(masked("echo never"), "slipway.test/missing:$SECRET"))
		_, log := r.in(t).end(j)
		wants(t, log, "slipway.test/missing:[MASKED]")
		check(t, j.Trace())
	})
}

func TestDebugTrace(t *testing.T) {
	t.Parallel()
	traced := func() *job.Spec {
		s := withAfter(withVariables(spec("echo x$UNSET$SECRET"), "CI_DEBUG_TRACE", "true"), "echo after")
		s.Variables = append(s.Variables, job.Variable{Key: "SECRET", Value: "s3cr3t-Value", Masked: true})
		return s
	}
	debug := func(j *coordinator.Job) (yes, no int) {
		for _, q := range j.Requests() {
			switch {
			case q.Endpoint != coordinator.PatchTrace:
			case q.Debug:
				yes++
			default:
				no++
			}
		}
		return yes, no
	}
	t.Run("allowed", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		j := r.enqueue(traced())
		_, log := r.end(j)
		wants(t, log, "\n+ echo x[MASKED]\n", "\nx[MASKED]\n", "\n+ echo after\n", "Job succeeded")
		lacks(t, log, "s3cr3t")
		if yes, no := debug(j); yes == 0 || no > 0 {
			t.Errorf("%d pieces of the log are marked as debug output, %d are not", yes, no)
		}
	})
	t.Run("disabled", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, runnerKeys("debug_trace_disabled = true"))
		j := r.enqueue(traced())
		_, log := r.end(j)
		wants(t, log, "\nx[MASKED]\n", "Job succeeded")
		lacks(t, log, "+ echo")
		if yes, no := debug(j); yes > 0 || no == 0 {
			t.Errorf("%d pieces of the log are marked as debug output, %d are not", yes, no)
		}
	})
}
