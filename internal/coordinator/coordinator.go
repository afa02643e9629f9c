// Package coordinator is the server side of GitLab's runner API: it hands out jobs, takes their logs and results, and
// serves its projects' Git repositories. A local pipeline is one runner that polls it, and it is the GitLab of our tests;
// a foreign runner can use it too. It knows nothing of how a job is run.
package coordinator

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

// What Options stands for when it says nothing.
const (
	DefaultLongPoll       = 50 * time.Second // GitLab: Workhorse's apiCiLongPollingDuration
	DefaultUpdateInterval = 3 * time.Second
	DefaultTimeout        = time.Hour // of a job
	DefaultMaxArtifact    = 100 << 20 // bytes
)

// ErrClosed: the coordinator was closed before the job ended.
var ErrClosed = errors.New("the coordinator is closed")

// Options of a coordinator. All have defaults.
type Options struct {
	// URL is where runners and jobs reach the server, as in "http://127.0.0.1:8929". Empty = as each request asked for it.
	URL string
	// RegistrationToken is what POST /runners takes (the legacy way to register). Empty = that way is closed.
	RegistrationToken string
	// PersonalToken is that of somebody who may reset the runners' tokens. Empty = nobody may.
	PersonalToken string
	// LongPoll is how long a request for a job is held while there is none. 0 = DefaultLongPoll, negative = not at all.
	LongPoll time.Duration
	// UpdateInterval is how often a runner is asked to send the log, in whole seconds. 0 = DefaultUpdateInterval.
	UpdateInterval time.Duration
	// MaxArtifact limits one upload, in bytes. 0 = DefaultMaxArtifact, negative = artifacts are disabled.
	MaxArtifact int64
	// Log gets a debug line for each request. May be nil.
	Log *slog.Logger
}

// Coordinator is a small GitLab in memory. It is an http.Handler, safe for concurrent use, and starts no goroutines of
// its own.
type Coordinator struct {
	opts   Options
	mux    *http.ServeMux
	closed chan struct{}

	mu           sync.Mutex // guards all below, and what jobs, pipelines and runners have in them
	isClosed     bool
	runners      []*runner
	projects     map[string]*Project // by path
	jobs         map[int64]*Job
	queue        []*Job // waiting for a runner, oldest first
	faults       []*Fault
	lastRunner   int64
	lastProject  int64
	lastPipeline int64
	lastJob      int64
}

// New returns a coordinator without runners, projects or jobs.
func New(opts Options) *Coordinator {
	opts.URL = strings.TrimSuffix(opts.URL, "/")
	if opts.LongPoll == 0 {
		opts.LongPoll = DefaultLongPoll
	}
	if opts.UpdateInterval <= 0 {
		opts.UpdateInterval = DefaultUpdateInterval
	}
	if opts.MaxArtifact == 0 {
		opts.MaxArtifact = DefaultMaxArtifact
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Coordinator{
		opts:     opts,
		mux:      http.NewServeMux(),
		closed:   make(chan struct{}),
		projects: map[string]*Project{},
		jobs:     map[int64]*Job{},
	}
	for pattern, handle := range map[string]http.HandlerFunc{
		"POST /api/v4/runners":                                 c.serve(RegisterRunner, c.registerRunner),
		"POST /api/v4/runners/verify":                          c.serve(VerifyRunner, c.verifyRunner),
		"DELETE /api/v4/runners":                               c.serve(DeleteRunner, c.deleteRunner),
		"DELETE /api/v4/runners/managers":                      c.serve(DeleteManager, c.deleteManager),
		"POST /api/v4/runners/reset_authentication_token":      c.serve(ResetToken, c.resetToken),
		"POST /api/v4/runners/{id}/reset_authentication_token": c.serve(ResetToken, c.resetTokenAs),
		"POST /api/v4/jobs/request":                            c.serve(RequestJob, c.requestJob),
		"PUT /api/v4/jobs/{id}":                                c.serve(UpdateJob, c.updateJob),
		"PATCH /api/v4/jobs/{id}/trace":                        c.serve(PatchTrace, c.patchTrace),
		"POST /api/v4/jobs/{id}/artifacts":                     c.serve(UploadArtifacts, c.uploadArtifacts),
		"GET /api/v4/jobs/{id}/artifacts":                      c.serve(DownloadArtifacts, c.downloadArtifacts),
		"/":                                                    c.serve(Git, c.git),
	} {
		c.mux.HandleFunc(pattern, handle)
	}
	return c
}

// ServeHTTP answers one request.
func (c *Coordinator) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.mux.ServeHTTP(w, r) }

// Close ends held requests, Wait and Follow; from now on every request is answered 503. Jobs stay as they are.
func (c *Coordinator) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isClosed {
		c.isClosed = true
		close(c.closed)
	}
}
