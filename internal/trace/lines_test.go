package trace

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// The entries of a failing job as GitLab's own runner wrote them, with what matters of its text.
const recorded = "2000-01-01T00:00:00.473859Z 00O \x1b[0KRunning with slipway 1.0 (d79f3e7b)\x1b[0;m\n" +
	"2000-01-01T00:00:00.473859Z 00O section_start:946684800:prepare_executor\r\x1b[0K\n" +
	"2000-01-01T00:00:00.473859Z 00O+\x1b[0K\x1b[36;1mPreparing the \"docker\" executor\x1b[0;m\x1b[0;m\n" +
	"2000-01-01T00:00:00.473859Z 00O \x1b[0KUsing Docker executor with image docker:20.10.7 ...\x1b[0;m\n" +
	"2000-01-01T00:00:01.787328Z 00O section_end:946684801:prepare_executor\r\x1b[0K\n" +
	"2000-01-01T00:00:01.787328Z 00O+section_start:946684801:step_script\r\x1b[0K\n" +
	"2000-01-01T00:00:01.787328Z 00O+\x1b[0K\x1b[36;1mExecuting \"step_script\" stage of the job script\x1b[0;m\x1b[0;m\n" +
	"2000-01-01T00:00:02.845929Z 01O \x1b[32;1m$ echo hi\x1b[0;m\n" +
	"2000-01-01T00:00:02.845929Z 01O hi\n" +
	"2000-01-01T00:00:02.845929Z 01E Terminated\n" +
	"2000-01-01T00:00:02.845929Z 00O section_end:946684802:step_script\r\x1b[0K\n" +
	"2000-01-01T00:00:02.845929Z 00O+\x1b[0;33mWARNING: after_script failed, but job will continue unaffected\x1b[0;m\n" +
	"2000-01-01T00:00:02.845929Z 00O section_start:946684802:cleanup_file_variables\r\x1b[0K\n" +
	"2000-01-01T00:00:02.845929Z 00O+\x1b[0K\x1b[36;1mCleaning up project directory and file based variables\x1b[0;m\x1b[0;m\n" +
	"2000-01-01T00:00:02.845929Z 00O section_end:946684802:cleanup_file_variables\r\x1b[0K\n" +
	"2000-01-01T00:00:02.845929Z 00O \x1b[31;1mERROR: Job failed: exit code 3\x1b[0;m\n"

func TestLogLooksLikeGitLabs(t *testing.T) {
	bubble(t, stamped, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		at(473859*time.Microsecond, s)
		tr.Printf("Running with %s 1.0 (%s)", "slipway", "d79f3e7b")
		end := tr.Section("prepare_executor", `Preparing the "docker" executor`)
		tr.Printf("Using Docker executor with image docker:20.10.7 ...")
		at(1787328*time.Microsecond, s)
		end()
		end = tr.Section("step_script", `Executing "step_script" stage of the job script`)
		at(2845929*time.Microsecond, s)
		write(t, tr.Stdout(), "\x1b[32;1m$ echo hi\x1b[0;m\nhi\n")
		write(t, tr.Stderr(), "Terminated") // the section's end ends the line too
		end()
		tr.Warnf("after_script failed, but job will continue unaffected")
		tr.Section("cleanup_file_variables", "Cleaning up project directory and file based variables")()
		mustClose(t, tr, exit3)
		diff(t, "log", recorded, s.text())
	})
}

// TestMarkThatEndsLikeASecret: a mark of a section stays in one entry though its last byte begins a masked value.
func TestMarkThatEndsLikeASecret(t *testing.T) {
	k := func(o *Options, _ *server) { o.Timestamps, o.Sections, o.Masked = true, true, []string{"Kilimanjaro"} }
	bubble(t, k, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		tr.Section("step_script", "Script")()
		mustClose(t, tr, succeeded)
		for _, mark := range []string{"start", "end"} {
			if want := "section_" + mark + ":946684800:step_script\r\x1b[0K\n"; !strings.Contains(s.text(), want) {
				t.Errorf("%q is not in the log:\n%q", want, s.text())
			}
		}
	})
}

func TestLogWithoutTimestamps(t *testing.T) {
	sections := func(o *Options, _ *server) { o.Sections = true }
	bubble(t, sections, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		end := tr.Section("step_script", "Script")
		write(t, tr.Stdout(), "a\r\nb\x00\xff")
		write(t, tr.Stderr(), "c")
		end()
		tr.Section("after_script", "After")()
		tr.Noticef("saved")
		tr.Errorf("not saved")
		mustClose(t, tr, succeeded)
		diff(t, "log", "section_start:946684800:step_script\r\x1b[0K\x1b[0K\x1b[36;1mScript\x1b[0;m\x1b[0;m\n"+
			"a\r\nb\x00\xffc\n"+ // the runner begins a new line, the job's bytes are as they were
			"section_end:946684800:step_script\r\x1b[0K"+
			"section_start:946684800:after_script\r\x1b[0K\x1b[0K\x1b[36;1mAfter\x1b[0;m\x1b[0;m\n"+
			"section_end:946684800:after_script\r\x1b[0K"+
			"\x1b[32;1msaved\x1b[0;m\n\x1b[31;1mERROR: not saved\x1b[0;m\n"+
			"\x1b[32;1mJob succeeded\x1b[0;m\n", s.text())
	})
}

func TestSectionForAServerWithoutSections(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		tr.Section("step_script", "Script")()
		mustClose(t, tr, succeeded)
		diff(t, "log", "\x1b[0K\x1b[36;1mScript\x1b[0;m\x1b[0;m\n\x1b[32;1mJob succeeded\x1b[0;m\n", s.text())
	})
}

func TestLastLine(t *testing.T) {
	failed := func(r job.Reason, text, hint string) job.Result {
		return job.ResultOf(&job.Error{Reason: r, Err: errors.New(text), Hint: hint}, nil)
	}
	for _, tt := range []struct {
		name   string
		result job.Result
		want   string
	}{
		{"success", succeeded, "\x1b[32;1mJob succeeded\x1b[0;m\n"},
		{"script", exit3, "\x1b[31;1mERROR: Job failed: exit code 3\x1b[0;m\n"},
		{
			"runner", job.ResultOf(errors.New("no Engine"), nil),
			"\x1b[31;1mERROR: Job failed (system failure): no Engine\x1b[0;m\n",
		},
		{
			"hint", failed(job.ConfigurationError, "no such image", "check image: in .gitlab-ci.yml"),
			"\x1b[31;1mERROR: Job failed: no such image\x1b[0;m\n\x1b[0KHint: check image: in .gitlab-ci.yml\x1b[0;m\n",
		},
		{
			"timeout", job.ResultOf(nil, &job.TimeoutError{After: time.Minute}),
			"\x1b[31;1mERROR: Job failed: execution took longer than 1m0s seconds\x1b[0;m\n" +
				"\x1b[0KHint: `timeout:` of the job allows more, up to the limit on the runner's page in GitLab\x1b[0;m\n",
		},
		{"canceled", job.ResultOf(nil, job.ErrCanceling), "\x1b[31;1mERROR: Job failed: canceled\x1b[0;m\n"},
		{"secret", failed(job.ScriptFailure, "no host hunter2", ""), "\x1b[31;1mERROR: Job failed: no host [MASKED]\x1b[0;m\n"},
		{"no error", job.Result{State: job.Failed, Reason: job.ScriptFailure}, "\x1b[31;1mERROR: Job failed: script_failure\x1b[0;m\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			secret := func(o *Options, _ *server) { o.Masked = []string{"hunter2"} }
			bubble(t, secret, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
				mustClose(t, tr, tt.result)
				diff(t, "log", tt.want, s.text())
			})
		})
	}
}

// A limit is on what the job prints; the runner always has its say.
func TestLimit(t *testing.T) {
	const notice = "\x1b[33;1mJob's log exceeded limit of 10 bytes.\n" +
		"Job execution will continue but no more output will be collected.\x1b[0;m\n"
	ten := func(o *Options, _ *server) { o.Limit = 10 }
	t.Run("plain", func(t *testing.T) {
		bubble(t, ten, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
			tr.Printf("this does not count")
			write(t, tr.Stdout(), "123456\n")
			write(t, tr.Stderr(), "89\n") // just full
			synctest.Wait()
			if strings.Contains(s.text(), "exceeded") {
				t.Error("a full log has not exceeded its limit")
			}
			write(t, tr.Stdout(), "x\n")
			write(t, tr.Stderr(), "x\n")
			mustClose(t, tr, exit3)
			diff(t, "log", "\x1b[0Kthis does not count\x1b[0;m\n123456\n89\n"+notice+
				"\x1b[31;1mERROR: Job failed: exit code 3\x1b[0;m\n", s.text())
		})
	})
	t.Run("in mid-line", func(t *testing.T) {
		bubble(t, ten, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
			write(t, tr.Stdout(), strings.Repeat("0123456789abcdef", 1<<16))
			mustClose(t, tr, succeeded)
			diff(t, "log", "0123456789\n"+notice+"\x1b[32;1mJob succeeded\x1b[0;m\n", s.text())
		})
	})
	t.Run("timestamps", func(t *testing.T) {
		change := func(o *Options, _ *server) { o.Limit, o.Timestamps = 10, true }
		bubble(t, change, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
			write(t, tr.Stderr(), "12")
			write(t, tr.Stdout(), "34567890abc\n")
			mustClose(t, tr, succeeded)
			diff(t, "entries", []string{
				"01O 34567890", "01E 12",
				"00O \x1b[33;1mJob's log exceeded limit of 10 bytes.",
				"00O Job execution will continue but no more output will be collected.\x1b[0;m",
				"00O \x1b[32;1mJob succeeded\x1b[0;m",
			}, entries(t, s.text()))
		})
	})
}

func TestMaskInAllStreams(t *testing.T) {
	secret := func(o *Options, _ *server) { o.Masked = []string{"hunter2"}; o.Timestamps = true }
	bubble(t, secret, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		write(t, tr.Stdout(), "a hun")
		write(t, tr.Stderr(), "b hunter")
		tr.Printf("using hunter2 hun")
		tr.AddMasked("t0ken")
		write(t, tr.Stdout(), "ter2 t0")
		write(t, tr.Stderr(), "2\n")
		write(t, tr.Stdout(), "ken\n")
		tr.Section("hunter2", "t0ken")()
		mustClose(t, tr, succeeded)
		diff(t, "entries", []string{
			"00O \x1b[0Kusing [MASKED] hun\x1b[0;m", "01E b [MASKED]", "01O a [MASKED] [MASKED]",
			"00O \x1b[0K\x1b[36;1m[MASKED]\x1b[0;m\x1b[0;m", "00O \x1b[32;1mJob succeeded\x1b[0;m",
		}, entries(t, s.text()))
	})
}
