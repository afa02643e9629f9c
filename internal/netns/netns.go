// Package netns listens and dials in the network namespace of a process. It knows nothing of containers: whoever names the
// process answers for it.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace. It stays what it is, and stays alive, when the process that it was opened by ends. A
// nil Namespace is the one that this program is in.
type Namespace struct {
	file *os.File
	id   identity
}

// identity tells namespaces apart.
type identity struct{ device, inode uint64 }

// Open takes hold of the network namespace of a process. The caller checks afterwards that the process is still the one
// that it meant: numbers of processes are used again.
func Open(pid int) (*Namespace, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("open a network namespace: %w", err)
	}
	id, err := identify(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Namespace{f, id}, nil
}

func identify(f *os.File) (identity, error) {
	var stat unix.Stat_t
	var statErr error
	if err := control(f, func(fd int) { statErr = unix.Fstat(fd, &stat) }); err != nil {
		return identity{}, err
	}
	if statErr != nil {
		return identity{}, fmt.Errorf("identify a network namespace: %w", statErr)
	}
	return identity{uint64(stat.Dev), stat.Ino}, nil //nolint:unconvert // not the same type everywhere
}

// control uses the descriptor while nobody can close it.
func control(f *os.File, use func(fd int)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { use(int(fd)) })
}

// Own reports whether the namespace is the one that this program is in.
func (n *Namespace) Own() (bool, error) {
	if n == nil {
		return true, nil
	}
	id, err := current("/proc/self/ns/net")
	return id == n.id, err
}

func current(path string) (identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return identity{}, fmt.Errorf("open a network namespace: %w", err)
	}
	defer f.Close()
	return identify(f)
}

// Close lets go of the namespace. What listens or is connected in it goes on.
func (n *Namespace) Close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}

// Listen is net.Listen in the namespace.
func (n *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := n.do(func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(false) // the peer is a container on this machine: there is one path
		l, err = c.Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket is net.ListenPacket in the namespace.
func (n *Namespace) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var c net.PacketConn
	err := n.do(func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(ctx, network, address)
		return err
	})
	return c, err
}

// Dial connects with an address, which must be an IP address with a port, in the namespace.
func (n *Namespace) Dial(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := n.do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, address.String())
		return err
	})
	return c, err
}

// do runs f on a thread that is in the namespace. A socket belongs to the namespace that it was made in, whichever thread
// uses it later.
func (n *Namespace) do(f func() error) error {
	if n == nil {
		return f()
	}
	result := make(chan error, 1)
	go func() { result <- n.doOnThread(f) }()
	return <-result
}

func (n *Namespace) doOnThread(f func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The first thread is what others see as the program's namespace, and it cannot end. While it is held here, a second
		// goroutine cannot get it.
		defer runtime.UnlockOSThread()
		result := make(chan error, 1)
		go func() { result <- n.doOnThread(f) }()
		return <-result
	}
	// Never unlocked: the thread ends with this goroutine, so that no other goroutine ever runs in a foreign namespace.
	var setErr error
	if err := control(n.file, func(fd int) { setErr = unix.Setns(fd, unix.CLONE_NEWNET) }); err != nil {
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	if setErr != nil {
		return fmt.Errorf("enter a network namespace: %w", setErr)
	}
	now, err := current("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	if now != n.id {
		return errors.New("enter a network namespace: it is another one")
	}
	return f()
}
