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
	Session        Door   `json:"session"`
}

// Door is where a runner lets people into a job.
type Door struct {
	URL           string `json:"url"`
	Certificate   string `json:"certificate"`
	Authorization string `json:"authorization"`
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

func (c *Coordinator) resetToken(x *exchange) reply {
	return c.asRunner(x, func(r *runner, _ runnerBody) reply { return r.reset() })
}

// resetTokenAs is for a person, and for runners whose token has expired, too.
func (c *Coordinator) resetTokenAs(x *exchange) reply {
	if !sameToken(job.Secret(c.opts.PersonalToken), x.r.Header.Get("Private-Token")) {
		return message(http.StatusUnauthorized, "")
	}
	id, err := strconv.ParseInt(x.r.PathValue("id"), 10, 64)
	if err != nil {
		return message(http.StatusBadRequest, "id is invalid")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.runners, func(r *runner) bool { return r.ID == id })
	if i < 0 {
		return message(http.StatusNotFound, "Runner not found")
	}
	return c.runners[i].reset()
}

// reset makes a new token: the old one is worth nothing from this moment on.
func (r *runner) reset() reply {
	old := r.Token.Reveal()
	r.Token = newToken(old[:strings.Index(old, "-")+1])
	r.renew()
	return r.registration(http.StatusCreated, false)
}
