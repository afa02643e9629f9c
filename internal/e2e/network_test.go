package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestNetworkIsGone: the bridge may be pruned whenever no job runs. Not parallel: nobody else is to use the bridge.
func TestNetworkIsGone(t *testing.T) {
	r := newRig(t)
	const bridge = "slipway"
	remove := func() bool {
		if err := r.engine.RemoveNetwork(context.Background(), bridge); err != nil {
			t.Error(err)
		}
		networks, err := r.engine.Networks(context.Background(), "slipway.instance")
		return err == nil && !named(networks, bridge)
	}
	connected := "ip route | grep ^default"
	r.must(job.Success, spec(connected))
	t.Run("between two jobs", func(t *testing.T) {
		if !remove() {
			t.Skip("another Slipway uses the bridge")
		}
		r.in(t).must(job.Success, spec(connected))
	})
	t.Run("between creation and start", func(t *testing.T) {
		r := r.in(t)
		p := r.gitProject("file", "text")
		gone := false
		// The first request to Git comes while the container is being made; it has not been started.
		takeAway := r.Inject(coordinator.Fault{Endpoint: coordinator.Git, Times: -1, Status: http.StatusOK, Match: func(*http.Request) bool {
			for start := time.Now(); !gone && time.Since(start) < patience; time.Sleep(20 * time.Millisecond) {
				list, err := r.engine.Containers(context.Background(), r.instance())
				if err == nil && len(list) == 1 {
					gone = remove()
					break
				}
			}
			return false
		}})
		defer takeAway()
		log := r.must(job.Success, withGit(p, spec(connected)))
		if !gone {
			t.Skipf("another Slipway uses the bridge:\n%s", log)
		}
	})
}

func TestNetworkMadeByMany(t *testing.T) {
	t.Parallel()
	e := engine(t)
	name := fmt.Sprintf("sw-t%d", time.Now().UnixNano()%1e9)
	defer func() {
		if err := e.RemoveNetwork(context.Background(), name); err != nil {
			t.Error(err)
		}
	}()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := e.EnsureBridge(t.Context(), name, nil, docker.NetworkOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestNeighbours: two jobs at the same time do not reach each other, but both reach the world outside.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`cap_add = ["NET_RAW"]`)) // for ping
	outside := startListener(t)
	image := r.image(withBash()) // its /dev/tcp finds hosts by name, a static busybox does not
	listening := r.enqueue(withImage(spec(
		"mkdir /www; echo it is me >/www/index.html",
		"httpd -p 8080 -h /www; sleep 1",
		// Datagrams to a port without a listener are counted.
		"datagrams() { awk '/^Udp:/ { n = $3 } END { print n }' /proc/net/snmp; }",
		"ip=$(ip -4 addr show dev eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p')",
		`echo "at <$ip> <$(hostname)> six <$(grep -v lo$ /proc/net/if_inet6 | cut -d' ' -f1 | xargs)>"`,
		// The controls: what the neighbour tries works where it may.
		getWithin(60, "$ip"), getWithin(60, "$(hostname)"), "echo self >/dev/udp/$ip/9999; echo self >/dev/udp/$ip/9999; sleep 1; echo datagrams $(datagrams)",
		"ping -c 1 -W 60 $ip >/dev/null && echo pinged myself",
		"echo listening; until test -f go; do sleep 0.1; done; echo then still $(datagrams)",
		reach(outside),
	), image))
	r.until(listening, "\nlistening\n")
	at := regexp.MustCompile(`(?m)^at <(\S+)> <(\S+)> six <(.*)>$`).FindStringSubmatch(plain(listening.Trace()))
	c := r.containers(listening)
	if at == nil || len(c) != 1 {
		t.Fatalf("no address, or not one container but %d:\n%s", len(c), plain(listening.Trace()))
	}
	if at[3] != "" {
		t.Errorf("the container has an IPv6 address: %s", at[3])
	}
	var tries []string
	for _, host := range []string{at[1], at[2], c[0].Name, c[0].ID[:12], c[0].ID} {
		tries = append(tries, get(host)+" &", fmt.Sprintf("timeout 2 bash -c 'echo neighbour >/dev/udp/%s/9999' &", host))
	}
	tries = append(tries, "wait", fmt.Sprintf("if ping -c 1 -W 1 %s >/dev/null; then echo pinged; fi", at[1]),
		"if ping6 -c 1 -W 1 -I eth0 ff02::1 2>&1; then echo a neighbour answers; fi",
		"ip -6 addr show dev eth0 | grep inet6 && echo has IPv6 || true", reach(outside))
	log := r.must(job.Success, withImage(spec(tries...), image))
	lacks(t, log, "\nit is me", "\npinged", "\na neighbour answers", "\nhas IPv6")
	wants(t, log, "\nnothing from "+at[1]+"\n", "\nnothing from "+c[0].Name+"\n", "\noutside says hello\n")
	if code, out, err := r.engine.Exec(t.Context(), c[0].ID, "", "touch", "/builds/group/demo/go"); err != nil || code != 0 {
		t.Fatal(code, out, err)
	}
	o, log := r.end(listening)
	if o.State != job.Success || strings.Count(log, "\nit is me\n") != 2 {
		t.Errorf("the controls failed: %+v\n%s", o, log)
	}
	wants(t, log, "\npinged myself\n", "\ndatagrams 2\n", "\nthen still 2\n", "\noutside says hello\n")
}

// TestNoRawSockets: a job on the shared bridge cannot forge addresses, unless the operator lets it.
func TestNoRawSockets(t *testing.T) {
	t.Parallel()
	const dropped = "caps=$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status); test $((0x$caps >> 13 & 1)) = "
	newRig(t).must(job.Success, spec(dropped+"0"))
	newRig(t, dockerKeys(`cap_add = ["NET_RAW"]`)).must(job.Success, spec(dropped+"1"))
}

// get is a bash command that asks for the page of a host that will not answer.
func get(host string) string { return getWithin(2, host) }

func getWithin(seconds int, host string) string {
	return fmt.Sprintf(`timeout %d bash -c "exec 3<>/dev/tcp/%[2]s/8080; printf 'GET / HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3" || echo nothing from %[2]s`, seconds, host)
}

// reach is a command that talks to a port of the machine, at the container's gateway.
func reach(port int) string {
	return fmt.Sprintf("echo outside says $(nc -w 60 $(ip route | awk '/^default/ { print $3 }') %d </dev/null)", port)
}

// startListener says hello on a port of all of the machine's addresses.
func startListener(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp4", ":0")
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
			fmt.Fprintln(c, "hello")
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}
