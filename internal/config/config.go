// Package config reads, checks and rewrites config.toml: GitLab's file, with our own settings in [slipway] and
// [runners.slipway]. It knows nothing of jobs, servers or the Engine: it yields plain structs and says, with file and
// line, what in the file is wrong or has no effect.
package config

import (
	"slices"
	"time"
)

// Config is a checked config.toml with its defaults filled in.
type Config struct {
	Path             string
	Concurrent       int           // most jobs at once, over all runners; at least 1
	CheckInterval    time.Duration // between two job requests of all runners; 3 s by default
	LogLevel         string        // debug, info, warn, warning, error, fatal or panic; "" = not set
	LogFormat        string        // runner, text or json; "" = not set
	ShutdownTimeout  time.Duration // what a forced stop waits for the jobs; 30 s by default
	ConnectionMaxAge time.Duration // after which idle connections to GitLab are closed; 15 min by default
	ListenAddress    string        // host:port of metrics and health, "" = none
	User             string        // whom jobs of the shell executor run as; "" = slipway's own user
	SessionServer    SessionServer
	Slipway          Slipway
	Runners          []*Runner // in the file's order, those with an executor that we lack too
}

// Served are the runners whose jobs can run here.
func (c *Config) Served() []*Runner {
	return slices.DeleteFunc(slices.Clone(c.Runners), func(r *Runner) bool { return r.Unsupported != "" })
}

// SessionServer is [session_server]: where GitLab gets at the web terminals of jobs.
type SessionServer struct {
	ListenAddress    string `toml:"listen_address,omitempty"`    // host:port, "" = no terminals
	AdvertiseAddress string `toml:"advertise_address,omitempty"` // host:port for GitLab; "" = ListenAddress
	SessionTimeout   int    `toml:"session_timeout,omitzero"`    // s that a terminal may keep a job from ending; 1800 by default
}

// Slipway is [slipway], the settings of ours for the whole machine.
type Slipway struct {
	StateDir string        `toml:"state_dir,omitempty"` // absolute; see the function StateDir
	Limits   MachineLimits `toml:"limits,omitempty"`
}

// MachineLimits is [slipway.limits]: what Slipway keeps the disks of the machine to.
type MachineLimits struct {
	// MinFree is to stay free of the disks of the state folder and of the Engines' data; nil = the default, see MinFree.Of.
	MinFree *MinFree `toml:"min_free,omitempty"`
	// BuildCache is most that the build cache of an Engine may take; 0 = no bound.
	BuildCache Bytes `toml:"build_cache,omitzero"`
}
