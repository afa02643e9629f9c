package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestEngineOverTCP: whole jobs, with their attached streams and a guarded socket, on an Engine behind TCP and TLS.
func TestEngineOverTCP(t *testing.T) {
	t.Parallel()
	e := engine(t)
	front := httptest.NewUnstartedServer(passing(e))
	front.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	front.StartTLS()
	t.Cleanup(front.Close)
	host, certs := "tcp://"+front.Listener.Addr().String(), t.TempDir()
	pair := front.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	for name, text := range map[string][]byte{"ca.pem": own, "cert.pem": own, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		err = errors.Join(err, os.WriteFile(filepath.Join(certs, name), text, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	plainFront := httptest.NewServer(passing(e))
	t.Cleanup(plainFront.Close)
	for name, keys := range map[string]string{
		"TLS": fmt.Sprintf("host = %q\ntls_cert_path = %q", host, certs),
		"TCP": fmt.Sprintf("host = %q", "tcp://"+strings.TrimPrefix(plainFront.URL, "http://")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, dockerKeys(keys+"\nvolumes = [\"/var/run/docker.sock:/var/run/docker.sock\"]"))
			s := withImage(spec("seq 1 2000 | sed 's/^/line /'", "echo to stderr >&2", "docker run --rm "+alpine+" echo in a container of the job", "exit 3"), dockerClient)
			log := r.fails(job.ScriptFailure, 3, withAfter(s, "echo and after"))
			wants(t, log, "\nto stderr\n", "\nin a container of the job\n", "\nand after\n")
			numbered(t, log, 2000)
			out, _ := r.command("doctor", "--config", r.configPath()).CombinedOutput()
			wants(t, string(out), "is not reached through a socket: it may be on another machine, and the disk of its images is not watched", "the Engine sees "+r.stateDir())
		})
	}
}

// passing lets calls through to the Engine, as its own TCP port does.
func passing(e *docker.Engine) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = "http", "docker" },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dial(ctx) }},
	}
}
