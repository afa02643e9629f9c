// Package terminal serves GitLab's web terminal: it gives people a shell beside a running job. GitLab hears of a job's door
// when it is asked for a job, checks who may pass, and connects them. The package knows nothing of containers.
package terminal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// protocol carries what is typed and printed as it is, in binary messages.
//
// GitLab: doc/development/workhorse/channel.md.
const protocol = "terminal.gitlab.com"

// Options say where the server is.
type Options struct {
	Listen    string        // host:port
	Advertise string        // host:port at which GitLab gets there; "" = Listen
	Timeout   time.Duration // how long somebody in a terminal may keep a job from ending
	Log       *slog.Logger
}

// Server has a door for each job.
type Server struct {
	address, certificate string
	timeout              time.Duration
	log                  *slog.Logger
	http                 *http.Server

	mu    sync.Mutex
	doors map[string]*Door // by the last part of their URL but one
}

// Listen serves until Close, with a certificate of its own that GitLab is told.
func Listen(o Options) (*Server, error) {
	if o.Advertise == "" {
		o.Advertise = o.Listen
	}
	host, _, err := net.SplitHostPort(o.Advertise)
	if err != nil {
		return nil, fmt.Errorf("serve web terminals: %w", err)
	}
	cert, text, err := selfSigned(host)
	if err != nil {
		return nil, fmt.Errorf("serve web terminals: %w", err)
	}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("serve web terminals: %w", err)
	}
	s := &Server{address: o.Advertise, certificate: text, timeout: o.Timeout, log: o.Log, doors: map[string]*Door{}}
	if _, port, err := net.SplitHostPort(o.Advertise); err == nil && port == "0" {
		s.address = l.Addr().String() // any port: of tests
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /session/{id}/exec", s.serve)
	s.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog:  slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
	}
	s.http.SetKeepAlivesEnabled(false) // nobody has a second request
	go func() {
		if err := s.http.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("web terminals are not served any more", "error", err)
		}
	}()
	return s, nil
}

// Close ends the server, and with it the terminals.
func (s *Server) Close() error {
	s.mu.Lock()
	doors := s.doors
	s.doors = map[string]*Door{}
	s.mu.Unlock()
	for _, d := range doors {
		d.cancel()
	}
	return s.http.Close()
}

// selfSigned makes a certificate for one host. Who is told it trusts it for as long as this process lives.
func selfSigned(host string) (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, "", err
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "slipway"}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(10, 0, 0), // whatever the clock is set to
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

// Shell is an interactive shell beside a job. It ends with ctx, or when whoever is there has had enough.
//
// An alias, not a type: who gives one need not know this package.
type Shell = func(ctx context.Context, in io.Reader, out io.Writer) error

// Door leads to one job.
type Door struct {
	URL           string // https
	Certificate   string // of the server, in PEM
	Authorization string // the header that opens it

	server *Server
	id     string
	ctx    context.Context
	cancel context.CancelFunc
	shell  Shell         // for who has seen ready closed
	ready  chan struct{} // closed by Attach

	mu   sync.Mutex
	busy chan struct{} // closed when whoever is inside leaves; nil = nobody is
}

// Open makes a door, for a job that may come. Close must follow.
func (s *Server) Open() *Door {
	d := &Door{
		server: s, id: rand.Text(), Certificate: s.certificate, Authorization: rand.Text(),
		ready: make(chan struct{}),
	}
	d.URL = "https://" + s.address + "/session/" + d.id
	d.ctx, d.cancel = context.WithCancel(context.Background())
	s.mu.Lock()
	s.doors[d.id] = d
	s.mu.Unlock()
	return d
}

// Close shuts the door, and ends the terminal of whoever is inside.
func (d *Door) Close() {
	d.server.mu.Lock()
	delete(d.server.doors, d.id)
	d.server.mu.Unlock()
	d.cancel()
}

// Attach says how to get a shell, once there is something to have one in.
func (d *Door) Attach(shell Shell) {
	d.shell = shell
	close(d.ready)
}

// Hold waits, for as long as the server allows, until nobody is inside; tell is called first, if somebody is.
func (d *Door) Hold(ctx context.Context, tell func(timeout time.Duration)) {
	d.mu.Lock()
	busy := d.busy
	d.mu.Unlock()
	if busy == nil {
		return
	}
	tell(d.server.timeout)
	ctx, cancel := context.WithTimeout(ctx, d.server.timeout)
	defer cancel()
	select {
	case <-busy:
	case <-ctx.Done():
	}
}

// enter lets one in at a time.
func (d *Door) enter() (leave func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy != nil {
		return nil, false
	}
	busy := make(chan struct{})
	d.busy = busy
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.busy = nil
		close(busy)
	}), true
}

// patience is how long somebody may stand before a door of a job that is not there yet.
//
// GitLab: a minute.
const patience = time.Minute

// serve lets somebody in.
//
// GitLab: the status codes are its runner's.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	d := s.doors[r.PathValue("id")]
	s.mu.Unlock()
	switch {
	case d == nil:
		http.Error(w, "no such job", http.StatusNotFound)
		return
	case subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte(d.Authorization)) != 1:
		http.Error(w, "not authorized", http.StatusUnauthorized)
		return
	}
	select {
	case <-d.ready:
	case <-time.After(patience):
		http.Error(w, "the job is not ready yet", http.StatusServiceUnavailable)
		return
	case <-d.ctx.Done():
		http.Error(w, "the job is over", http.StatusNotFound)
		return
	case <-r.Context().Done():
		return
	}
	leave, ok := d.enter()
	if !ok {
		http.Error(w, "somebody has the job's terminal already", http.StatusLocked)
		return
	}
	defer leave()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}})
	if err != nil {
		s.log.Debug("a web terminal was not opened", "error", err)
		return
	}
	defer func() { _ = conn.CloseNow() }()
	if conn.Subprotocol() != protocol {
		_ = conn.Close(websocket.StatusPolicyViolation, "speak "+protocol)
		return
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	stream := websocket.NetConn(ctx, conn, websocket.MessageBinary)
	in, typed := io.Pipe()
	go func() {
		_, err := io.Copy(typed, stream)
		typed.CloseWithError(errors.Join(err, io.EOF))
		cancel() // whoever was there has gone
	}()
	err = d.shell(ctx, in, stream)
	_ = in.Close()
	leave() // whoever does not answer a goodbye must not keep the job
	s.log.Debug("a web terminal ended", "error", err)
	_ = conn.Close(websocket.StatusNormalClosure, "")
}
