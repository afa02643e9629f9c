package web

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// Runner names one [[runners]] in labels.
type Runner struct {
	ShortToken string // the part of the token that may be seen
	Name       string
	SystemID   string
}

// Job is one job as it is shown.
type Job struct {
	URL    string // in GitLab's pages
	Runner Runner
	// GitLab's words.
	State         string // pending, running, finished
	Stage         string // prepare_executor, get_sources, step_script, …
	ExecutorStage string // what the executor does meanwhile: docker_run, cleanup, …
	Duration      time.Duration
}

// Running is one job while it runs. Its methods may be called from any goroutine.
type Running struct {
	monitor *Monitor
	began   time.Time
	runner  Runner
	spec    *job.Spec

	mu      sync.Mutex
	stage   string
	entered time.Time // when the stage began
	ended   bool
	stages  bool // their durations are counted, too
}

// The states of a job.
//
// GitLab: its words.
const (
	statePending  = "pending"
	stateRunning  = "running"
	stateFinished = "finished"
)

// Start counts a job in. End must follow.
func (m *Monitor) Start(r Runner, spec *job.Spec) *Running {
	j := &Running{monitor: m, began: time.Now(), runner: r, spec: spec}
	m.mu.Lock()
	m.running = append(m.running, j)
	m.mu.Unlock()
	labels := []string{r.ShortToken, r.Name, r.SystemID}
	m.jobs.WithLabelValues(labels...).Inc()
	if s := spec.JobInfo.TimeInQueue; s > 0 {
		m.queued.WithLabelValues(labels...).Observe(s)
	}
	return j
}

// Stage notes the stage that the job enters.
func (j *Running) Stage(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.leaveStage()
	j.stage, j.entered = name, time.Now()
}

// CountStages has the durations of the job's stages among the metrics: a series for each stage of each runner.
//
// GitLab: FF_EXPORT_HIGH_CARDINALITY_METRICS.
func (j *Running) CountStages() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stages = true
}

// leaveStage counts the stage that the job is in. The lock is held.
func (j *Running) leaveStage() {
	if j.stages && j.stage != "" {
		j.monitor.stages.WithLabelValues(j.runner.ShortToken, j.runner.Name, j.runner.SystemID, j.stage).Observe(time.Since(j.entered).Seconds())
	}
}

// Denied counts what the guard of the job's socket refused, by the name of its rule; audited: it would have been refused.
func (j *Running) Denied(rule string, audited bool) {
	j.monitor.denials.WithLabelValues(j.runner.ShortToken, j.runner.Name, j.runner.SystemID, rule, strconv.FormatBool(audited)).Inc()
}

// Built counts an instruction of a Dockerfile that a build has come to; cached: it was done before.
func (j *Running) Built(cached bool) {
	j.monitor.steps.WithLabelValues(j.runner.ShortToken, j.runner.Name, j.runner.SystemID, strconv.FormatBool(cached)).Inc()
}

// Saved counts what cached instructions of a build saved: the time that they took when they were last done here, and the bytes
// of their layers.
func (j *Running) Saved(t time.Duration, bytes int64) {
	labels := []string{j.runner.ShortToken, j.runner.Name, j.runner.SystemID}
	j.monitor.savedSeconds.WithLabelValues(labels...).Add(t.Seconds())
	j.monitor.savedBytes.WithLabelValues(labels...).Add(float64(bytes))
}

// Ended notes how the job ended; what follows is its report.
func (j *Running) Ended(r job.Result) {
	j.mu.Lock()
	again := j.ended
	if !again {
		j.leaveStage()
	}
	j.ended = true
	j.mu.Unlock()
	if again || r.State != job.Failed {
		return
	}
	// GitLab: mode tells scripts from CI steps.
	j.monitor.failed.WithLabelValues(j.runner.ShortToken, j.runner.Name, j.runner.SystemID, string(r.Reason), "traditional").Inc()
}

// Done counts the job out.
func (j *Running) Done() {
	m := j.monitor
	m.mu.Lock()
	m.running = slices.DeleteFunc(m.running, func(o *Running) bool { return o == j })
	m.mu.Unlock()
	m.durations.WithLabelValues(j.runner.ShortToken, j.runner.Name, j.runner.SystemID).Observe(time.Since(j.began).Seconds())
}

// Jobs are those that run, in the order in which they began.
func (m *Monitor) Jobs() []Job {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Job, 0, len(m.running))
	for _, j := range m.running {
		out = append(out, j.job())
	}
	return out
}

func (j *Running) job() Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	state := stateRunning
	switch {
	case j.ended:
		state = stateFinished
	case j.stage == "":
		state = statePending
	}
	return Job{
		URL: jobURL(j.spec), Runner: j.runner,
		State: state, Stage: j.stage, ExecutorStage: executorStage(j.stage, j.ended), Duration: time.Since(j.began),
	}
}

// executorStage puts our stages into the words of GitLab's docker executor.
func executorStage(stage string, ended bool) string {
	switch {
	case ended:
		return "finish"
	case stage == "":
		return "created"
	case stage == "prepare_executor", stage == "prepare_script":
		return "prepare"
	case strings.HasPrefix(stage, "cleanup"):
		return "cleanup"
	}
	return "docker_run"
}

// jobURL is the job's page.
//
// GitLab: made of the repository's URL, without credentials and the .git at its end.
func jobURL(spec *job.Spec) string {
	repo := spec.GitInfo.RepoURL
	if scheme, rest, ok := strings.Cut(repo, "://"); ok {
		if at := strings.IndexByte(rest, '@'); at >= 0 && (strings.IndexByte(rest, '/') < 0 || at < strings.IndexByte(rest, '/')) {
			rest = rest[at+1:]
		}
		repo = scheme + "://" + rest
	}
	return strings.TrimSuffix(repo, ".git") + "/-/jobs/" + strconv.FormatInt(spec.ID, 10)
}
