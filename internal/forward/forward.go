// Package forward forwards TCP connections and UDP datagrams from a listener to wherever a dial leads. It knows nothing of what is there,
// nor in which network.
package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Forwards are connections and UDP peers within one bound.
type Forwards struct {
	slots chan struct{} // one for each connection and each peer
	idle  time.Duration // after which a peer is forgotten
}

// New lets there be at most that many connections and peers at once. A peer is forgotten when neither side has said anything for the time
// of idle.
func New(most int, idle time.Duration) *Forwards {
	return &Forwards{slots: make(chan struct{}, most), idle: idle}
}

// Active is how many connections and peers there are.
func (f *Forwards) Active() int { return len(f.slots) }

// acceptPause is waited when the program has no file descriptor left for a connection.
const acceptPause = 50 * time.Millisecond

// TCP forwards the connections of a listener to where dial leads, until the listener is closed. The end of ctx cuts them; it returns when
// all are over.
func (f *Forwards) TCP(ctx context.Context, l net.Listener, dial func() (net.Conn, error)) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(acceptPause)
			continue
		}
		select {
		case f.slots <- struct{}{}:
		case <-ctx.Done():
			conn.Close()
			return
		}
		running.Go(func() {
			defer func() { <-f.slots }()
			forwardTCP(ctx, conn.(*net.TCPConn), dial)
		})
	}
}

func forwardTCP(ctx context.Context, client *net.TCPConn, dial func() (net.Conn, error)) {
	defer client.Close()
	conn, err := dial()
	if err != nil {
		_ = client.SetLinger(0) // a reset: the client must not take it for an answer
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	stop := context.AfterFunc(ctx, func() {
		client.Close()
		server.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { copyHalf(server, client) })
	both.Go(func() { copyHalf(client, server) })
	both.Wait()
}

// copyHalf forwards one direction and its end; a broken connection breaks the other.
func copyHalf(dst, src *net.TCPConn) {
	if _, err := io.Copy(dst, src); err != nil {
		_, _ = dst.SetLinger(0), src.SetLinger(0)
		dst.Close()
		src.Close()
		return
	}
	_ = dst.CloseWrite()
}

// maxDatagram is the size of the largest datagram that UDP has.
const maxDatagram = 64 << 10

// UDP forwards datagrams as TCP does connections: each peer gets a socket of its own from dial, by which its answers are known. A peer
// that finds no place loses its datagrams.
func (f *Forwards) UDP(ctx context.Context, l *net.UDPConn, dial func() (net.Conn, error)) {
	var running sync.WaitGroup
	defer running.Wait()
	var mu sync.Mutex
	peers := map[netip.AddrPort]*udpPeer{}
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := l.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an answer that reached nobody is told here
		}
		mu.Lock()
		peer := peers[from]
		mu.Unlock()
		if peer == nil {
			if peer = f.newPeer(dial); peer == nil {
				continue // as datagrams get lost
			}
			mu.Lock()
			peers[from] = peer
			mu.Unlock()
			running.Go(func() {
				defer func() { <-f.slots }()
				f.answer(ctx, l, from, peer)
				mu.Lock()
				delete(peers, from)
				mu.Unlock()
				peer.Close()
			})
		}
		peer.note()
		_, _ = peer.Write(buf[:n])
	}
}

type udpPeer struct {
	net.Conn
	used atomic.Pointer[time.Time] // when a datagram last came from the client
}

func (p *udpPeer) note() {
	now := time.Now()
	p.used.Store(&now)
}

func (f *Forwards) newPeer(dial func() (net.Conn, error)) *udpPeer {
	select {
	case f.slots <- struct{}{}:
	default:
		return nil
	}
	conn, err := dial()
	if err != nil {
		<-f.slots
		return nil
	}
	peer := &udpPeer{Conn: conn}
	peer.note()
	return peer
}

// answer sends back what is said to a peer, until neither has said anything for a while.
func (f *Forwards) answer(ctx context.Context, l *net.UDPConn, to netip.AddrPort, peer *udpPeer) {
	stop := context.AfterFunc(ctx, func() { peer.Close() })
	defer stop()
	buf := make([]byte, maxDatagram)
	last := time.Now()
	for {
		_ = peer.SetReadDeadline(time.Now().Add(f.idle))
		n, err := peer.Read(buf)
		switch {
		case err == nil:
			last = time.Now()
			_, _ = l.WriteToUDPAddrPort(buf[:n], to)
		case errors.Is(err, syscall.ECONNREFUSED): // the port is not open yet
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default:
			if time.Since(last) >= f.idle && time.Since(*peer.used.Load()) >= f.idle {
				return
			}
		}
	}
}
