package web

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/slipway-ci/slipway/internal/job"
)

func spec(id int64) *job.Spec {
	return &job.Spec{
		ID: id, JobInfo: job.Info{ProjectFullPath: "group/app", Name: "build", TimeInQueue: 2},
		GitInfo: job.Git{RepoURL: "https://gitlab-ci-token:secret@gitlab.example.com/group/app.git"},
	}
}

// busy is a monitor with two runners, of which one runs a job and has ended two.
func busy() (*Monitor, *Running) {
	a, b := Runner{"abcdefghi", "one", "s_1"}, Runner{"123456789", "two", "s_1"}
	m := New(Build{"slipway", "1.2.3", "abc1234"}, func() Now {
		return Now{
			Ready: true, Concurrent: 4,
			Disks:   []Disk{{"state", "/var/lib/slipway", 5, 10}},
			Runners: []RunnerNow{{Runner: a, Limit: 2, RequestConcurrency: 3, Requests: 1}, {Runner: b}, {Runner: b}},
		}
	})
	ok, bad := m.Start(a, spec(1)), m.Start(a, spec(2))
	ok.Stage("step_script")
	ok.Ended(job.Result{State: job.Success})
	ok.Done()
	bad.CountStages()
	bad.Stage("get_sources")
	bad.Stage("step_script")
	bad.Denied("privileged", false)
	bad.Denied("privileged", false)
	bad.Denied("bind-outside", true)
	bad.Built(true)
	bad.Built(true)
	bad.Built(false)
	bad.Saved(1500*time.Millisecond, 2048)
	bad.Ended(job.Result{State: job.Failed, Reason: job.ScriptFailure, Err: errors.New("exit code 1")})
	bad.Ended(job.Result{State: job.Failed, Reason: job.SystemFailure})
	bad.Done()
	running := m.Start(a, spec(3))
	running.Stage("step_script")
	m.Error(true)
	m.Error(false)
	m.Error(false)
	m.Loaded("/etc/slipway/config.toml")
	m.Called(a, "request_job", "post", 204, 50*time.Second)
	return m, running
}

// TestMetrics: names, labels and values as dashboards for GitLab's runner expect them.
func TestMetrics(t *testing.T) {
	t.Parallel()
	m, _ := busy()
	const one = `runner="abcdefghi",runner_name="one"`
	want := strings.ReplaceAll(`
# HELP gitlab_runner_api_request_statuses_total The total number of api requests, partitioned by runner, system_id, endpoint and status.
# TYPE gitlab_runner_api_request_statuses_total counter
gitlab_runner_api_request_statuses_total{endpoint="request_job",method="post",runner="abcdefghi",status="204",system_id="s_1"} 1
# HELP gitlab_runner_concurrent The current value of concurrent setting
# TYPE gitlab_runner_concurrent gauge
gitlab_runner_concurrent 4
# HELP gitlab_runner_errors_total The number of caught errors.
# TYPE gitlab_runner_errors_total counter
gitlab_runner_errors_total{level="error"} 2
gitlab_runner_errors_total{level="warning"} 1
# HELP gitlab_runner_failed_jobs_total Total number of failed jobs
# TYPE gitlab_runner_failed_jobs_total counter
gitlab_runner_failed_jobs_total{failure_reason="script_failure",mode="traditional",ONE,system_id="s_1"} 1
# HELP gitlab_runner_jobs The current number of running builds.
# TYPE gitlab_runner_jobs gauge
gitlab_runner_jobs{executor_stage="docker_run",ONE,stage="step_script",state="running",system_id="s_1"} 1
gitlab_runner_jobs{executor_stage="idle",ONE,stage="idle",state="idle",system_id="s_1"} 0
gitlab_runner_jobs{executor_stage="idle",runner="123456789",runner_name="two",stage="idle",state="idle",system_id="s_1"} 0
# HELP gitlab_runner_jobs_total Total number of handled jobs
# TYPE gitlab_runner_jobs_total counter
gitlab_runner_jobs_total{ONE,system_id="s_1"} 3
# HELP gitlab_runner_limit The current value of limit setting
# TYPE gitlab_runner_limit gauge
gitlab_runner_limit{ONE,system_id="s_1"} 2
gitlab_runner_limit{runner="123456789",runner_name="two",system_id="s_1"} 0
# HELP gitlab_runner_request_concurrency The current number of concurrent requests for a new job
# TYPE gitlab_runner_request_concurrency gauge
gitlab_runner_request_concurrency{ONE,system_id="s_1"} 1
gitlab_runner_request_concurrency{runner="123456789",runner_name="two",system_id="s_1"} 0
# HELP slipway_build_steps_total Instructions of Dockerfiles that builds through jobs' sockets came to; cached: they were done before.
# TYPE slipway_build_steps_total counter
slipway_build_steps_total{cached="false",ONE,system_id="s_1"} 1
slipway_build_steps_total{cached="true",ONE,system_id="s_1"} 2
# HELP slipway_build_saved_seconds_total What the cached instructions of builds took when they were last done on this machine.
# TYPE slipway_build_saved_seconds_total counter
slipway_build_saved_seconds_total{ONE,system_id="s_1"} 1.5
# HELP slipway_build_saved_bytes_total The layers of the cached instructions of builds that made an image.
# TYPE slipway_build_saved_bytes_total counter
slipway_build_saved_bytes_total{ONE,system_id="s_1"} 2048
# HELP slipway_disk_free_bytes What is free of the disks of Slipway's state folder and of the Engines' data.
# TYPE slipway_disk_free_bytes gauge
slipway_disk_free_bytes{dir="/var/lib/slipway",place="state"} 5
# HELP slipway_disk_size_bytes The size of those disks.
# TYPE slipway_disk_size_bytes gauge
slipway_disk_size_bytes{dir="/var/lib/slipway",place="state"} 10
# HELP slipway_guard_denials_total Calls that the guards of jobs' sockets refused, by the rule; audited: would have refused.
# TYPE slipway_guard_denials_total counter
slipway_guard_denials_total{audited="false",rule="privileged",ONE,system_id="s_1"} 2
slipway_guard_denials_total{audited="true",rule="bind-outside",ONE,system_id="s_1"} 1
`, "ONE", one)
	err := testutil.GatherAndCompare(m.registry, strings.NewReader(want),
		"gitlab_runner_api_request_statuses_total", "gitlab_runner_concurrent", "gitlab_runner_errors_total",
		"gitlab_runner_failed_jobs_total", "gitlab_runner_jobs", "gitlab_runner_jobs_total", "gitlab_runner_limit",
		"gitlab_runner_request_concurrency", "slipway_guard_denials_total", "slipway_build_steps_total", "slipway_build_saved_seconds_total", "slipway_build_saved_bytes_total", "slipway_disk_free_bytes", "slipway_disk_size_bytes")
	if err != nil {
		t.Error(err)
	}
}

// TestStageDurations: of the jobs that have them counted, each stage once.
func TestStageDurations(t *testing.T) {
	t.Parallel()
	m, _ := busy()
	if n := testutil.CollectAndCount(m.stages); n != 2 {
		t.Errorf("%d series, want those of get_sources and step_script", n)
	}
}

// TestMetricsAreClean holds all metrics to the rules of Prometheus, as promtool does.
func TestMetricsAreClean(t *testing.T) {
	t.Parallel()
	m, _ := busy()
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestEndpoints asks a real server.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	m, running := busy()
	srv := httptest.NewServer(m.Handler())
	defer srv.Close()
	_, metrics := get(t, srv.URL+"/metrics")
	for _, part := range []string{
		"\ngo_goroutines ", "\nprocess_resident_memory_bytes ", `gitlab_runner_version_info{architecture="`, `version="1.2.3"`,
		`gitlab_runner_job_duration_seconds_bucket{runner="abcdefghi",runner_name="one",system_id="s_1",le="36000"} 2`,
		`gitlab_runner_job_queue_duration_seconds_count{runner="abcdefghi",runner_name="one",system_id="s_1"} 3`,
		`gitlab_runner_api_request_duration_seconds_count{endpoint="request_job",runner="abcdefghi",system_id="s_1"} 1`,
		"\ngitlab_runner_configuration_loaded_total 1\n",
	} {
		if !strings.Contains(metrics, part) {
			t.Errorf("/metrics has no %q", part)
		}
	}
	if strings.Contains(metrics, "secret") {
		t.Error("/metrics shows a password")
	}
	for path, want := range map[string]int{
		"/health/ready": 200, "/debug/jobs/list": 200, "/debug/pprof/": 200, "/debug/pprof/cmdline": 200, "/debug/pprof/goroutine?debug=1": 200, "/": 404, "/status": 404,
	} {
		if status, _ := get(t, srv.URL+path); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	resp, err := http.Post(srv.URL+"/metrics", "text/plain", nil)
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /metrics: %v, %v, want it refused", resp.StatusCode, err)
	}
	resp.Body.Close()
	running.Done()
	if _, list := get(t, srv.URL+"/debug/jobs/list"); list != "" {
		t.Errorf("a job that has ended is listed: %s", list)
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(New(Build{}, func() Now { return Now{} }).Handler())
	defer srv.Close()
	if status, body := get(t, srv.URL+"/health/ready"); status != http.StatusServiceUnavailable || body != "not ready\n" {
		t.Errorf("got %d, %q", status, body)
	}
}

// TestJobList is GitLab's text form, on a clock that the test moves.
func TestJobList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := New(Build{}, func() Now { return Now{} })
		j := m.Start(Runner{ShortToken: "abcdefghi"}, spec(7))
		var got []string
		list := func() {
			time.Sleep(1500 * time.Millisecond)
			rec := httptest.NewRecorder()
			m.serveJobs(rec, nil)
			got = append(got, fmt.Sprint(rec.Header().Get("X-List-Version"), " ", rec.Body))
		}
		list()
		for _, stage := range []string{"prepare_executor", "get_sources", "step_script", "cleanup_file_variables"} {
			j.Stage(stage)
			list()
		}
		j.Ended(job.Result{State: job.Success})
		list()
		j.Done()
		list()
		line := func(state, stage, executor, duration string) string {
			return "2 url=https://gitlab.example.com/group/app/-/jobs/7 state=" + state + " stage=" + stage + " executor_stage=" + executor + " duration=" + duration + "\n"
		}
		want := []string{
			line("pending", "", "created", "1.5s"), line("running", "prepare_executor", "prepare", "3s"),
			line("running", "get_sources", "docker_run", "4.5s"), line("running", "step_script", "docker_run", "6s"),
			line("running", "cleanup_file_variables", "cleanup", "7.5s"), line("finished", "cleanup_file_variables", "finish", "9s"), "2 ",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func get(t *testing.T, url string) (int, string) {
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
	return resp.StatusCode, string(b)
}

// TestProcessState: all that the process is at, and nothing secret.
func TestProcessState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one := Runner{ShortToken: "abcdefghi", Name: "one", SystemID: "s_1"}
		now := Now{}
		m := New(Build{"slipway", "1.2.3", "abc1234"}, func() Now { return now })
		page := func() string {
			rec := httptest.NewRecorder()
			m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/debug/process/state", nil))
			if got := rec.Header().Get("Content-Type"); rec.Code != http.StatusOK || got != "application/json" {
				t.Errorf("%d, %s", rec.Code, got)
			}
			return strings.ReplaceAll(rec.Body.String(), fmt.Sprintf(`"pid": %d`, os.Getpid()), `"pid": 1`)
		}
		if got := page(); !strings.Contains(got, `"state": "starting"`) || !strings.Contains(got, `"jobs": []`) {
			t.Error(got)
		}
		time.Sleep(time.Minute)
		m.Loaded("/etc/slipway/config.toml")
		now = Now{
			State: StateDraining, Concurrent: 4, Running: 2, Waiting: 1,
			Runners: []RunnerNow{
				{Runner: one, Limit: 3, Requests: 1, URL: "https://me:secret@gitlab.example.com/?private_token=secret", Executor: "docker", Jobs: 2, Checked: true},
				{Runner: Runner{Name: "two"}, URL: "https://x y", FailsSince: time.Now(), PausedUntil: time.Now().Add(time.Hour)},
			},
		}
		j := m.Start(one, spec(7))
		j.Stage("step_script")
		over := m.Undelivered("https://me:secret@gitlab.example.com", 6)
		time.Sleep(1500 * time.Millisecond)
		want := `{
  "state": "stopping gracefully",
  "ready": false,
  "version": "1.2.3",
  "revision": "abc1234",
  "pid": 1,
  "started": "2000-01-01T00:00:00Z",
  "config": {
    "file": "/etc/slipway/config.toml",
    "loaded": "2000-01-01T00:01:00Z"
  },
  "slots": {
    "concurrent": 4,
    "running": 2,
    "waiting": 1
  },
  "runners": [
    {
      "name": "one",
      "runner": "abcdefghi",
      "url": "https://gitlab.example.com/",
      "executor": "docker",
      "limit": 3,
      "jobs": 2,
      "requests": 1,
      "verified": true
    },
    {
      "name": "two",
      "runner": "",
      "url": "",
      "executor": "",
      "limit": 0,
      "jobs": 0,
      "requests": 0,
      "verified": false,
      "fails_since": "2000-01-01T00:01:00Z",
      "paused_until": "2000-01-01T01:01:00Z"
    }
  ],
  "jobs": [
    {
      "url": "https://gitlab.example.com/group/app/-/jobs/7",
      "runner": "abcdefghi",
      "state": "running",
      "stage": "step_script",
      "seconds": 1.5
    }
  ],
  "undelivered": [
    {
      "server": "https://gitlab.example.com",
      "job": 6,
      "since": "2000-01-01T00:01:00Z"
    }
  ]
}
`
		if diff := cmp.Diff(want, page()); diff != "" {
			t.Error(diff)
		}
		over()
		j.Done()
		if got := page(); !strings.Contains(got, `"undelivered": []`) || !strings.Contains(got, `"jobs": []`) {
			t.Error(got)
		}
	})
}
