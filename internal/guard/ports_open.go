package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/slipway-ci/slipway/internal/mishap"
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
		o.running.Go(func() { o.forwards.TCP(o.ctx, l, func() (net.Conn, error) { return o.dial("tcp", want.Port) }) })
	case "udp":
		l, err := o.place.ns.ListenPacket(o.ctx, "udp", address)
		if err != nil {
			return err
		}
		u := l.(*net.UDPConn)
		o.closes = append(o.closes, u)
		o.open = append(o.open, openPort{want, uint16(u.LocalAddr().(*net.UDPAddr).Port)})
		o.running.Go(func() { o.forwards.UDP(o.ctx, u, func() (net.Conn, error) { return o.dial("udp", want.Port) }) })
	}
	return nil // others were refused, or are let pass without an effect where nothing is refused
}

// dialTimeout bounds the wait for one address of a container.
const dialTimeout = 5 * time.Second

// dial connects with a container's port on whichever of its addresses answers.
func (o *opening) dial(network string, port uint16) (_ net.Conn, err error) {
	defer mishap.Catch(o.g.log, "a connection to a published port", &err)
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
