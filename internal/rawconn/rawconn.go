// Package rawconn has what is needed of a connection that was taken over from HTTP, or is about to be given to somebody: what was read
// ahead of it, the end of one of its directions, its end. It knows nothing of what is said on it.
package rawconn

import (
	"bufio"
	"net"
	"sync"
)

// Conn is a connection of which something was read ahead.
type Conn struct {
	net.Conn
	ahead *bufio.Reader
}

// New is a connection that is read by way of the reader that was used so far.
func New(c net.Conn, ahead *bufio.Reader) *Conn { return &Conn{c, ahead} }

// Read takes first what was read ahead.
func (c *Conn) Read(p []byte) (int, error) { return c.ahead.Read(p) }

// CloseWrite ends our direction only.
func (c *Conn) CloseWrite() error { return CloseWrite(c.Conn) }

// CloseWrite ends our direction of a connection, if it has two that end apart.
func CloseWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// Watch tells when a read shows that the connection is over.
func Watch(c net.Conn, over func()) net.Conn { return &watched{c, over} }

type watched struct {
	net.Conn
	over func()
}

func (c *watched) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.over()
	}
	return n, err
}

// Listen is a listener that has one connection, and ends with it.
func Listen(c net.Conn) net.Listener {
	l := &single{conn: c, coming: make(chan net.Conn, 1), ended: make(chan struct{})}
	l.end = sync.OnceFunc(func() { close(l.ended) })
	l.coming <- Watch(c, l.end)
	return l
}

type single struct {
	conn   net.Conn
	coming chan net.Conn
	ended  chan struct{}
	end    func()
}

func (l *single) Accept() (net.Conn, error) {
	select {
	case c := <-l.coming:
		return c, nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

func (l *single) Addr() net.Addr { return l.conn.LocalAddr() }

func (l *single) Close() error {
	l.end()
	return l.conn.Close()
}
