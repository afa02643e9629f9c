package web

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"
)

// process is what /debug/process/state shows.
type process struct {
	State       string          `json:"state"`
	Ready       bool            `json:"ready"`
	Version     string          `json:"version"`
	Revision    string          `json:"revision"`
	PID         int             `json:"pid"`
	Started     time.Time       `json:"started"`
	Config      processConfig   `json:"config"`
	Slots       processSlots    `json:"slots"`
	Runners     []processRunner `json:"runners"`
	Jobs        []processJob    `json:"jobs"`
	Undelivered []undelivered   `json:"undelivered"`
}

type processConfig struct {
	File   string    `json:"file"`
	Loaded time.Time `json:"loaded"`
}

type processSlots struct {
	Concurrent int `json:"concurrent"`
	Running    int `json:"running"`
	Waiting    int `json:"waiting"`
}

type processRunner struct {
	Name        string     `json:"name"`
	Token       string     `json:"runner"` // the part that may be seen
	URL         string     `json:"url"`
	Executor    string     `json:"executor"`
	Limit       int        `json:"limit"` // 0 = none of its own
	Jobs        int        `json:"jobs"`
	Requests    int        `json:"requests"` // in flight
	Checked     bool       `json:"verified"`
	FailsSince  *time.Time `json:"fails_since,omitempty"`
	PausedUntil *time.Time `json:"paused_until,omitempty"`
}

type processJob struct {
	URL     string  `json:"url"`
	Runner  string  `json:"runner"`
	State   string  `json:"state"` // finished = GitLab is being told
	Stage   string  `json:"stage"`
	Seconds float64 `json:"seconds"`
}

// undelivered is a job whose end GitLab could not be told, which is tried again.
type undelivered struct {
	Server string    `json:"server"`
	ID     int64     `json:"job"`
	Since  time.Time `json:"since"`
}

// Undelivered notes a job whose end a server is still to be told; the function is called when nobody tries any more.
func (m *Monitor) Undelivered(server string, id int64) (over func()) {
	u := &undelivered{bareURL(server), id, time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.undelivered = append(m.undelivered, u)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.undelivered = slices.DeleteFunc(m.undelivered, func(o *undelivered) bool { return o == u })
	}
}

// serveProcess says what the process is at.
//
// GitLab: its runner has such a page, too; the form is ours.
func (m *Monitor) serveProcess(w http.ResponseWriter, _ *http.Request) {
	now := m.now()
	p := process{
		State: cmp.Or(now.State, StateStarting), Ready: now.Ready, Version: m.build.Version, Revision: m.build.Revision, PID: os.Getpid(), Started: m.started.UTC(),
		Slots:   processSlots{now.Concurrent, now.Running, now.Waiting},
		Runners: []processRunner{}, Jobs: []processJob{}, Undelivered: []undelivered{},
	}
	for _, r := range now.Runners {
		p.Runners = append(p.Runners, processRunner{
			Name: r.Name, Token: r.ShortToken, URL: bareURL(r.URL), Executor: r.Executor, Limit: r.Limit, Jobs: r.Jobs, Requests: r.Requests, Checked: r.Checked,
			FailsSince: orNil(r.FailsSince), PausedUntil: orNil(r.PausedUntil),
		})
	}
	for _, j := range m.Jobs() {
		p.Jobs = append(p.Jobs, processJob{URL: j.URL, Runner: j.Runner.ShortToken, State: j.State, Stage: j.Stage, Seconds: j.Duration.Seconds()})
	}
	m.mu.Lock()
	p.Config = processConfig{m.config, m.loaded.UTC()}
	for _, u := range m.undelivered {
		p.Undelivered = append(p.Undelivered, undelivered{u.Server, u.ID, u.Since.UTC()})
	}
	m.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(p) // an error is the reader's
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// bareURL is an address without what may be secret in it.
func bareURL(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
