package guard

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/netns"
)

// The bridge that jobs share lets no traffic of IP through between them, but every container on it can claim the address
// of another to the gateway, and is then sent what comes for that one. Without NET_RAW it cannot, which is why neither a
// job's container nor those that it makes are to have it.
func TestBridgeCannotBeSpoofed(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t, func(o *Options) { o.Policy.CapDrop = []string{"NET_RAW"} })
	bridge := r.sharedBridge()
	gateway := strings.TrimSpace(r.host("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", bridge))
	id := strings.TrimSpace(r.host("network", "inspect", "--format", "{{.Id}}", bridge))
	mac, err := os.ReadFile("/sys/class/net/br-" + id[:12] + "/address")
	if err != nil {
		t.Skip(err) // the Engine has a network namespace of its own
	}
	victim := r.jobOn(bridge)
	address := strings.TrimSpace(r.host("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", victim))
	job := r.jobOn(bridge) // the attacker's, and the guard's from now on
	const secret = "the secret of the victim"
	outside, inside := serveSecret(t, secret), r.within(victim)
	buildStatic(t, "testdata/arp", r.workspace+"/arp")
	attack := []string{address, strings.TrimSpace(string(mac)), gateway, secret}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		keepAsking(ctx, inside, outside)
	}()
	defer func() {
		cancel()
		<-done
	}()
	// With Docker's own capabilities.
	out, err := run(engineHost(), "", append([]string{
		"run", "--rm", "--network", bridge, "--volume", r.workspace + ":/w", alpine, "/w/arp",
	}, attack...)...)
	if !strings.Contains(out, "intercepted") {
		t.Errorf("the attack does not work at all, so that this test shows nothing: %v %s", err, out)
	}
	// Through the guard, on the network of the job's container.
	out, err = r.try(append([]string{
		"run", "--rm", "--network", "container:" + job, "--cap-add", "NET_RAW", "--volume", jobDir + ":/w", alpine, "/w/arp",
	}, attack...)...)
	if err == nil || !strings.Contains(out, "operation not permitted") {
		t.Errorf("through the guard: %v %s", err, out)
	}
}

// buildStatic builds a program of the tests for containers without libraries.
func buildStatic(t *testing.T, dir, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out, "./"+dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

// serveSecret tells it to whoever connects with this machine.
func serveSecret(t *testing.T, secret string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(machineAddress(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, secret)
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// keepAsking asks a server outside, from a container's namespace, until ctx ends.
func keepAsking(ctx context.Context, ns *netns.Namespace, server netip.AddrPort) {
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		if c, err := ns.Dial(once, "tcp", server); err == nil {
			_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
			_, _ = io.ReadAll(c)
			c.Close()
		}
		cancel()
	}
}
