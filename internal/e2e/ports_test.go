package e2e

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// hold keeps a port of the loopback that its server has let go of: nobody answers there, and nobody else is given it, until release is
// called. A server that listens there again may come before that.
func hold(t *testing.T, address string) (release func()) {
	t.Helper()
	at := netip.MustParseAddrPort(address)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the port "+address+" is free", func() bool {
		return unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}) == nil
	})
	return func() { _ = unix.Close(fd) }
}
