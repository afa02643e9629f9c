package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

const patience = 2 * time.Minute

// echo serves TCP on this machine: each client is told the length of all that it said, after it has ended.
func echo(t *testing.T) (dial func() (net.Conn, error)) {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				n, _ := io.Copy(io.Discard, c)
				fmt.Fprintf(c, "got %d", n)
			}()
		}
	}()
	return func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// forwarded serves a listener until the test ends, and waits for it.
func forwarded(t *testing.T, ctx context.Context, f *Forwards, dial func() (net.Conn, error)) (address string) {
	t.Helper()
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.TCP(ctx, l, dial)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

func connect(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	late, again := time.After(patience), time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-late:
			t.Fatal("not so: " + what)
		}
	}
}

// TestTCP: both directions, and the end of each.
func TestTCP(t *testing.T) {
	t.Parallel()
	f := New(1, time.Minute) // one at a time, so the second one waits for the place of the first
	at := forwarded(t, t.Context(), f, echo(t))
	for _, size := range []int{0, 5, 4 << 20} {
		c := connect(t, "tcp", at)
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		text, err := io.ReadAll(c)
		if want := fmt.Sprintf("got %d", size); err != nil || string(text) != want {
			t.Errorf("%q %v, want %q", text, err, want)
		}
	}
	eventually(t, "the place is free", func() bool { return f.Active() == 0 })
}

// TestNobodyAnswers: a client is not to take the forwarder for a server.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	connected := make(chan struct{})
	at := forwarded(t, t.Context(), New(1, time.Minute), func() (net.Conn, error) {
		<-connected
		return nil, errors.New("nobody is there")
	})
	c := connect(t, "tcp", at)
	close(connected)
	if text, err := io.ReadAll(c); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q %v", text, err)
	}
}

// TestBound: no more are dialled for than there are places; the others wait, and all are cut in the end.
func TestBound(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	dialled := make(chan struct{}, 10)
	dial := echo(t)
	f := New(2, time.Minute)
	at := forwarded(t, ctx, f, func() (net.Conn, error) {
		dialled <- struct{}{}
		return dial()
	})
	var clients []net.Conn
	for range 3 {
		clients = append(clients, connect(t, "tcp", at))
	}
	<-dialled
	<-dialled
	if n := f.Active(); n != 2 {
		t.Errorf("%d are active", n)
	}
	clients[0].Close()
	<-dialled // the third has its place
	cancel()
	for _, c := range clients[1:] {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	}
}

// TestUDP: peers are told apart, within the bound, and forgotten.
func TestUDP(t *testing.T) {
	t.Parallel()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo([]byte("echo "+string(buf[:n])), from)
		}
	}()
	l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	f := New(2, 3*time.Second) // what is busy must not take a peer for one that says nothing
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.UDP(t.Context(), l, func() (net.Conn, error) { return net.Dial("udp", server.LocalAddr().String()) })
	}()
	ask := func(c net.Conn, text string) error {
		for buf, patient := make([]byte, 100), time.Now().Add(patience); ; {
			if _, err := io.WriteString(c, text); err != nil {
				return err
			}
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			for {
				n, err := c.Read(buf)
				if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(patient) {
					break // a machine that stood still for long forgets the peer before its answer comes: it asks again
				}
				if err != nil {
					return err
				}
				if string(buf[:n]) == "echo "+text {
					return nil
				}
				if !bytes.HasPrefix(buf[:n], []byte("echo "+text[:1])) { // not an earlier answer to this peer, for which it asked again
					return fmt.Errorf("%q for %q", buf[:n], text)
				}
			}
		}
	}
	for range 2 {
		a, b := connect(t, "udp", l.LocalAddr().String()), connect(t, "udp", l.LocalAddr().String())
		for i, c := range []net.Conn{a, b, a, b} {
			if err := ask(c, fmt.Sprintf("%c%d", 'a'+i%2, i)); err != nil {
				t.Error(err)
			}
		}
		if n := f.Active(); n > 2 {
			t.Errorf("%d peers", n)
		}
		eventually(t, "peers that say nothing are forgotten", func() bool { return f.Active() == 0 })
	}
	l.Close()
	<-done
}
