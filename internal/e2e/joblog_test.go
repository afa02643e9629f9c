package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// mark is a section's begin or end, with the headline that follows a begin.
var mark = regexp.MustCompile(`section_(start|end):\d+:(\w+)(?:\[[^\]]*\])?\r\x1b\[0K(?:\n\S+ 00O\+|)(?:\x1b\[0K\x1b\[36;1m([^\x1b]*))?`)

// stamp is how a line begins with FF_TIMESTAMPS.
var stamp = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z 0[01][OE][+ ]`)

// outline lists the sections of a log in GitLab's form.
func outline(trace []byte) []string {
	var out []string
	for _, m := range mark.FindAllSubmatch(trace, -1) {
		if string(m[1]) == "start" {
			out = append(out, fmt.Sprintf("%s: %s", m[2], m[3]))
			continue
		}
		out = append(out, "/"+string(m[2]))
	}
	return out
}

const (
	prepareExecutor = `prepare_executor: Preparing the "docker" executor`
	prepareScript   = "prepare_script: Preparing environment"
	getSources      = "get_sources: Getting source from Git repository"
	stepScript      = `step_script: Executing "step_script" stage of the job script`
	afterScript     = "after_script: Running after_script"
	cleanUp         = "cleanup_file_variables: Cleaning up project directory and file based variables"
)

func closed(headline string) []string {
	name, _, _ := strings.Cut(headline, ":")
	return []string{headline, "/" + name}
}

// TestSections: the sections that GitLab's own runner writes, in its order and words.
func TestSections(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sections := func(headlines ...string) (out []string) {
		for _, h := range headlines {
			out = append(out, closed(h)...)
		}
		return out
	}
	all := sections(prepareExecutor, prepareScript, getSources, stepScript, afterScript, cleanUp)
	lost := withGit(r.gitProject("file", "text"), spec("true"))
	lost.GitInfo.SHA = strings.Repeat("1", 40)
	for _, timestamps := range []string{"true", "false"} {
		want := map[string][]string{
			"success":         all,
			"failure":         all,
			"no after_script": sections(prepareExecutor, prepareScript, getSources, stepScript, cleanUp),
			"no image":        nil,
			"no sources":      sections(prepareExecutor, prepareScript, getSources, cleanUp),
		}
		specs := map[string]*job.Spec{
			"success":         withAfter(spec("true"), "true"),
			"failure":         withAfter(spec("exit 3"), "true"),
			"no after_script": spec("true"),
			"no image":        withImage(spec("true"), "127.0.0.1:1/x/$UNKNOWN/y"),
			"no sources":      lost,
		}
		for _, s := range specs {
			withVariables(s, "FF_TIMESTAMPS", timestamps)
		}
		jobs, _, logs := r.batch(specs)
		for name, j := range jobs {
			trace := string(j.Trace())
			if diff := cmp.Diff(want[name], outline(j.Trace())); diff != "" {
				t.Errorf("%s, timestamps %s: %s\n%q", name, timestamps, diff, trace)
			}
			stamped := len(stamp.FindAllString(trace, -1))
			if n := strings.Count(trace, "\n"); timestamps == "true" && stamped != n || timestamps == "false" && stamped > 0 {
				t.Errorf("%s, timestamps %s: %d of %d lines have one:\n%q", name, timestamps, stamped, n, trace)
			}
		}
		for name, last := range map[string]string{
			"success": "Job succeeded", "failure": "ERROR: Job failed: exit code 3", "no image": "Hint: correct `image:`; a variable in it may be empty",
		} {
			if !strings.HasSuffix(strings.TrimSpace(logs[name]), "\n"+last) {
				t.Errorf("%s: the last line is not %q:\n%s", name, last, logs[name])
			}
		}
	}
	t.Run("for a server without sections", func(t *testing.T) {
		s := spec("echo here")
		s.Features = job.Features{FailureReasons: []job.Reason{job.UnknownFailure}}
		j := r.enqueue(s)
		_, log := r.in(t).end(j)
		if got := outline(j.Trace()); got != nil {
			t.Errorf("sections %q", got)
		}
		wants(t, log, `Executing "step_script" stage of the job script`, "\nhere\n")
	})
}

// TestJobLog holds a whole log, as GitLab's own runner words it.
func TestJobLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j := r.enqueue(withVariables(withAfter(spec("echo hi", "exit 3"), "echo after"), "FF_TIMESTAMPS", "false"))
	r.end(j)
	changing := strings.NewReplacer(r.token.Short(), "TOKEN", alpine, "IMAGE")
	got := changing.Replace(string(j.Trace()))
	for _, c := range []struct{ pattern, name string }{
		{`section_(start|end):\d+`, "section_$1:0"},
		{`sha256:[0-9a-f]{64}`, "sha256:ID"},
		{`s_[0-9a-f]{12}|r_\w{12}`, "SYSTEM"},
		{`-[0-9a-f]{16}-build via [^\x1b]+`, "-RANDOM-build via HOST..."},
		{` with digest \S+@sha256:ID`, ""}, // containerd knows one of images that no registry has, too
	} {
		got = regexp.MustCompile(c.pattern).ReplaceAllString(got, c.name)
	}
	const esc = "\x1b"
	want := strings.NewReplacer("^", esc, "~", "\r"+esc+"[0K", "|", esc+"[0;m\n").Replace(
		"^[0KRunning with slipway test (test)|" +
			"^[0K  on rig TOKEN, system ID: SYSTEM|" +
			"^[0K  feature flags: FF_TIMESTAMPS:false|" +
			"section_start:0:prepare_executor~^[0K^[36;1mPreparing the \"docker\" executor^[0;m|" +
			"^[0KUsing Docker executor with image IMAGE ...|" +
			"^[0KUsing effective pull policy of [if-not-present] for container IMAGE|" +
			"^[0KUsing locally found image version due to \"if-not-present\" pull policy|" +
			"^[0KUsing docker image sha256:ID for IMAGE ...|" +
			"section_end:0:prepare_executor~section_start:0:prepare_script~^[0K^[36;1mPreparing environment^[0;m|" +
			"^[0KRunning on runner-TOKEN-project-7-concurrent-0-RANDOM-build via HOST...|" +
			"section_end:0:prepare_script~section_start:0:get_sources~^[0K^[36;1mGetting source from Git repository^[0;m|" +
			"^[32;1mSkipping Git repository setup|" +
			"^[32;1mSkipping Git checkout|" +
			"section_end:0:get_sources~section_start:0:step_script~^[0K^[36;1mExecuting \"step_script\" stage of the job script^[0;m|" +
			"^[32;1m$ echo hi|hi\n" +
			"^[32;1m$ exit 3|" +
			"section_end:0:step_script~section_start:0:after_script~^[0K^[36;1mRunning after_script^[0;m|" +
			"^[32;1mRunning after script...|" +
			"^[32;1m$ echo after|after\n" +
			"section_end:0:after_script~section_start:0:cleanup_file_variables~^[0K^[36;1mCleaning up project directory and file based variables^[0;m|" +
			"section_end:0:cleanup_file_variables~^[31;1mERROR: Job failed: exit code 3|")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOutputLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, runnerKeys("output_limit = 10"))
	log := r.fails(job.ScriptFailure, 4, withAfter(spec("seq 100000 | sed 's/.*/a line/'", "echo never seen", "exit 4"), "echo nor this"))
	wants(t, log, "Job's log exceeded limit of 10240 bytes.", "Job execution will continue but no more output will be collected.", "ERROR: Job failed: exit code 4")
	lacks(t, log, "\nnever seen", "\nnor this")
	if n := strings.Count(log, "\na line"); n < 1000 || n > 10240/len("a line\n") {
		t.Errorf("%d lines are left", n)
	}
}

// TestFeatureFlags: the configuration wins over the job.
// TestFlagsOfContainersAndScripts: those that change what runs.
func TestFlagsOfContainersAndScripts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j := r.enqueue(withVariables(spec("tr '\\0' ' ' </proc/1/cmdline", "set +o errexit", "sh -c 'exit 7'", "echo never"),
		"FF_USE_INIT_WITH_DOCKER_EXECUTOR", "true", "FF_SCRIPT_SECTIONS", "true", "FF_ENABLE_BASH_EXIT_CODE_CHECK", "true"))
	o, log := r.end(j)
	if o.State != job.Failed || o.ExitCode != 7 {
		t.Errorf("%+v:\n%s", o, log)
	}
	wants(t, log, "docker-init")
	wants(t, string(j.Trace()), ":section_script_step_0\r", ":section_script_step_2\r")
	lacks(t, log, "\nnever")
}

func TestFeatureFlags(t *testing.T) {
	t.Parallel()
	r := newRig(t, runnerKeys("[runners.feature_flags]\n  FF_TIMESTAMPS = false\n  FF_OF_THE_FUTURE = true"))
	var j *coordinator.Job
	for _, value := range []string{"true", "nonsense"} {
		j = r.enqueue(withVariables(spec("echo here"), "FF_TIMESTAMPS", value))
		if o, log := r.end(j); o.State != job.Success || !strings.HasPrefix(string(j.Trace()), "\x1b[0KRunning with") {
			t.Errorf("%s: %+v\n%s", value, o, log)
		}
	}
}
