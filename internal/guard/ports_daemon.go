package guard

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/net/netutil"

	"github.com/slipway-ci/slipway/internal/tlsport"
)

// Daemon lets the job find its socket also where a Docker-in-Docker beside it would be: on TCP, in its own container.
type Daemon struct {
	// Names are the host names that the certificate of the TLS port is for, beside localhost.
	Names []string
}

// The ports of a Docker daemon on TCP.
const (
	daemonPort    = "2375"
	daemonTLSPort = "2376"
)

// daemonPorts are the TCP listeners of the job's socket. They are on the loopback of the job's container, so that nobody
// else reaches them.
type daemonPorts struct {
	config *tls.Config // nil = the job has none

	mu   sync.Mutex
	open []net.Listener
}

// Certificates is the folder, on the host, of the client's ca.pem, cert.pem and key.pem; "" without a Daemon.
func (g *Guard) Certificates() string {
	if g.daemon.config == nil {
		return ""
	}
	return g.certificates()
}

// openDaemon opens the ports in the network namespace that the job's container has now.
func (g *Guard) openDaemon(ctx context.Context) error {
	if g.daemon.config == nil || !g.policy.Root {
		return nil
	}
	at, ok, err := g.ports.place(ctx)
	if err != nil {
		return err
	}
	if !ok || at.listen != "" {
		return errors.New("the job's container has no network of its own")
	}
	g.daemon.mu.Lock()
	defer g.daemon.mu.Unlock()
	g.daemon.closeAll()
	if g.ctx.Err() != nil {
		return g.ctx.Err()
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		for port, wrap := range map[string]func(net.Listener) net.Listener{
			daemonPort:    func(l net.Listener) net.Listener { return tlsport.Either(l, g.daemon.config) },
			daemonTLSPort: func(l net.Listener) net.Listener { return tls.NewListener(l, g.daemon.config) },
		} {
			l, err := at.ns.Listen(ctx, "tcp", net.JoinHostPort(host, port))
			if err != nil && host == "::1" {
				continue // a container without IPv6
			}
			if err != nil {
				return fmt.Errorf("open the daemon's port %s: %w", port, err)
			}
			g.daemon.open = append(g.daemon.open, l)
			go func() { _ = g.server.Serve(wrap(netutil.LimitListener(l, maxConnections))) }() // until it is closed
		}
	}
	return nil
}

func (d *daemonPorts) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closeAll()
}

func (d *daemonPorts) closeAll() {
	for _, l := range d.open {
		l.Close()
	}
	d.open = nil
}

// certificates is where the client's files are.
func (g *Guard) certificates() string { return filepath.Join(g.dir, "certs") }

// removeCertificates removes the files, but nothing else: the folder is the guard's own.
func (g *Guard) removeCertificates() error {
	if g.daemon.config == nil {
		return nil
	}
	return os.RemoveAll(g.certificates())
}
