package e2e

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// TestMetrics: what a Prometheus sees of a Slipway while a job runs and when it has failed.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket(), globalKeys(`listen_address = "127.0.0.1:0"`))
	found := regexp.MustCompile(`serving metrics and health.*address=(\S+)`).FindStringSubmatch(r.log.String())
	if found == nil {
		t.Fatalf("no address in the log:\n%s", r.log)
	}
	base := "http://" + found[1]
	r.eventually("slipway is ready", func() bool { return strings.HasPrefix(fetch(t, base+"/health/ready"), "200 ready") })
	build := withDocker("printf 'FROM "+alpine+"\\nRUN echo $CI_JOB_ID >/x\\nRUN echo 2\\n' >Dockerfile", "docker build .", "docker build .")
	r.must(job.Success, withVariables(build, "FF_EXPORT_HIGH_CARDINALITY_METRICS", "true"))
	victim := r.enqueue(withDocker("echo begun", "docker run --rm --privileged "+alpine+" true || echo refused", untilTold, "exit 3"))
	r.until(victim, "\nrefused\n")
	wants(t, fetch(t, base+"/debug/jobs/list"), "state=running stage=step_script executor_stage=docker_run duration=")
	wants(t, fetch(t, base+"/metrics"),
		`stage="step_script",state="running",system_id="`, "\ngitlab_runner_concurrent 4\n", `gitlab_runner_request_concurrency_hard_limit{`)
	r.tell(victim)
	if o, _ := r.end(victim); o.State != job.Failed {
		t.Errorf("the job ended as %+v", o)
	}
	r.eventually("the job is counted out", func() bool {
		return strings.Contains(fetch(t, base+"/metrics"), `gitlab_runner_job_duration_seconds_count{runner="`)
	})
	metrics := fetch(t, base+"/metrics")
	for _, line := range []string{
		`gitlab_runner_failed_jobs_total{failure_reason="script_failure",mode="traditional",.*} 1`,
		`gitlab_runner_jobs_total{.*,runner_name="rig",.*} 2`,
		`slipway_build_steps_total{cached="false",.*} 2`,
		`slipway_build_steps_total{cached="true",.*} 2`,
		`slipway_build_saved_seconds_total{.*} (0\.0*)?[1-9].*`,
		`slipway_build_saved_bytes_total{.*} [1-9][0-9]*`,
		`gitlab_runner_job_stage_duration_seconds_count{.*stage="step_script",.*} 1`,
		`slipway_disk_free_bytes{dir=".*/state",place="state"} [1-9].*`,
		`slipway_disk_free_bytes{dir="/.*",place="engine"} [1-9].*`,
		`slipway_disk_freed_bytes_total{what="build_cache"} 0`,
		`slipway_guard_denials_total{audited="false",rule="privileged",.*} 1`,
		`gitlab_runner_api_request_statuses_total{endpoint="request_job",method="post",.*,status="201",.*} 2`,
		`gitlab_runner_api_request_statuses_total{endpoint="update_job",method="put",.*,status="200",.*} [1-9]`,
	} {
		if !regexp.MustCompile(`(?m)^` + strings.ReplaceAll(line, `{`, `\{`) + `$`).MatchString(metrics) {
			t.Errorf("/metrics lacks %s:\n%s", line, metrics)
		}
	}
	lacks(t, metrics, r.token.Reveal())
}

// fetch gives the status and the body of a page.
func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(resp.Status)[0] + " " + string(b)
}
