package docker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates, and is trusted through its file.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key, a.pem, _ = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign makes a certificate of the authority, or the authority's own.
func (a *authority) sign(template *x509.Certificate) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, keyErr := x509.MarshalPKCS8PrivateKey(key)
	cert, err = x509.ParseCertificate(der)
	if err := errors.Join(err, keyErr); err != nil {
		a.t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// folder is what tls_cert_path names: the authority that is trusted, and a client's certificate of the signer.
func folder(t *testing.T, trusted, signer *authority) string {
	t.Helper()
	_, _, cert, key := signer.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "client"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	dir := t.TempDir()
	for name, text := range map[string][]byte{"ca.pem": trusted.pem, "cert.pem": cert, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// listen serves the machine's Engine on a TCP port: with an authority as dockerd does with --tlsverify.
func listen(t *testing.T, a *authority) (host string) {
	t.Helper()
	socket := strings.TrimPrefix(DefaultHost, "unix://")
	if e, err := Connect(t.Context(), Options{Host: DefaultHost}); err == nil {
		e.Close()
	} else if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" {
		t.Fatal(err)
	} else {
		t.Skip(err)
	}
	srv := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = "http", "docker" },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}},
	})
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(srv.Close)
	if a == nil {
		srv.Start()
		return "tcp://" + srv.Listener.Addr().String()
	}
	_, _, cert, key := a.sign(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	srv.StartTLS()
	return "tcp://" + srv.Listener.Addr().String()
}

func TestTCP(t *testing.T) {
	t.Parallel()
	e, err := Connect(t.Context(), Options{Host: listen(t, nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	answers(t, e)
	own := newAuthority(t)
	_, err = Connect(t.Context(), Options{Host: listen(t, nil), TLSCertPath: folder(t, own, own)})
	refused(t, err, "it speaks no TLS", "take tls_cert_path out of [runners.docker]")
}

// TestTLS: both sides show who they are, and what is wrong with either is said.
func TestTLS(t *testing.T) {
	t.Parallel()
	own, other := newAuthority(t), newAuthority(t)
	host := listen(t, own)
	t.Run("right", func(t *testing.T) {
		t.Parallel()
		e, err := Connect(t.Context(), Options{Host: host, TLSCertPath: folder(t, own, own)})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		answers(t, e)
		conn, err := e.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, ok := conn.(*tls.Conn); !ok {
			t.Errorf("a connection of its own is a %T", conn)
		}
	})
	without := folder(t, own, own)
	if err := os.Remove(filepath.Join(without, "cert.pem")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		certs      string
		says, hint string
	}{
		"wrong CA":                 {folder(t, other, own), "does not trust its certificate", "ca.pem in tls_cert_path"},
		"client of another CA":     {folder(t, own, other), "does not accept the client's certificate", "cert.pem and key.pem in tls_cert_path"},
		"no client certificate":    {without, "cert.pem: no such file", "put ca.pem, cert.pem and key.pem"},
		"no TLS where there is":    {"", "it speaks TLS", "set tls_cert_path in [runners.docker]"},
		"a folder that is not one": {"/nowhere", "ca.pem: no such file", "put ca.pem, cert.pem and key.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Connect(t.Context(), Options{Host: host, TLSCertPath: c.certs})
			refused(t, err, c.says, c.hint)
		})
	}
}

// answers makes some calls.
func answers(t *testing.T, e *Engine) {
	t.Helper()
	if v, err := e.Version(t.Context()); err != nil || v == "" {
		t.Errorf("version %q, %v", v, err)
	}
	if err := e.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if s := e.Socket(); s != "" {
		t.Errorf("its socket is %q", s)
	}
}

func refused(t *testing.T, err error, says, hint string) {
	t.Helper()
	var e *ConnectError
	if !errors.As(err, &e) || !strings.Contains(e.Error(), says) || !strings.Contains(e.Hint, hint) {
		t.Errorf("got %v (%+v), want %q and the hint %q", err, e, says, hint)
	}
}
