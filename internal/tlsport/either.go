// Package tlsport serves TLS to the one client that has its certificates, and plain connections beside it. It knows nothing of what is
// served.
package tlsport

import (
	"bufio"
	"crypto/tls"
	"net"
	"sync"

	"github.com/slipway-ci/slipway/internal/rawconn"
)

// Either takes plain connections and TLS on one port: the entrypoint of Docker's own image turns TLS on as soon as
// it finds certificates, whatever the port.
func Either(l net.Listener, config *tls.Config) net.Listener { return &eitherListener{l, config} }

type eitherListener struct {
	net.Listener
	config *tls.Config
}

func (l *eitherListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &eitherConn{Conn: c, config: l.config}, nil
}

// eitherConn is TLS if its first byte is that of a handshake.
type eitherConn struct {
	net.Conn
	config *tls.Config
	once   sync.Once
	real   net.Conn
	err    error
}

// handshakeRecord is the first byte of a TLS connection (RFC 8446, 5.1).
const handshakeRecord = 22

func (c *eitherConn) decide() (net.Conn, error) {
	c.once.Do(func() {
		r := bufio.NewReader(c.Conn)
		first, err := r.Peek(1)
		c.real = rawconn.New(c.Conn, r)
		switch {
		case err != nil:
			c.err = err
		case first[0] == handshakeRecord:
			c.real = tls.Server(c.real, c.config)
		}
	})
	return c.real, c.err
}

func (c *eitherConn) Read(p []byte) (int, error) {
	real, err := c.decide()
	if err != nil {
		return 0, err
	}
	return real.Read(p)
}

func (c *eitherConn) Write(p []byte) (int, error) {
	real, err := c.decide()
	if err != nil {
		return 0, err
	}
	return real.Write(p)
}

// CloseWrite ends our direction only. Nothing is written before the client has said something.
func (c *eitherConn) CloseWrite() error {
	real, err := c.decide()
	if err != nil {
		return err
	}
	return rawconn.CloseWrite(real)
}
