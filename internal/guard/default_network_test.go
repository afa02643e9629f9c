package guard

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// jobOn starts the job's container on a network of that name, as the runner does.
func (r *rig) jobOn(network string) string {
	r.t.Helper()
	id := strings.TrimSpace(r.host("run", "--detach", "--network", network, "--stop-signal", "KILL", "--entrypoint", "sleep", client, "600"))
	r.t.Cleanup(func() { _, _ = run(engineHost(), "", "rm", "--force", "--volumes", id) })
	r.JobContainer(id, strings.TrimPrefix(strings.TrimSpace(r.host("inspect", "--format", "{{.Name}}", id)), "/"))
	if err := r.JobStarted(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return id
}

// sharedBridge makes a bridge as the runner's: named as those are, and without traffic between its containers.
func (r *rig) sharedBridge(options ...string) string {
	r.t.Helper()
	name := "slipway-" + r.policy.Token
	line := append([]string{"network", "create", "--opt", "com.docker.network.bridge.enable_icc=false"}, options...)
	r.host(append(line, name)...)
	r.t.Cleanup(func() { _, _ = run(engineHost(), "", "network", "rm", name) })
	return name
}

// The job's way to the outside stays what it is when its container joins further networks, and a transfer goes on.
func TestDefaultRoute(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	bridge := r.sharedBridge()
	if r.engine.version.atLeast("1.48") { // where the order of names does not matter
		bridge = "zz-" + r.policy.Token
		r.host("network", "create", bridge)
		t.Cleanup(func() { _, _ = run(engineHost(), "", "network", "rm", bridge) })
	}
	job := r.jobOn(bridge)
	inside := r.within(job)
	outside := machineAddress(t)
	l, err := net.Listen("tcp", net.JoinHostPort(outside, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := inside.Dial(t.Context(), "tcp", netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	transfer := func() {
		t.Helper()
		const size = 1 << 20
		go func() { _, _ = far.Write(make([]byte, size)) }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if n, err := io.ReadFull(conn, make([]byte, size)); err != nil {
			t.Errorf("the transfer broke after %d bytes: %v", n, err)
		}
	}
	route := func() string {
		t.Helper()
		out, err := r.inJob(job, "ip route show default")
		if err != nil || !strings.HasPrefix(out, "default via ") {
			t.Fatalf("%v: %s", err, out)
		}
		first, _, _ := strings.Cut(out, "\n") // busybox shows all
		return first
	}
	before := route()
	transfer()
	if _, err := r.defaultNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.makeNetwork("app")
	if n := strings.Count(r.host("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}\n{{end}}", job), "."); n != 9 {
		t.Errorf("the job's container is not on three networks: %d", n/3)
	}
	transfer()
	if after := route(); after != before {
		t.Errorf("default route: %s, before: %s", after, before)
	}
	r.must(http.StatusNoContent, "DELETE", "/networks/app", nil, nil)
	transfer()
	if after := route(); after != before {
		t.Errorf("default route: %s, before: %s", after, before)
	}
}

func TestDefaultNetwork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := r.jobOn(r.sharedBridge())
	var view struct {
		Name, Id, Driver string
		IPAM             struct{ Config []struct{ Gateway string } }
		Containers       map[string]struct{ Name, IPv4Address string }
	}
	r.must(http.StatusOK, "GET", "/networks/bridge", nil, &view)
	if view.Name != "bridge" || len(view.Id) != 64 || view.IPAM.Config[0].Gateway != "127.0.0.1" || len(view.Containers) != 0 {
		t.Errorf("before it is needed: %+v", view)
	}
	lacks(t, r.calls.String(), "networks")

	ids := make([]string, 4)
	var wg sync.WaitGroup
	for i := range ids { // at once: one network
		wg.Go(func() { ids[i], _ = r.defaultNetwork(t.Context()) })
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("networks: %q", ids)
		}
	}
	db := r.sibling("db", ids[0])
	web := r.sibling("web", ids[0])
	r.must(http.StatusOK, "GET", "/networks/bridge", nil, &view)
	own := strings.TrimSpace(r.host("inspect", "--format", "{{(index .NetworkSettings.Networks \""+r.policy.prefix()+"bridge\").IPAddress}}", job))
	if view.Id != ids[0] || len(view.Containers) != 2 || view.Containers[db].Name != "db" || own == "" {
		t.Errorf("with a container: %+v", view)
	}
	// Clients reach published ports at the bridge's gateway: here, that is the job.
	if view.IPAM.Config[0].Gateway != own {
		t.Errorf("gateway %s, the job is %s", view.IPAM.Config[0].Gateway, own)
	}

	// Names work from the job and between the containers, both ways.
	for _, from := range []string{job, web, db} {
		for name, of := range map[string]string{"db": db, "web": web, db[:12]: db, job[:12]: job} {
			if of == from {
				continue
			}
			address := own
			if of != job {
				address, _, _ = strings.Cut(view.Containers[of].IPv4Address, "/")
			}
			line := "nslookup " + name + " 127.0.0.11 && ping -c 1 -W 60 " + address
			if out, err := r.inJob(from, line); err != nil || !strings.Contains(out, address) {
				t.Errorf("%s from %s: %v\n%s", name, from[:12], err, out)
			}
		}
	}
}

// A job on the machine's network, or on none, needs no further one.
func TestDefaultNetworkOfAJobWithout(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"host", "none"} {
		r := newRig(t)
		r.jobOn(mode)
		id, err := r.defaultNetwork(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if out := r.host("network", "inspect", "--format", "{{len .Containers}}", id); out != "0\n" {
			t.Errorf("%s: %s containers", mode, out)
		}
	}
}

// A network that the job's container cannot join is not left behind.
func TestDefaultNetworkFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.JobContainer(strings.Repeat("0", 64), "gone")
	if id, err := r.defaultNetwork(t.Context()); err == nil {
		t.Errorf("made %s", id)
	}
	r.objects.mu.Lock()
	r.objects.job = ""
	r.objects.mu.Unlock()
	r.cancel() // the job ends while networks and volumes are made
	if id, err := r.defaultNetwork(t.Context()); !errors.Is(err, errClosing) {
		t.Errorf("made %s: %v", id, err)
	}
	c := &call{Guard: r.Guard, ctx: t.Context()}
	if name, err := c.ensureVolume(t.Context(), "data"); !errors.Is(err, errClosing) {
		t.Errorf("made %s: %v", name, err)
	}
	r.leftovers()
	for message, want := range map[string]bool{
		"could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network": true,
		"all predefined address pools have been fully subnetted":                                                     true,
		"network x not found": false,
	} {
		if isPoolExhausted(message) != want {
			t.Error(message)
		}
	}
}
