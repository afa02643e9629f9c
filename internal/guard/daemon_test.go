package guard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/tlsport"
)

// TestDaemon calls the ports of the job's socket from within the job's container: the plain one takes both, the other only
// who has the certificate.
func TestDaemon(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t, func(o *Options) { o.Daemon = &Daemon{Names: []string{"docker", "dind"}} })
	job := r.job()
	if err := r.JobStarted(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(r.Certificates(), name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	pair, err := tls.X509KeyPair(read("cert.pem"), read("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(read("ca.pem")) {
		t.Fatal("ca.pem holds no certificate")
	}
	stranger := filepath.Join(t.TempDir(), "stranger")
	if _, err := tlsport.Certificates(stranger, nil); err != nil {
		t.Fatal(err)
	}
	forged, err := tls.LoadX509KeyPair(filepath.Join(stranger, "cert.pem"), filepath.Join(stranger, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	own := &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{pair}, ServerName: "dind"}
	for _, c := range []struct {
		name, address string
		config        *tls.Config // nil = plain
		ok            bool
	}{
		{"plain", "127.0.0.1:2375", nil, true},
		{"TLS on the plain port", "127.0.0.1:2375", own, true},
		{"TLS", "127.0.0.1:2376", own, true},
		{"another name", "127.0.0.1:2376", &tls.Config{RootCAs: trusted, Certificates: own.Certificates, ServerName: "other"}, false},
		{"plain on the TLS port", "127.0.0.1:2376", nil, false},
		{"no certificate", "127.0.0.1:2376", &tls.Config{RootCAs: trusted, ServerName: "docker"}, false},
		{"a stranger's certificate", "127.0.0.1:2376", &tls.Config{RootCAs: trusted, ServerName: "docker", Certificates: []tls.Certificate{forged}}, false},
		{"no certificate on the plain port", "127.0.0.1:2375", &tls.Config{RootCAs: trusted, ServerName: "docker"}, false},
	} {
		if err := r.askDaemon(job, c.address, c.config); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	address := r.addressOf(job)
	for _, at := range []string{address + ":2375", address + ":2376"} {
		if conn, err := net.Dial("tcp", at); err == nil {
			conn.Close()
			t.Errorf("%s can be reached from outside of the job's container", at)
		}
	}
	// In a new network namespace the ports are opened anew.
	r.host("restart", "--time", "0", job)
	if err := r.JobStarted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.askDaemon(job, "127.0.0.1:2376", own); err != nil {
		t.Error(err)
	}
}

// askDaemon asks for a sign of life from within a container's network.
func (r *rig) askDaemon(container, address string, config *tls.Config) error {
	r.t.Helper()
	ns := r.within(container)
	scheme := "http"
	if config != nil {
		scheme = "https"
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return ns.Dial(ctx, "tcp", netip.MustParseAddrPort(address))
	}}
	resp, err := (&http.Client{Transport: transport}).Get(scheme + "://docker/_ping")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &apiError{resp.StatusCode, resp.Status}
	}
	return nil
}

// addressOf is a container's address on its network.
func (r *rig) addressOf(container string) string {
	r.t.Helper()
	return strings.TrimSpace(r.host("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container))
}
