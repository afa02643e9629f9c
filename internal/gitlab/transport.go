package gitlab

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// defaultMaxAge is how often idle connections are closed, so that a new certificate or load balancer is noticed.
const defaultMaxAge = 15 * time.Minute

// defaultHeaderTimeout is far longer than a long poll, which the server holds for 50 s and more.
//
// GitLab: [runners.artifact] response_header_timeout.
const defaultHeaderTimeout = 10 * time.Minute

// TLS names the files that make a connection trusted, as in config.toml. All may be empty.
type TLS struct {
	CAFile            string // certificates that are trusted besides the system's
	CertFile, KeyFile string // with which the runner shows who it is
}

// transport is an http.Transport that is made anew when one of its TLS files changes.
type transport struct {
	tls    TLS
	certs  string // folder of the certificates found by the host's name, "" = none
	host   string
	maxAge time.Duration
	header time.Duration // from a whole request to the answer's beginning
	log    *slog.Logger

	mu     sync.Mutex
	inner  *http.Transport
	made   string    // state of the files that inner was made of
	closed time.Time // when idle connections were last closed
}

func newTransport(host string, o Options) (*transport, error) {
	t := &transport{
		tls: o.TLS, certs: o.CertsDir, host: host, maxAge: o.ConnectionMaxAge, header: cmp.Or(o.ResponseHeaderTimeout, defaultHeaderTimeout), log: o.Log,
		closed: time.Now(),
	}
	if t.maxAge <= 0 {
		t.maxAge = defaultMaxAge
	}
	files := t.files()
	inner, err := build(files, t.header)
	if err != nil {
		return nil, err
	}
	t.inner, t.made = inner, files.state()
	return t, nil
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.current().RoundTrip(req)
}

// CloseIdleConnections closes the connections that are not in use.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inner.CloseIdleConnections()
}

// current is the transport for the next request. Files that became unusable, perhaps because they are just being
// written, do not stop a runner that works: it goes on with what it has.
func (t *transport) current() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if files := t.files(); files.state() != t.made {
		t.made = files.state()
		if inner, err := build(files, t.header); err != nil {
			t.log.Warn("the changed TLS files cannot be used, the old ones stay in use", "error", err)
		} else {
			t.log.Info("the TLS files have changed, connecting anew", "host", t.host)
			t.inner.CloseIdleConnections()
			t.inner, t.closed = inner, time.Now()
		}
	}
	if time.Since(t.closed) >= t.maxAge {
		t.inner.CloseIdleConnections()
		t.closed = time.Now()
	}
	return t.inner
}

// files are the TLS files to use: those that are configured, else those that bear the host's name.
func (t *transport) files() TLS {
	f := t.tls
	if t.certs == "" {
		return f
	}
	path := func(suffix string) string { return filepath.Join(t.certs, t.host+suffix) }
	if f.CAFile == "" && exists(path(".crt")) {
		f.CAFile = path(".crt")
	}
	if f.CertFile == "" && f.KeyFile == "" && exists(path(".auth.crt")) && exists(path(".auth.key")) {
		f.CertFile, f.KeyFile = path(".auth.crt"), path(".auth.key")
	}
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// state changes when a file is changed, replaced, removed or added.
func (f TLS) state() string {
	var b strings.Builder
	for _, path := range []string{f.CAFile, f.CertFile, f.KeyFile} {
		fmt.Fprintf(&b, "%q", path)
		if st, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, " %d %d", st.Size(), st.ModTime().UnixNano())
		}
	}
	return b.String()
}

func build(f TLS, header time.Duration) (*http.Transport, error) {
	conf, err := f.config()
	if err != nil {
		return nil, err
	}
	// HTTP/1.1 (net/http leaves HTTP/2 off when it is given a dialer): a call never waits for another one on a shared
	// connection.
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: header,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConns:          100,
		MaxIdleConnsPerHost:   100, // there is only one host, and every running job talks to it
	}, nil
}

func (f TLS) config() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CAFile != "" {
		pem, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA file: %w", err)
		}
		conf.RootCAs, err = x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("read the system's CA certificates: %w", err)
		}
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the CA file %s: it holds no PEM certificate", f.CAFile)
		}
	}
	if f.CertFile != "" || f.KeyFile != "" {
		cert, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}

// checkRedirect follows only what keeps the request whole (307, 308) and encrypted: what http.Client makes of a 301
// is a GET without the body, which the API answers with a puzzling 404.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	if req.Method != first.Method || first.URL.Scheme == "https" && req.URL.Scheme != "https" {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}
