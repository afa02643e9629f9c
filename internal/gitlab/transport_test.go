package gitlab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secureServer starts a server with TLS and writes its certificate, which is its own CA, to a file.
func secureServer(t *testing.T, conf *tls.Config) (srv *httptest.Server, caPEM []byte) {
	t.Helper()
	srv = httptest.NewUnstartedServer(answer(204, asJSON, ""))
	srv.TLS = conf
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
}

// keyPair makes a certificate that signs itself.
func keyPair(t *testing.T, name string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})
}

func put(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// optionsTest is a client that is to be let in, or to fail so.
type optionsTest struct {
	name string
	opts Options
	err  string
}

func tryOptions(t *testing.T, url string, tests []optionsTest) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.opts.URL = url
			_, err := newClient(t, tt.opts).RequestJob(t.Context(), nil)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestCA(t *testing.T) {
	t.Parallel()
	srv, ca := secureServer(t, nil)
	dir := t.TempDir()
	certs := t.TempDir()
	put(t, certs, "127.0.0.1.crt", ca)
	tryOptions(t, srv.URL, []optionsTest{
		{"unknown", Options{}, "certificate signed by unknown authority"},
		{"tls-ca-file", Options{TLS: TLS{CAFile: put(t, dir, "ca.pem", ca)}}, ""},
		{"found by the host's name", Options{CertsDir: certs}, ""},
		{"nothing found", Options{CertsDir: dir}, "certificate signed by unknown authority"},
	})
}

// TestCAIsAdded: the system's CAs stay trusted beside the configured one.
func TestCAIsAdded(t *testing.T) {
	t.Parallel()
	ca, _ := keyPair(t, "ca")
	conf, err := TLS{CAFile: put(t, t.TempDir(), "ca.pem", ca)}.config()
	if err != nil {
		t.Fatal(err)
	}
	want, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	want.AppendCertsFromPEM(ca)
	if !conf.RootCAs.Equal(want) {
		t.Error("the trusted CAs are not the system's and the configured one")
	}
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	srv, ca := secureServer(t, &tls.Config{ClientAuth: tls.RequireAnyClientCert})
	cert, key := keyPair(t, "runner")
	dir := t.TempDir()
	files := TLS{CAFile: put(t, dir, "ca.pem", ca), CertFile: put(t, dir, "c.pem", cert), KeyFile: put(t, dir, "k.pem", key)}
	certs := t.TempDir()
	put(t, certs, "127.0.0.1.crt", ca)
	put(t, certs, "127.0.0.1.auth.crt", cert)
	put(t, certs, "127.0.0.1.auth.key", key)
	tryOptions(t, srv.URL, []optionsTest{
		{"none", Options{TLS: TLS{CAFile: files.CAFile}}, "certificate required"},
		{"from the configuration", Options{TLS: files}, ""},
		{"found by the host's name", Options{CertsDir: certs}, ""},
	})
}

func TestBadTLSFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := keyPair(t, "a")
	_, otherKey := keyPair(t, "b")
	certFile, keyFile := put(t, dir, "c.pem", cert), put(t, dir, "k.pem", key)
	tests := []struct {
		name string
		tls  TLS
		err  string
	}{
		{"missing CA", TLS{CAFile: filepath.Join(dir, "none")}, "read the CA file: open"},
		{"CA without a certificate", TLS{CAFile: keyFile}, "holds no PEM certificate"},
		{"certificate without a key", TLS{CertFile: certFile}, "read the client certificate"},
		{"key without a certificate", TLS{KeyFile: keyFile}, "read the client certificate"},
		{"wrong key", TLS{CertFile: certFile, KeyFile: put(t, dir, "o.pem", otherKey)}, "private key does not match"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := New(Options{URL: "https://gitlab.example.com", TLS: tt.tls}); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestOldTLS(t *testing.T) {
	t.Parallel()
	srv, ca := secureServer(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	c := newClient(t, Options{URL: srv.URL, TLS: TLS{CAFile: put(t, t.TempDir(), "ca.pem", ca)}})
	if _, err := c.RequestJob(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("error %v", err)
	}
}

// TestFilesChange: a new certificate is used without a restart, and a broken one does no harm.
func TestFilesChange(t *testing.T) {
	t.Parallel()
	srv, ca := secureServer(t, nil)
	wrong, _ := keyPair(t, "not the server")
	dir := t.TempDir()
	var log logBuffer
	c := newClient(t, Options{URL: srv.URL, CertsDir: dir, Log: log.logger()})
	clock := time.Now()
	step := func(what string, content []byte, fine bool) {
		t.Helper()
		if content != nil {
			path := put(t, dir, "127.0.0.1.crt", content)
			clock = clock.Add(time.Second) // two writes may fall into one tick of the file system's clock
			if err := os.Chtimes(path, clock, clock); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.RequestJob(t.Context(), nil); (err == nil) != fine {
			t.Errorf("%s: error %v", what, err)
		}
	}
	step("no file", nil, false)
	step("wrong CA appears", wrong, false)
	step("right CA", ca, true)
	step("broken file", []byte("nonsense"), true)
	step("still broken", nil, true)
	if n := strings.Count(log.String(), "the changed TLS files cannot be used"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, log.String())
	}
	step("wrong CA again", wrong, false)
	step("right CA again", ca, true)
	if err := os.Remove(filepath.Join(dir, "127.0.0.1.crt")); err != nil {
		t.Fatal(err)
	}
	step("file removed", nil, false)
}
