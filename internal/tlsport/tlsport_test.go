package tlsport

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/rawconn"
)

// client is what a client has that reads the files of a folder.
func client(t *testing.T, dir string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(data) {
		t.Fatal("ca.pem holds no certificate")
	}
	return &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{pair}, ServerName: "dind"}
}

// TestEither: a port that takes both, and TLS from nobody but who has the certificate. Each end of a connection may end by itself.
func TestEither(t *testing.T) {
	t.Parallel()
	mine, others := filepath.Join(t.TempDir(), "mine"), filepath.Join(t.TempDir(), "others")
	config, err := Certificates(mine, []string{"dind"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Certificates(others, []string{"dind"}); err != nil {
		t.Fatal(err)
	}
	if _, err := Certificates(mine, nil); err == nil {
		t.Error("certificates were made where others are")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = Either(l, config)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if text, err := io.ReadAll(c); err == nil { // to the end of what the client says
					_, _ = io.WriteString(c, "got "+string(text))
					_ = rawconn.CloseWrite(c)
				}
			}()
		}
	}()
	own := client(t, mine)
	for name, c := range map[string]struct {
		config *tls.Config // nil = plain
		ok     bool
	}{
		"plain":                  {nil, true},
		"TLS":                    {own, true},
		"another name":           {&tls.Config{RootCAs: own.RootCAs, Certificates: own.Certificates, ServerName: "other"}, false},
		"no certificate":         {&tls.Config{RootCAs: own.RootCAs, ServerName: "dind"}, false},
		"a stranger's":           {&tls.Config{RootCAs: own.RootCAs, Certificates: client(t, others).Certificates, ServerName: "dind"}, false},
		"a stranger's authority": {client(t, others), false},
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
		if c.config != nil {
			conn = tls.Client(conn, c.config)
		}
		_, err = io.WriteString(conn, "hello")
		if err == nil {
			err = rawconn.CloseWrite(conn)
		}
		var text []byte
		if err == nil {
			text, err = io.ReadAll(conn)
		}
		if ok := err == nil && string(text) == "got hello"; ok != c.ok {
			t.Errorf("%s: %q %v", name, text, err)
		}
	}
}

// TestCertificatesOfAnyClock: those of a job hold even if the clock is set back or forth while it runs.
func TestCertificatesOfAnyClock(t *testing.T) {
	t.Parallel()
	c, err := Certificates(filepath.Join(t.TempDir(), "certs"), []string{"docker"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := x509.ParseCertificate(c.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, jump := range []time.Duration{-10 * certificateTime, -25 * time.Hour, 0, 25 * time.Hour} {
		if _, err := server.Verify(x509.VerifyOptions{Roots: c.ClientCAs, DNSName: "docker", CurrentTime: time.Now().Add(jump)}); err != nil {
			t.Errorf("%s: %v", jump, err)
		}
	}
}
