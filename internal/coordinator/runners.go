package coordinator

import (
	"slices"
	"strconv"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// Runner is who may fetch jobs.
type Runner struct {
	ID             int64      // 0 = the next free one
	Token          job.Secret // empty = made up, with the prefix glrt-
	Description    string
	Tags           []string // it gets jobs whose tags are all among these
	RunUntagged    bool     // it also gets jobs without tags
	Paused         bool
	MaximumTimeout time.Duration // shortens its jobs' timeout; 0 = does not
	TokenLifetime  time.Duration // 0 = the token does not expire
}

// Manager is one machine that uses a runner's token, as it presented itself last.
type Manager struct {
	SystemID string
	Info     Info
}

// Info is what a runner says about itself.
type Info struct {
	Name         string            `json:"name"`
	Version      string            `json:"version"`
	Revision     string            `json:"revision"`
	Platform     string            `json:"platform"`
	Architecture string            `json:"architecture"`
	Executor     string            `json:"executor"`
	Shell        string            `json:"shell"`
	Features     map[string]bool   `json:"features"`
	Labels       map[string]string `json:"labels"`
}

type runner struct {
	Runner
	expires  time.Time // zero = never
	managers []Manager
	// version is what X-GitLab-Last-Update says; it changes when there is a new job for the runner.
	version int64
	wake    chan struct{} // closed at the next change
}

// tick ends the requests that are held for the runner.
func (r *runner) tick() {
	r.version++
	close(r.wake)
	r.wake = make(chan struct{})
}

// takes reports whether the runner may have a job with those tags.
func (r *runner) takes(tags []string) bool {
	if len(tags) == 0 {
		return r.RunUntagged
	}
	return !slices.ContainsFunc(tags, func(t string) bool { return !slices.Contains(r.Tags, t) })
}

// AddRunner makes a runner known, as an administrator does in GitLab's pages. It returns the runner with its ID and token.
func (c *Coordinator) AddRunner(r Runner) Runner {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addRunner(r, "glrt-").Runner
}

func (c *Coordinator) addRunner(r Runner, prefix string) *runner {
	if r.ID == 0 {
		r.ID = c.lastRunner + 1
	}
	c.lastRunner = max(c.lastRunner, r.ID)
	if r.Token == "" {
		r.Token = newToken(prefix)
	}
	added := &runner{Runner: r, version: 1, wake: make(chan struct{})}
	added.renew()
	c.runners = append(c.runners, added)
	return added
}

func (r *runner) renew() {
	if r.TokenLifetime > 0 {
		r.expires = time.Now().Add(r.TokenLifetime)
	}
}

// RemoveRunner forgets the runner with that token: its requests are answered 403 from now on.
func (c *Coordinator) RemoveRunner(token job.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeRunner(c.runnerByToken(token.Reveal()))
}

func (c *Coordinator) removeRunner(gone *runner) {
	if gone == nil {
		return
	}
	c.runners = slices.DeleteFunc(c.runners, func(r *runner) bool { return r == gone })
	gone.tick()
}

// PauseRunner makes a runner get no jobs, or get them again.
func (c *Coordinator) PauseRunner(token job.Secret, paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.runnerByToken(token.Reveal()); r != nil {
		r.Paused = paused
		r.tick()
	}
}

// Runners lists the runners that are known now.
func (c *Coordinator) Runners() []Runner {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Runner
	for _, r := range c.runners {
		out = append(out, r.Runner)
	}
	return out
}

// Managers lists the machines that used the token, in the order they first came.
func (c *Coordinator) Managers(token job.Secret) []Manager {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.runnerByToken(token.Reveal()); r != nil {
		return slices.Clone(r.managers)
	}
	return nil
}

func (c *Coordinator) runnerByToken(token string) *runner {
	for _, r := range c.runners {
		if sameToken(r.Token, token) && (r.expires.IsZero() || time.Now().Before(r.expires)) {
			return r
		}
	}
	return nil
}

// lastUpdate is the runner's X-GitLab-Last-Update.
func (r *runner) lastUpdate() map[string]string {
	return map[string]string{"X-GitLab-Last-Update": strconv.FormatInt(r.version, 10)}
}
