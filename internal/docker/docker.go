// Package docker is the few operations of the Docker Engine that Slipway needs, with errors that say what to do.
// It knows nothing of jobs, and it is the only package that imports the Engine's client.
package docker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// MinAPIVersion is the oldest Engine API that Slipway works with: that of Engine 20.10.
const MinAPIVersion = "1.41"

// DefaultHost is where the Engine listens unless something else is said.
const DefaultHost = "unix:///var/run/docker.sock"

// Options say which Engine to talk to. Empty fields are taken from the environment as the docker command does
// (DOCKER_HOST, DOCKER_CERT_PATH, DOCKER_TLS_VERIFY).
type Options struct {
	Host        string // unix:///path, tcp://host:port
	TLSCertPath string // folder with ca.pem, cert.pem, key.pem
	TLSVerify   bool
}

// Engine is a connection to one Docker Engine, safe for concurrent use.
type Engine struct {
	api        *client.Client
	host       string
	apiVersion string
}

// Connect reaches the Engine and agrees on an API version. The error is a *ConnectError with a hint if the Engine
// cannot be reached or is too old.
func Connect(ctx context.Context, o Options) (*Engine, error) {
	host := cmp.Or(o.Host, os.Getenv("DOCKER_HOST"), DefaultHost)
	if strings.HasPrefix(host, "ssh://") {
		return nil, &ConnectError{Host: host, Err: errors.New("an Engine over ssh is not supported"), Hint: "jobs' folders must be on the Engine's machine: run Slipway there"}
	}
	opts := []client.Opt{client.WithHost(host), client.WithUserAgent("slipway")}
	certs := o.TLSCertPath
	if certs == "" && o.Host == "" {
		certs = os.Getenv("DOCKER_CERT_PATH")
	}
	if certs != "" && strings.HasPrefix(host, "tcp://") {
		opts = append(opts, client.WithTLSClientConfig(
			filepath.Join(certs, "ca.pem"), filepath.Join(certs, "cert.pem"), filepath.Join(certs, "key.pem")))
	}
	api, err := client.New(opts...)
	if err != nil && strings.Contains(err.Error(), "configure TLS") {
		return nil, &ConnectError{Host: host, Err: err, Hint: "put ca.pem, cert.pem and key.pem into the folder of tls_cert_path in [runners.docker] (or DOCKER_CERT_PATH), or correct it"}
	}
	if err != nil {
		return nil, &ConnectError{Host: host, Err: err, Hint: "correct `host` in [runners.docker] or DOCKER_HOST"}
	}
	// Negotiation is lazy and its error swallowed otherwise.
	ping, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		api.Close()
		return nil, connectError(host, err)
	}
	if older(ping.APIVersion, MinAPIVersion) {
		api.Close()
		return nil, &ConnectError{
			Host: host, Err: fmt.Errorf("the Engine speaks API %s, too old", ping.APIVersion),
			Hint: "Slipway needs Engine 20.10 (API " + MinAPIVersion + ") or newer",
		}
	}
	return &Engine{api: api, host: host, apiVersion: api.ClientVersion()}, nil
}

// Host is the address that the connection was made to.
func (e *Engine) Host() string { return e.host }

// Socket is the path of the Engine's Unix socket, "" if it is reached otherwise.
func (e *Engine) Socket() string {
	u, err := url.Parse(e.host)
	if err != nil || u.Scheme != "unix" {
		return ""
	}
	return u.Path
}

// APIVersion is the version agreed on.
func (e *Engine) APIVersion() string { return e.apiVersion }

// Close ends idle connections.
func (e *Engine) Close() error { return e.api.Close() }

// Version says what the Engine is, for people: "20.10.24".
func (e *Engine) Version(ctx context.Context) (string, error) {
	v, err := e.api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return "", fmt.Errorf("ask the Engine's version: %w", err)
	}
	return v.Version, nil
}

// ConnectError says why an Engine cannot be used and what to do.
type ConnectError struct {
	Host string
	Err  error
	Hint string
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("reach the Docker Engine at %s: %v", e.Host, e.Err)
}

// Unwrap gives the underlying error.
func (e *ConnectError) Unwrap() error { return e.Err }

func connectError(host string, err error) error {
	e := &ConnectError{Host: host, Err: err}
	var untrusted *tls.CertificateVerificationError
	start := "is it running? systemctl start docker (or scripts/engine in Slipway's checkout)"
	if host != DefaultHost {
		start = "is it running? else correct `host` in [runners.docker] or DOCKER_HOST"
	}
	switch {
	case errors.As(err, &untrusted):
		e.Err = fmt.Errorf("this machine does not trust its certificate: %w", untrusted.Err)
		e.Hint = "ca.pem in tls_cert_path must be of the authority that signed the Engine's certificate, which must have the name in `host`"
	case strings.Contains(err.Error(), "remote error: tls: "):
		e.Err = fmt.Errorf("it does not accept the client's certificate: %w", err)
		e.Hint = "cert.pem and key.pem in tls_cert_path must be of an authority that the Engine trusts (its --tlscacert)"
	case errors.Is(err, http.ErrSchemeMismatch):
		e.Err, e.Hint = errors.New("it speaks no TLS"), "take tls_cert_path out of [runners.docker], or start the Engine with --tlsverify"
	case strings.Contains(err.Error(), "HTTP request to an HTTPS server"):
		e.Err, e.Hint = errors.New("it speaks TLS"), "set tls_cert_path in [runners.docker] to a folder with ca.pem, cert.pem and key.pem"
	case errors.Is(err, fs.ErrPermission), strings.Contains(err.Error(), "permission denied"):
		e.Err = errors.New("permission denied")
		e.Hint = "run as root or as a member of the docker group: sudo usermod -aG docker $USER, then log in again"
	case errors.Is(err, fs.ErrNotExist):
		e.Err, e.Hint = errors.New("there is no such socket"), start
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Err, e.Hint = errors.New("connection refused"), start
	case client.IsErrConnectionFailed(err):
		e.Hint = start
	}
	return e
}

// older compares dotted versions of two numbers.
func older(a, b string) bool {
	var a1, a2, b1, b2 int
	fmt.Sscanf(a, "%d.%d", &a1, &a2)
	fmt.Sscanf(b, "%d.%d", &b1, &b2)
	return a1 < b1 || a1 == b1 && a2 < b2
}

// IsNotFound reports whether an object does not exist (any more).
func IsNotFound(err error) bool { return errdefs.IsNotFound(err) }

// IsUnreachable reports whether the Engine itself did not answer, so that it says nothing about the request.
func IsUnreachable(err error) bool {
	return client.IsErrConnectionFailed(err) || errdefs.IsUnavailable(err)
}

// Ping asks for a sign of life, and whether the Engine takes new connections: one that is about to end still answers
// on those that it has. The error is a *ConnectError.
func (e *Engine) Ping(ctx context.Context) error {
	conn, err := e.api.Dialer()(ctx)
	if err == nil {
		conn.Close()
		_, err = e.api.Ping(ctx, client.PingOptions{})
	}
	if err != nil {
		return connectError(e.host, err)
	}
	return nil
}
