package web

import (
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Now is what is going on at the moment of a request.
type Now struct {
	State      string // StateRunning, …; "" = it is starting
	Ready      bool   // jobs are asked for
	Concurrent int    // most jobs at once
	Running    int    // jobs that have a slot
	Waiting    int    // jobs that were taken and have none yet
	Runners    []RunnerNow
	Disks      []Disk
}

// The states of the process.
const (
	StateStarting = "starting"
	StateRunning  = "running"
	StateDraining = "stopping gracefully" // no more jobs are taken, those that run go on
	StateStopping = "stopping"            // those that run are aborted
)

// Disk is one that must not get full.
type Disk struct {
	Place      string // what is on it: state, engine
	Dir        string
	Free, Size uint64 // bytes; Free is what is left for a user who is not root
}

// RunnerNow is the part of one runner.
type RunnerNow struct {
	Runner
	Limit              int // most jobs at once; 0 = no limit of its own
	RequestConcurrency int // most requests at once
	Requests           int // in flight

	URL, Executor string
	Jobs          int       // running, or waiting for a slot
	Checked       bool      // boot_verify does not keep it from asking for jobs
	FailsSince    time.Time // since when asking for jobs fails; zero = it does not
	PausedUntil   time.Time // for refused requests; zero = not paused
}

// Monitor counts. It is safe for concurrent use.
type Monitor struct {
	registry *prometheus.Registry
	now      func() Now

	jobs, failed, denials, steps *prometheus.CounterVec
	savedSeconds, savedBytes     *prometheus.CounterVec
	freed                        *prometheus.CounterVec
	errors, statuses, configured *prometheus.CounterVec
	durations, queued, calls     *prometheus.HistogramVec
	stages                       *prometheus.HistogramVec

	build   Build
	started time.Time

	mu          sync.Mutex
	running     []*Running
	config      string    // the file
	loaded      time.Time // when it was read
	undelivered []*undelivered
}

// Build says which Slipway this is.
type Build struct{ Name, Version, Revision string }

// New makes a monitor. now is asked at each request, from any goroutine.
//
// GitLab: the metrics that begin with gitlab_runner_ have the names, labels and buckets of its runner, so that its
// dashboards and alerts work; those that begin with slipway_ are our own.
func New(b Build, now func() Now) *Monitor {
	runner := []string{"runner", "runner_name", "system_id"}
	with := func(more ...string) []string { return append(append([]string{}, runner...), more...) }
	counter := func(name, help string, labels []string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Monitor{
		registry: prometheus.NewRegistry(), now: now, build: b, started: time.Now(),
		jobs:     counter("gitlab_runner_jobs_total", "Total number of handled jobs", runner),
		failed:   counter("gitlab_runner_failed_jobs_total", "Total number of failed jobs", with("failure_reason", "mode")),
		errors:   counter("gitlab_runner_errors_total", "The number of caught errors.", []string{"level"}),
		statuses: counter("gitlab_runner_api_request_statuses_total", "The total number of api requests, partitioned by runner, system_id, endpoint and status.", []string{"runner", "system_id", "endpoint", "status", "method"}),
		configured: counter("gitlab_runner_configuration_loaded_total",
			"Total number of times the configuration file was loaded by Runner process", nil),
		denials: counter("slipway_guard_denials_total",
			"Calls that the guards of jobs' sockets refused, by the rule; audited: would have refused.", with("rule", "audited")),
		steps: counter("slipway_build_steps_total",
			"Instructions of Dockerfiles that builds through jobs' sockets came to; cached: they were done before.", with("cached")),
		savedSeconds: counter("slipway_build_saved_seconds_total",
			"What the cached instructions of builds took when they were last done on this machine.", runner),
		savedBytes: counter("slipway_build_saved_bytes_total",
			"The layers of the cached instructions of builds that made an image.", runner),
		freed: counter("slipway_disk_freed_bytes_total",
			"What was removed because a disk was short or a build cache too large; what: build_cache, images, caches, sources.", []string{"what"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gitlab_runner_job_duration_seconds", Help: "Histogram of job durations",
			Buckets: []float64{30, 60, 300, 600, 1800, 3600, 7200, 10800, 18000, 36000},
		}, runner),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gitlab_runner_job_stage_duration_seconds", Help: "Histogram of job stage durations",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600, 1800, 3600},
		}, with("stage")),
		queued: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gitlab_runner_job_queue_duration_seconds", Help: "A histogram representing job queue duration.",
			Buckets: []float64{1, 3, 10, 30, 60, 120, 300, 900, 1800, 3600},
		}, runner),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gitlab_runner_api_request_duration_seconds", Help: "Latency histogram of API requests made by GitLab Runner",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"runner", "system_id", "endpoint"}),
	}
	version := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "gitlab_runner_version_info", Help: "A metric with a constant '1' value labeled by different build stats fields.",
		ConstLabels: prometheus.Labels{
			"name": b.Name, "version": b.Version, "revision": b.Revision, "branch": "", "go_version": runtime.Version(),
			"built_at": "", "os": runtime.GOOS, "architecture": runtime.GOARCH,
		},
	})
	version.Set(1)
	for _, level := range []string{"warning", "error"} {
		m.errors.WithLabelValues(level) // there from the start: a rate needs a zero
	}
	for _, what := range []string{"build_cache", "images", "builds", "caches", "sources"} {
		m.freed.WithLabelValues(what)
	}
	m.registry.MustRegister(
		m.jobs, m.failed, m.errors, m.statuses, m.configured, m.denials, m.steps, m.savedSeconds, m.savedBytes, m.freed, m.durations, m.stages, m.queued, m.calls, version, state{m},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Error counts a line of the program's log that is a warning, or worse.
func (m *Monitor) Error(warning bool) {
	level := "error"
	if warning {
		level = "warning"
	}
	m.errors.WithLabelValues(level).Inc()
}

// Loaded counts that the configuration was read, from that file.
func (m *Monitor) Loaded(file string) {
	m.configured.WithLabelValues().Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.config, m.loaded = file, time.Now()
}

// Freed counts bytes that were removed to make room on a disk.
func (m *Monitor) Freed(what string, bytes int64) { m.freed.WithLabelValues(what).Add(float64(bytes)) }

// Called counts a call to GitLab's API that was answered.
func (m *Monitor) Called(r Runner, endpoint, method string, status int, took time.Duration) {
	m.statuses.WithLabelValues(r.ShortToken, r.SystemID, endpoint, strconv.Itoa(status), method).Inc()
	m.calls.WithLabelValues(r.ShortToken, r.SystemID, endpoint).Observe(took.Seconds())
}

// state collects what is not counted but looked at.
type state struct{ *Monitor }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// descs are those of state. GitLab: names and labels.
type descs struct{ concurrent, limit, requestConcurrency, hardLimit, jobs, diskFree, diskSize *prometheus.Desc }

func stateDescs() descs {
	return descs{
		concurrent:         desc("gitlab_runner_concurrent", "The current value of concurrent setting"),
		limit:              desc("gitlab_runner_limit", "The current value of limit setting", "runner", "runner_name", "system_id"),
		requestConcurrency: desc("gitlab_runner_request_concurrency", "The current number of concurrent requests for a new job", "runner", "runner_name", "system_id"),
		hardLimit:          desc("gitlab_runner_request_concurrency_hard_limit", "Configured request_concurrency limit", "runner", "runner_name", "system_id"),
		jobs:               desc("gitlab_runner_jobs", "The current number of running builds.", "runner", "runner_name", "system_id", "state", "stage", "executor_stage"),
		diskFree:           desc("slipway_disk_free_bytes", "What is free of the disks of Slipway's state folder and of the Engines' data.", "place", "dir"),
		diskSize:           desc("slipway_disk_size_bytes", "The size of those disks.", "place", "dir"),
	}
}

// Describe implements prometheus.Collector.
func (state) Describe(ch chan<- *prometheus.Desc) {
	d := stateDescs()
	for _, one := range []*prometheus.Desc{d.concurrent, d.limit, d.requestConcurrency, d.hardLimit, d.jobs, d.diskFree, d.diskSize} {
		ch <- one
	}
}

// Collect implements prometheus.Collector.
func (s state) Collect(ch chan<- prometheus.Metric) {
	d, now := stateDescs(), s.now()
	gauge := func(desc *prometheus.Desc, value int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
	}
	gauge(d.concurrent, now.Concurrent)
	for _, disk := range now.Disks {
		ch <- prometheus.MustNewConstMetric(d.diskFree, prometheus.GaugeValue, float64(disk.Free), disk.Place, disk.Dir)
		ch <- prometheus.MustNewConstMetric(d.diskSize, prometheus.GaugeValue, float64(disk.Size), disk.Place, disk.Dir)
	}
	type group struct {
		Runner
		state, stage, executorStage string
	}
	counts := map[group]int{}
	seen := map[Runner]bool{}
	for _, r := range now.Runners {
		if seen[r.Runner] { // the same runner twice in config.toml would be the same series twice
			continue
		}
		seen[r.Runner] = true
		labels := []string{r.ShortToken, r.Name, r.SystemID}
		gauge(d.limit, r.Limit, labels...)
		gauge(d.requestConcurrency, r.Requests, labels...)
		gauge(d.hardLimit, r.RequestConcurrency, labels...)
		counts[group{r.Runner, "idle", "idle", "idle"}] = 0 // GitLab: so that the series is there without a job
	}
	for _, j := range s.Jobs() {
		counts[group{j.Runner, j.State, j.Stage, j.ExecutorStage}]++
	}
	for g, n := range counts {
		gauge(d.jobs, n, g.ShortToken, g.Name, g.SystemID, g.state, g.stage, g.executorStage)
	}
}
