package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

// rig is a manager with queues in place of servers and with jobs that only take time. It lives in a synctest bubble.
type rig struct {
	t        *testing.T
	m        *Manager
	start    time.Time
	queues   map[string]*queue // by the runner's token
	stop     context.CancelFunc
	result   chan error
	returned bool

	mu       sync.Mutex
	connects []string // tokens
	runs     []run
	running  map[string]int // by the runner's name
	mostAll  int
	mostOf   map[string]int
	log      bytes.Buffer
}

// run is one job's.
type run struct {
	ID    int64
	At    float64 // seconds since the start of the rig
	Slot  [2]int
	Cause error // of its context's end before it ran
	End   error // of its context's end when it had run
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

// logged counts the log lines that contain a text.
func (r *rig) logged(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.log.String(), text)
}

func (r *rig) runJob(ctx context.Context, slot Slot, spec *job.Spec) {
	name := slot.Runner.Name
	r.mu.Lock()
	n := len(r.runs)
	r.runs = append(r.runs, run{
		ID: spec.ID, At: time.Since(r.start).Seconds(), Slot: [2]int{slot.ID, slot.ProjectID}, Cause: context.Cause(ctx),
	})
	r.running[name]++
	r.mostOf[name] = max(r.mostOf[name], r.running[name])
	all := 0
	for _, n := range r.running {
		all += n
	}
	r.mostAll = max(r.mostAll, all)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.running[name]--
		r.runs[n].End = context.Cause(ctx)
		r.mu.Unlock()
	}()
	if spec.JobInfo.Name == "panic" {
		panic("a bug")
	}
	done := ctx.Done()
	if spec.JobInfo.Name == "stubborn" {
		done = nil
	}
	select {
	case <-time.After(spec.Timeout()):
	case <-done:
	}
}

// startRig runs a manager. Each runner's token names its queue.
func startRig(t *testing.T, cfg *config.Config, queues map[string]*queue, options ...func(*Options)) *rig {
	t.Helper()
	r := &rig{
		t: t, start: time.Now(), queues: queues, result: make(chan error, 1),
		running: map[string]int{}, mostOf: map[string]int{},
	}
	o := Options{
		Config: cfg,
		Connect: func(c *config.Runner) (Server, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.connects = append(r.connects, c.Token.Reveal())
			q := r.queues[c.Token.Reveal()]
			if q == nil {
				return nil, errors.New("no such server")
			}
			return q, nil
		},
		Run: r.runJob,
		Log: slog.New(slog.NewTextHandler(r, nil)),
	}
	for _, set := range options {
		set(&o)
	}
	r.m = New(o)
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() { r.result <- r.m.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if !r.returned {
			<-r.result
		}
	})
	return r
}

// at lets the clock run to so many seconds after the start, and everything settle there.
func (r *rig) at(seconds float64) {
	r.t.Helper()
	d := time.Until(r.start.Add(time.Duration(seconds * float64(time.Second))))
	if d < 0 {
		r.t.Fatalf("%g s have passed already", seconds)
	}
	<-time.After(d)
	synctest.Wait()
}

// wait waits for Run to return, and says when that was.
func (r *rig) wait() (seconds float64, err error) {
	err = <-r.result
	r.returned = true
	return time.Since(r.start).Seconds(), err
}

// started returns when each job began, as "id@seconds".
func (r *rig) started() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s []string
	for _, x := range r.runs {
		s = append(s, fmt.Sprintf("%d@%g", x.ID, x.At))
	}
	return strings.Join(s, " ")
}

// named gives a job another name: "panic" panics, "stubborn" ignores its context.
func named(name string, s *job.Spec) *job.Spec {
	s.JobInfo.Name = name
	return s
}

// spec is a job that lasts so many seconds.
func spec(id int64, seconds int) *job.Spec {
	return &job.Spec{
		ID: id, JobInfo: job.Info{ProjectID: 7, Name: "build", ProjectFullPath: "group/demo"},
		RunnerInfo: job.RunnerInfo{Timeout: seconds},
	}
}

// section is a [[runners]] section with GitLab's defaults; token and name are the same.
func section(name string, change ...func(*config.Runner)) *config.Runner {
	r := &config.Runner{
		Name: name, URL: "https://gitlab.example.com", Token: config.Secret(name), Executor: "docker",
		RequestConcurrency: 1, UnhealthyRequestsLimit: 3, UnhealthyInterval: time.Hour,
	}
	for _, c := range change {
		c(r)
	}
	return r
}

func machine(concurrent int, runners ...*config.Runner) *config.Config {
	return &config.Config{
		Concurrent: concurrent, CheckInterval: 3 * time.Second, ShutdownTimeout: 30 * time.Second, Runners: runners,
	}
}

// oneQueue is a rig with a single runner named a.
func oneQueue(t *testing.T, concurrent int, q *queue, change ...func(*config.Runner)) *rig {
	t.Helper()
	return startRig(t, machine(concurrent, section("a", change...)), map[string]*queue{"a": q})
}

// gitlabHold is how long GitLab holds a request.
const gitlabHold = 50 * time.Second
