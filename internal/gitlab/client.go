// Package gitlab is the client of GitLab's runner API: it registers runners, asks for jobs and reports on them.
// It does not know when to ask, nor how a job is run or its log is kept.
package gitlab

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// requestTimeout bounds one attempt, the answer's body included.
const requestTimeout = 60 * time.Minute

// Options say which server to talk to, and as whom.
type Options struct {
	URL      string // of the GitLab server, as in config.toml
	Token    string // of the runner; a registration token for Register
	SystemID string // of this machine, see SystemID

	TLS      TLS
	CertsDir string // where <host>.crt, <host>.auth.crt and <host>.auth.key are looked for; may be empty

	Version         Version
	Executor, Shell string   // as sent to the server
	Features        Features // what the executor can do, see DockerFeatures
	GPUs            string   // of the configuration, for GitLab to show

	ConnectionMaxAge time.Duration // idle connections are closed this often; 0 = 15 minutes
	Log              *slog.Logger  // nil = no log

	UploadTimeout         time.Duration // of one try to upload artifacts; 0 = DefaultUploadTimeout
	ResponseHeaderTimeout time.Duration // from a whole request to the answer's beginning; 0 = ten minutes

	// Observe is told of each call that was answered, retries too; nil = nobody. endpoint is GitLab's word for what was called.
	Observe func(endpoint, method string, status int, took time.Duration)

	// Transport replaces the client's own (and TLS, CertsDir and ConnectionMaxAge with it).
	Transport http.RoundTripper
}

// Client speaks for one runner with one server. It is safe for concurrent use.
type Client struct {
	base     *url.URL // …/api/v4/
	token    job.Secret
	systemID string
	version  Version
	info     info
	http     *http.Client
	bulk     *http.Client // for what may take long
	log      *slog.Logger

	uploadTimeout time.Duration
	observe       func(endpoint, method string, status int, took time.Duration)

	mu         sync.Mutex
	lastUpdate string // the newest X-GitLab-Last-Update
}

// New checks the options, reads the TLS files and returns a client. It does not connect.
func New(o Options) (*Client, error) {
	base, err := apiURL(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(string, string, int, time.Duration) {}
	}
	rt := o.Transport
	if rt == nil {
		if rt, err = newTransport(base.Hostname(), o); err != nil {
			return nil, err
		}
	}
	return &Client{
		base:     base,
		token:    job.Secret(o.Token),
		systemID: o.SystemID,
		version:  o.Version,
		info:     newInfo(o),
		http:     &http.Client{Transport: rt, Timeout: requestTimeout, CheckRedirect: checkRedirect},
		bulk: &http.Client{
			Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		uploadTimeout: cmp.Or(o.UploadTimeout, DefaultUploadTimeout),
		observe:       o.Observe,
		log:           o.Log,
	}, nil
}

// Close closes the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// apiURL is the root of the API at a server.
//
// GitLab: "/ci" at the end is a relic of the time when GitLab CI was a program of its own; it is still in old configs.
func apiURL(server string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(strings.TrimRight(server, "/"), "/ci"))
	if err != nil {
		var bare *url.Error
		if errors.As(err, &bare) {
			err = bare.Err // without the URL, which may hold a password
		}
		return nil, fmt.Errorf("read the GitLab URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("read the GitLab URL %q: it must begin with http:// or https://", u.Redacted())
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("read the GitLab URL %q: it names no host", u.Redacted())
	}
	u.RawQuery, u.Fragment = "", ""
	return u.JoinPath("api/v4/"), nil
}

func (c *Client) setLastUpdate(v string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastUpdate = v
}

func (c *Client) getLastUpdate() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastUpdate
}

// Version is what this program calls itself to the server.
type Version struct{ Version, Revision string }

func (v Version) userAgent() string {
	return fmt.Sprintf("%s %s (%s; %s; %s/%s)",
		programName, v.Version, v.Revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
