package rawconn

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
)

// pair is both ends of a connection whose directions end apart.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	return near, far
}

// TestConn: nothing is lost of what was read ahead, and each direction ends by itself.
func TestConn(t *testing.T) {
	t.Parallel()
	near, far := pair(t)
	if _, err := io.WriteString(far, "head\nrest"); err != nil {
		t.Fatal(err)
	}
	if err := CloseWrite(far); err != nil {
		t.Fatal(err)
	}
	ahead := bufio.NewReader(near)
	if line, err := ahead.ReadString('\n'); err != nil || line != "head\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c := New(near, ahead)
	if text, err := io.ReadAll(c); err != nil || string(text) != "rest" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := io.WriteString(c, "answer"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(far); err != nil || string(text) != "answer" {
		t.Errorf("%q, %v", text, err)
	}
	one, other := net.Pipe()
	defer other.Close()
	if err := CloseWrite(one); err != nil {
		t.Errorf("a connection whose directions do not end apart: %v", err)
	}
}

// TestListen: a server gets the connection once, and its listener ends when the connection does, or when it is closed.
func TestListen(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(l net.Listener, far net.Conn){
		"the other end goes":     func(_ net.Listener, far net.Conn) { far.Close() },
		"the listener is closed": func(l net.Listener, _ net.Conn) { l.Close() },
	} {
		near, far := pair(t)
		l := Listen(near)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			ended <- err
		}()
		end(l, far)
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the connection goes on", name)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
