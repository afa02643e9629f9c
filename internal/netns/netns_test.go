package netns

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process starts one in a network namespace of its own, with a loopback interface.
func process(t *testing.T) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	cmd := exec.Command("busybox", "sh", "-c", "busybox ip link set lo up && echo up && exec busybox sleep 600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatalf("the process is not up: %v", err)
	}
	return cmd
}

func open(t *testing.T, pid int) *Namespace {
	t.Helper()
	n, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// One port of two namespaces, and of none of this program's: many times at once, so that threads are made and end.
func TestNamespace(t *testing.T) {
	before, err := current("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddrPort("127.0.0.1:7")
	greetings := map[string]*Namespace{"one": open(t, process(t).Process.Pid), "two": open(t, process(t).Process.Pid)}
	for name, n := range greetings {
		if own, err := n.Own(); own || err != nil {
			t.Errorf("own: %t %v", own, err)
		}
		l, err := n.Listen(t.Context(), "tcp", address.String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, name)
				c.Close()
			}
		}()
		if _, err := n.Listen(t.Context(), "tcp", address.String()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("listens twice: %v", err)
		}
	}
	var wg sync.WaitGroup
	for range 50 {
		for name, n := range greetings {
			wg.Go(func() {
				c, err := n.Dial(t.Context(), "tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				if got, err := io.ReadAll(c); err != nil || string(got) != name {
					t.Errorf("%s: %q %v", name, got, err)
				}
			})
		}
	}
	wg.Wait()
	var none *Namespace
	if c, err := none.Dial(t.Context(), "tcp", address); err == nil {
		c.Close()
		t.Error("the port is open here")
	}
	if own, err := none.Own(); !own || err != nil {
		t.Errorf("own: %t %v", own, err)
	}
	for range 20 { // on whatever threads are left
		wg.Go(func() {
			for _, path := range []string{"/proc/self/ns/net", "/proc/thread-self/ns/net"} {
				if now, err := current(path); err != nil || now != before {
					t.Errorf("%s is another namespace now: %v", path, err)
				}
			}
		})
	}
	wg.Wait()
}

// A namespace that is held is alive, and is still the same, when its process has ended.
func TestNamespaceOutlivesProcess(t *testing.T) {
	cmd := process(t)
	n := open(t, cmd.Process.Pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	p, err := n.ListenPacket(t.Context(), "udp", "127.0.0.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := n.Dial(t.Context(), "udp", netip.MustParseAddrPort("127.0.0.1:7"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := p.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if k, _, err := p.ReadFrom(buf); err != nil || string(buf[:k]) != "hello" {
		t.Errorf("%q %v", buf[:k], err)
	}
	n.Close()
	if _, err := n.Listen(t.Context(), "tcp", "127.0.0.1:8"); err == nil {
		t.Error("listens in a closed namespace")
	}
	if _, err := Open(0); err == nil {
		t.Error("opened the namespace of no process")
	}
}
