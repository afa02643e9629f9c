package coordinator

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
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

// runnerBody is what the runner calls send; each uses a part of it.
type runnerBody struct {
	Token          string `json:"token"`
	SystemID       string `json:"system_id"`
	LastUpdate     string `json:"last_update"`
	Description    string `json:"description"`
	TagList        string `json:"tag_list"`
	RunUntagged    *bool  `json:"run_untagged"`
	Paused         bool   `json:"paused"`
	MaximumTimeout int    `json:"maximum_timeout"`
	Info           Info   `json:"info"`
}

// parseRunner reads the body of a runner call. The token may also be in the header.
func (x *exchange) parseRunner() (runnerBody, bool) {
	var body runnerBody
	if len(x.body) > 0 && json.Unmarshal(x.body, &body) != nil {
		return body, false
	}
	if body.Token == "" {
		body.Token = x.r.Header.Get("Runner-Token")
	}
	return body, true
}

// asRunner reads the body, finds its runner and runs f under the lock.
func (c *Coordinator) asRunner(x *exchange, f func(*runner, runnerBody) reply) reply {
	body, ok := x.parseRunner()
	if !ok {
		return message(http.StatusBadRequest, "the body is not JSON")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.runnerByToken(body.Token)
	if r == nil {
		return message(http.StatusForbidden, "")
	}
	return f(r, body)
}

// seen keeps what a manager says about itself.
func (r *runner) seen(body runnerBody) {
	m := Manager{SystemID: body.SystemID, Info: body.Info}
	i := slices.IndexFunc(r.managers, func(m Manager) bool { return m.SystemID == body.SystemID })
	switch {
	case i < 0:
		r.managers = append(r.managers, m)
	case body.Info.Name != "":
		r.managers[i] = m
	}
}

// registration is the answer to whoever registers, verifies or resets.
func (r *runner) registration(status int, withID bool) reply {
	body := map[string]any{"token": r.Token, "token_expires_at": nil}
	if withID {
		body["id"] = r.ID
	}
	if !r.expires.IsZero() {
		body["token_expires_at"] = r.expires.UTC().Format(time.RFC3339)
	}
	return jsonReply(status, body)
}

func (c *Coordinator) registerRunner(x *exchange) reply {
	body, ok := x.parseRunner()
	if !ok {
		return message(http.StatusBadRequest, "the body is not JSON")
	}
	if !sameToken(job.Secret(c.opts.RegistrationToken), body.Token) {
		return message(http.StatusForbidden, "invalid token supplied")
	}
	r := Runner{
		Description: body.Description, Paused: body.Paused, RunUntagged: body.RunUntagged == nil || *body.RunUntagged,
		MaximumTimeout: time.Duration(body.MaximumTimeout) * time.Second,
	}
	for t := range strings.SplitSeq(body.TagList, ",") {
		if t = strings.TrimSpace(t); t != "" {
			r.Tags = append(r.Tags, t)
		}
	}
	if len(r.Tags) == 0 && !r.RunUntagged {
		return jsonReply(http.StatusBadRequest, map[string]any{"message": map[string][]string{
			"tags_list": {"can not be empty when runner is not allowed to pick untagged jobs"},
		}})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// GitLab: glrtr- marks runners that came with a registration token.
	return c.addRunner(r, "glrtr-").registration(http.StatusCreated, true)
}

func (c *Coordinator) verifyRunner(x *exchange) reply {
	return c.asRunner(x, func(r *runner, body runnerBody) reply {
		r.seen(body)
		return r.registration(http.StatusOK, true)
	})
}

func (c *Coordinator) deleteRunner(x *exchange) reply {
	return c.asRunner(x, func(r *runner, _ runnerBody) reply {
		c.removeRunner(r)
		return reply{status: http.StatusNoContent}
	})
}

func (c *Coordinator) deleteManager(x *exchange) reply {
	return c.asRunner(x, func(r *runner, body runnerBody) reply {
		if body.SystemID == "" {
			return message(http.StatusBadRequest, "system_id is missing")
		}
		before := len(r.managers)
		r.managers = slices.DeleteFunc(r.managers, func(m Manager) bool { return m.SystemID == body.SystemID })
		if len(r.managers) == before {
			return message(http.StatusNotFound, "")
		}
		return reply{status: http.StatusNoContent}
	})
}

// resetToken: the old token is worth nothing from this moment on.
func (c *Coordinator) resetToken(x *exchange) reply {
	return c.asRunner(x, func(r *runner, _ runnerBody) reply {
		old := r.Token.Reveal()
		r.Token = newToken(old[:strings.Index(old, "-")+1])
		r.renew()
		return r.registration(http.StatusCreated, false)
	})
}

// lastUpdate is the runner's X-GitLab-Last-Update.
func (r *runner) lastUpdate() map[string]string {
	return map[string]string{"X-GitLab-Last-Update": strconv.FormatInt(r.version, 10)}
}
