package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestUnsupportedPayloads: a job that needs what Slipway does not do yet fails at once, and says so.
func TestUnsupportedPayloads(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for what, change := range map[string]func(*job.Spec){
		"secrets": func(s *job.Spec) { s.Secrets = json.RawMessage(`{"PASSWORD": {"vault": {}}}`) },
		"run":     func(s *job.Spec) { s.Run = "- step: x" },
	} {
		s := spec("echo never")
		change(s)
		log := r.fails(job.ConfigurationError, 0, s)
		wants(t, log, "ERROR: Job failed: this runner does not do "+what+" yet\n", "Hint: give the job a tag of another runner, or take the keyword out")
		lacks(t, log, "\nnever")
	}
}

// TestRelease: what release: of .gitlab-ci.yml comes to is a step of its own, in a shell of its own, with the job's variables in place.
func TestRelease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := func(script string) *job.Spec {
		s := withVariables(withAfter(spec("echo built", script), "echo after: $CI_JOB_STATUS"), "TAG", "v1.2.3")
		s.Steps = append(s.Steps, job.Step{Name: "release", Script: []string{`echo 'released $TAG'`}, When: "on_success"})
		return s
	}
	log := r.must(job.Success, release("true"))
	wants(t, log, `Executing "step_script" stage of the job script`, "\nbuilt\n", `Executing "step_release" stage of the job script`, "\nreleased v1.2.3\n", "\nafter: success\n")
	if at := strings.Index(log, "\nreleased"); at > strings.Index(log, "\nafter:") {
		t.Errorf("after_script ran before the release:\n%s", log)
	}
	log = r.fails(job.ScriptFailure, 3, release("exit 3"))
	lacks(t, log, "step_release", "\nreleased")
	wants(t, log, "\nafter: failed\n")
}

// TestUnreadablePayload: the server counts the job as running, so it is told that it is not.
func TestUnreadablePayload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.stop()
	s := spec("echo never")
	s.ID, s.Token = 4711, "glcbt-secret"
	r.Inject(coordinator.Fault{
		Endpoint: coordinator.RequestJob, Status: http.StatusCreated, After: true,
		Header: map[string]string{"Content-Type": "application/json"}, Body: `{"id": 4711, "token": "glcbt-secret", "variables": "none"}`,
	})
	bad, good := r.enqueue(s), r.enqueue(spec("true"))
	r.start()
	o, log := r.end(bad)
	r.ended(o, log, job.SystemFailure, 0)
	wants(t, log, "ERROR: Job failed (system failure): read the payload of job 4711: ")
	r.succeeds(good)
	lacks(t, r.log.String(), "glcbt-secret")
}

// TestJobTokenIsRefused: the server wants nothing of the job. It is stopped, and the next one runs.
func TestJobTokenIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, concurrent(1))
	atOnce := spec("echo never", "sleep 300")
	atOnce.ID = 5001
	r.Inject(coordinator.Fault{Match: aboutID(5001), Status: http.StatusForbidden, Times: -1})
	refused := r.enqueue(atOnce)
	r.succeeds(r.enqueue(spec("true")))

	later := spec("echo begun", "sleep 300")
	later.ID = 6001
	j := r.enqueue(later)
	r.until(j, "\nbegun\n")
	r.Inject(coordinator.Fault{Match: aboutID(6001), Status: http.StatusForbidden, Times: -1})
	r.succeeds(r.enqueue(spec("true")))

	for _, j := range []*coordinator.Job{refused, j} {
		if c := r.containers(j); len(c) != 0 {
			t.Errorf("job %d leaves %+v", j.ID(), c)
		}
		var final []job.Update
		for _, u := range j.Updates() {
			if u.State != job.Running {
				final = append(final, u)
			}
		}
		if len(final) != 0 {
			t.Errorf("the end of job %d was reported: %+v", j.ID(), final)
		}
	}
}

func TestHugeVariables(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	huge := strings.Repeat("0123456789abcdef", 8000) // 128 000 bytes: just what one variable may have
	t.Run("as large as may be", func(t *testing.T) {
		log := r.in(t).must(job.Success, withVariables(spec("echo ${#HUGE}"), "HUGE", huge))
		wants(t, log, "\n128000\n")
	})
	t.Run("all together are too large", func(t *testing.T) {
		r := r.in(t)
		s := spec("echo never")
		for i := range 30 {
			withVariables(s, fmt.Sprintf("HUGE%d", i), huge)
		}
		log := r.fails(job.ConfigurationError, 0, s)
		wants(t, log, "ERROR: Job failed: the variables have 384", "too many for the environment", "Hint: make the largest ones file variables")
	})
	t.Run("in a file", func(t *testing.T) {
		s := spec("wc -c <$HUGE")
		s.Variables = append(s.Variables, job.Variable{Key: "HUGE", Value: strings.Repeat(huge, 20), File: true})
		log := r.in(t).must(job.Success, s)
		wants(t, log, "\n2560000\n")
	})
	t.Run("very many", func(t *testing.T) {
		s := spec("env | grep -c ^MANY")
		for i := range 5000 {
			withVariables(s, fmt.Sprintf("MANY_%d", i), "value")
		}
		wants(t, r.in(t).must(job.Success, s), "\n5000\n")
	})
}

// TestHostilePayloads: nothing that a payload says leads out of the folders that are the job's.
func TestHostilePayloads(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, path := range []string{"../../../etc", "group/../../..", "/etc", "group//demo", "group/de:mo", "group/\x00", "."} {
		s := spec("echo never")
		s.JobInfo.ProjectFullPath = path
		log := r.fails(job.SystemFailure, 0, s)
		wants(t, log, "ERROR: Job failed (system failure): the server sent an invalid project path")
	}
	outside := filepath.Join(t.TempDir(), "file")
	for _, key := range []string{outside, "../../../../../../../../../.." + outside, "a/b", "..", "x\x00y"} {
		s := spec("echo never")
		s.Variables = append(s.Variables, job.Variable{Key: key, Value: "hostile", File: true})
		lacks(t, r.fails(job.SystemFailure, 0, s), "\nnever")
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a file variable was written outside of the job's folder")
	}
}
