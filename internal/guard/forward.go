package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// listen opens one port and forwards what comes.
func (o *opening) listen(want portRequest) error {
	last := max(want.HostLast, want.HostPort)
	for port := want.HostPort; ; port++ {
		err := o.listenAt(want, port)
		if port == last || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
}

func (o *opening) listenAt(want portRequest, port uint16) error {
	address := net.JoinHostPort(o.place.listen, strconv.Itoa(int(port)))
	switch want.Protocol {
	case "tcp":
		l, err := o.place.ns.Listen(o.ctx, "tcp", address)
		if err != nil {
			return err
		}
		o.closes = append(o.closes, l)
		o.open = append(o.open, openPort{want, uint16(l.Addr().(*net.TCPAddr).Port)})
		o.running.Go(func() { o.serveTCP(l, want.Port) })
	case "udp":
		l, err := o.place.ns.ListenPacket(o.ctx, "udp", address)
		if err != nil {
			return err
		}
		u := l.(*net.UDPConn)
		o.closes = append(o.closes, u)
		o.open = append(o.open, openPort{want, uint16(u.LocalAddr().(*net.UDPAddr).Port)})
		o.running.Go(func() { o.serveUDP(u, want.Port) })
	}
	return nil // others were refused, or are let pass without an effect where nothing is refused
}

// acceptPause is waited when the program has no file descriptor left for a connection.
const acceptPause = 50 * time.Millisecond

func (o *opening) serveTCP(l net.Listener, port uint16) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if o.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(acceptPause)
			continue
		}
		select {
		case o.slots <- struct{}{}:
		case <-o.ctx.Done():
			conn.Close()
			return
		}
		o.running.Go(func() {
			defer func() { <-o.slots }()
			o.forwardTCP(conn.(*net.TCPConn), port)
		})
	}
}

func (o *opening) forwardTCP(client *net.TCPConn, port uint16) {
	defer client.Close()
	conn, err := o.dial("tcp", port)
	if err != nil {
		_ = client.SetLinger(0) // a reset: the client must not take it for an answer
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	stop := context.AfterFunc(o.ctx, func() {
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

// dialTimeout bounds the wait for one address of a container.
const dialTimeout = 5 * time.Second

// dial connects with a container's port on whichever of its addresses answers.
func (o *opening) dial(network string, port uint16) (net.Conn, error) {
	known, err := o.current()
	if err != nil {
		return nil, err
	}
	conn, err := o.dialAny(network, known, port)
	if err == nil {
		return conn, nil
	}
	o.forget()
	fresh, ferr := o.current()
	if ferr != nil || slices.Equal(fresh, known) {
		return nil, err
	}
	return o.dialAny(network, fresh, port)
}

func (o *opening) dialAny(network string, addresses []netip.Addr, port uint16) (net.Conn, error) {
	select {
	case o.dials <- struct{}{}:
		defer func() { <-o.dials }()
	case <-o.ctx.Done():
		return nil, o.ctx.Err()
	}
	err := errors.New("the container has no address")
	for _, a := range addresses {
		ctx, cancel := context.WithTimeout(o.ctx, dialTimeout)
		var conn net.Conn
		conn, err = o.place.ns.Dial(ctx, network, netip.AddrPortFrom(a, port))
		cancel()
		if err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// current are the container's addresses. They change when it joins or leaves a network.
func (o *opening) current() ([]netip.Addr, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.addresses != nil {
		return o.addresses, nil
	}
	c, err := o.inspect(o.ctx, o.id)
	if err != nil {
		return nil, fmt.Errorf("find a container's address: %w", err)
	}
	at := o.place
	if at.joined != nil {
		fresh, ok, err := o.ports.place(o.ctx)
		if err != nil || !ok {
			return nil, err
		}
		at = fresh
	}
	o.addresses = at.order(c)
	return o.addresses, nil
}

func (o *opening) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.addresses = nil
}

// maxDatagram is the size of the largest datagram that UDP has.
const maxDatagram = 64 << 10

// serveUDP forwards datagrams: each peer gets a socket of its own towards the container, by which its answers are known.
func (o *opening) serveUDP(l *net.UDPConn, port uint16) {
	var mu sync.Mutex
	peers := map[netip.AddrPort]*udpPeer{}
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := l.ReadFromUDPAddrPort(buf)
		if err != nil {
			if o.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an answer that reached nobody is told here
		}
		mu.Lock()
		peer := peers[from]
		mu.Unlock()
		if peer == nil {
			if peer = o.newPeer(port); peer == nil {
				continue // as datagrams get lost
			}
			mu.Lock()
			peers[from] = peer
			mu.Unlock()
			o.running.Go(func() {
				defer func() { <-o.slots }()
				o.answer(l, from, peer)
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

func (o *opening) newPeer(port uint16) *udpPeer {
	select {
	case o.slots <- struct{}{}:
	default:
		return nil
	}
	conn, err := o.dial("udp", port)
	if err != nil {
		<-o.slots
		return nil
	}
	peer := &udpPeer{Conn: conn}
	peer.note()
	return peer
}

// answer sends back what the container says to a peer, until neither has said anything for a while.
func (o *opening) answer(l *net.UDPConn, to netip.AddrPort, peer *udpPeer) {
	stop := context.AfterFunc(o.ctx, func() { peer.Close() })
	defer stop()
	buf := make([]byte, maxDatagram)
	last := time.Now()
	for {
		_ = peer.SetReadDeadline(time.Now().Add(o.udpIdle))
		n, err := peer.Read(buf)
		switch {
		case err == nil:
			last = time.Now()
			_, _ = l.WriteToUDPAddrPort(buf[:n], to)
		case errors.Is(err, syscall.ECONNREFUSED): // the port is not open yet
		case o.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default:
			if time.Since(last) >= o.udpIdle && time.Since(*peer.used.Load()) >= o.udpIdle {
				return
			}
		}
	}
}
