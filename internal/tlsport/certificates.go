package tlsport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificateTime is how long the certificates of a job hold: longer than any job.
const certificateTime = 60 * 24 * time.Hour

// authority signs the two certificates of a job. Its key is never written down.
type authority struct {
	cert *x509.Certificate
	der  []byte
	key  *ecdsa.PrivateKey
}

// Certificates makes what the port needs, for localhost and the names, and writes the client's part into a folder, which must not be
// there yet. Only clients that have it get in.
func Certificates(dir string, names []string) (*tls.Config, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, fmt.Errorf("make the job's certificates: %w", err)
	}
	server, err := ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "slipway"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: append([]string{"localhost"}, names...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	})
	if err != nil {
		return nil, fmt.Errorf("make the job's certificates: %w", err)
	}
	client, err := ca.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "job"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, fmt.Errorf("make the job's certificates: %w", err)
	}
	if err := writeCertificates(dir, ca.der, client); err != nil {
		return nil, fmt.Errorf("write the job's certificates: %w", err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(ca.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{server}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}, nil
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "slipway job CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	setTimes(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, der, key}, err
}

// setTimes begins before all clocks, which may be set back while the job runs.
func setTimes(c *x509.Certificate) {
	c.NotBefore = time.Unix(0, 0)
	c.NotAfter = time.Now().Add(certificateTime)
}

func (a *authority) sign(template *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return tls.Certificate{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	setTimes(template)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// writeCertificates writes the client's files as docker's client looks for them. All users of the job's container may read
// them; the folder is mounted there, and nobody else on the machine can pass to it.
func writeCertificates(dir string, ca []byte, client tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return err
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{"ca.pem", "CERTIFICATE", ca}, {"cert.pem", "CERTIFICATE", client.Certificate[0]}, {"key.pem", "PRIVATE KEY", key}} {
		file := filepath.Join(dir, f.name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(file, 0o644); err != nil {
			return err
		}
	}
	return nil
}
