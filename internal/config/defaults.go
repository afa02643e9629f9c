package config

import (
	"cmp"
	"math"
	"time"
)

// The executors that Slipway has.
const (
	dockerExecutor = "docker"
	ShellExecutor  = "shell"
)

func implemented(executor string) bool {
	return executor == dockerExecutor || executor == ShellExecutor
}

// seconds guards against overflow: anything longer than 68 years is as good as that.
func seconds(n int) time.Duration {
	return time.Duration(max(min(n, math.MaxInt32), math.MinInt32)) * time.Second
}

// orDefault takes the default where nothing, or nothing above zero, is set.
func orDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// defaults of the whole file.
//
// GitLab: nearly every number of its file means "the default" when it is zero or less.
func (c *Config) defaults() {
	orDefault(&c.CheckInterval, 3*time.Second)
	orDefault(&c.ShutdownTimeout, 30*time.Second)
	orDefault(&c.ConnectionMaxAge, 15*time.Minute)
	orDefault(&c.SessionServer.SessionTimeout, 1800)
}

func (r *Runner) defaults() {
	r.Limit = max(r.Limit, 0)
	orDefault(&r.RequestConcurrency, 1)
	orDefault(&r.OutputLimit, 4096)
	r.OutputLimit = min(r.OutputLimit, math.MaxInt32)
	orDefault(&r.UnhealthyRequestsLimit, 3)
	orDefault(&r.UnhealthyInterval, time.Hour)
	orDefault(&r.JobStatusFinalUpdateRetryLimit, 10)
	r.PrepareTimeout = max(r.PrepareTimeout, 0)
	r.GetSourcesTimeout = max(r.GetSourcesTimeout, 0)
	if v := &r.Experimental.BootVerify; v.Enabled {
		orDefault(&v.Timeout, 5*time.Minute)
		longest := cmp.Or(v.AcquireMaxBackoff, 10*time.Second)
		orDefault(&v.AcquireMinBackoff, min(time.Second, longest))
		orDefault(&v.AcquireMaxBackoff, max(longest, v.AcquireMinBackoff))
	}
	if r.Docker != nil {
		r.Docker.defaults()
	}
}

// shellDefaults of a runner whose jobs run without containers.
func (r *Runner) shellDefaults() {
	if r.Docker == nil {
		r.Docker = &Docker{}
		r.Docker.defaults()
	}
	r.Slipway.defaults()
}

// dockerDefaults of a runner whose jobs run in containers.
func (r *Runner) dockerDefaults() {
	if r.BuildsDir == "" {
		r.BuildsDir = "/builds"
	}
	if r.CacheDir == "" {
		r.CacheDir = "/cache"
	}
	r.Slipway.defaults()
}

func (d *Docker) defaults() {
	if len(d.PullPolicy) == 0 {
		d.PullPolicy = StringList{PullAlways}
	}
	if len(d.AllowedPullPolicies) == 0 {
		d.AllowedPullPolicies = d.PullPolicy
	}
	if d.WaitForServicesTimeout == 0 {
		d.WaitForServicesTimeout = 30
	}
}
