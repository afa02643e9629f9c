package cli

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSupervisor: systemd is told when slipway is ready, that it lives, and that it ends; slipway status sees the same.
func TestSupervisor(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "notify-") // short, for the sake of the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hears := func(want string) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Minute))
		for buf := make([]byte, 4096); ; {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("%s: %v", want, err)
			}
			if string(buf[:n]) == want {
				return
			}
		}
	}
	p := prepareRun(t)
	p.cmd.Env = append(p.cmd.Env, "NOTIFY_SOCKET="+filepath.Join(dir, "s"), "WATCHDOG_USEC=200000")
	status := func() (string, error) {
		cmd := exec.Command("slipway", "status", "--config", p.config)
		cmd.Env = p.cmd.Env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := status(); err == nil || !strings.Contains(out, "slipway does not run with the state folder") {
		t.Errorf("before: %v %s", err, out)
	}
	p.begin()
	hears("READY=1")
	hears("WATCHDOG=1")
	hears("WATCHDOG=1")
	if out, err := status(); err != nil || !strings.Contains(out, "slipway runs\n") || !strings.Contains(out, "jobs     0 that run") {
		t.Errorf("%v %s", err, out)
	}
	p.signal(syscall.SIGQUIT)
	hears("STOPPING=1")
	p.ends(exitOK)
	if out, err := status(); err == nil {
		t.Errorf("after: %s", out)
	}
}
