package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/forward"
	"github.com/slipway-ci/slipway/internal/netns"
	"github.com/slipway-ci/slipway/internal/rawconn"
)

// needRoot skips what has to enter namespaces.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
}

// within takes hold of a running container's network namespace: the tests talk and serve in it themselves.
func (r *rig) within(container string) *netns.Namespace {
	r.t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(r.host("inspect", "--format", "{{.State.Pid}}", container)))
	if err != nil {
		r.t.Fatal(err)
	}
	ns, err := netns.Open(pid)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ns.Close() })
	return ns
}

// answerTCP serves in a namespace: each client is told name and the length of all that it said, after it has ended.
func answerTCP(t *testing.T, ns *netns.Namespace, port int, name string) {
	t.Helper()
	l, err := ns.Listen(t.Context(), "tcp", ":"+strconv.Itoa(port))
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
			go func() {
				defer c.Close()
				n, _ := io.Copy(io.Discard, c)
				fmt.Fprintf(c, "%s got %d", name, n)
			}()
		}
	}()
}

// askTCP says something of that length and returns the answer.
func askTCP(ns *netns.Namespace, address string, length int) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := ns.Dial(ctx, "tcp", netip.MustParseAddrPort(address))
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(make([]byte, length)); err != nil {
		return "", err
	}
	if err := rawconn.CloseWrite(c); err != nil {
		return "", err
	}
	text, err := io.ReadAll(c)
	return string(text), err
}

func wantAnswer(t *testing.T, ns *netns.Namespace, address string, length int, want string) {
	t.Helper()
	if got, err := askTCP(ns, address, length); err != nil || got != want {
		t.Errorf("%s: %q %v, want %q", address, got, err, want)
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	r.ports.forwards = forward.New(maxForwards, 15*time.Second) // what is busy must not take a peer for one that says nothing
	job := r.job()
	db := r.sibling("db", "", "0:5432/tcp", "15432:5432/tcp", "1053:53/udp", "15433:1/tcp")
	answerTCP(t, r.within(db), 5432, "db")
	var view struct {
		NetworkSettings struct {
			Ports map[string][]struct{ HostIp, HostPort string }
		}
	}
	r.must(http.StatusOK, "GET", "/containers/db/json", nil, &view)
	shown := view.NetworkSettings.Ports["5432/tcp"]
	if len(shown) != 2 {
		t.Fatalf("shown: %+v", view.NetworkSettings.Ports)
	}
	inside := r.within(job)
	for _, size := range []int{0, 5, 4 << 20} {
		want := fmt.Sprintf("db got %d", size)
		wantAnswer(t, inside, "127.0.0.1:15432", size, want)
		for _, at := range shown {
			wantAnswer(t, inside, "127.0.0.1:"+at.HostPort, size, want)
		}
	}
	if text, err := askTCP(nil, "127.0.0.1:15432", 1); err == nil {
		t.Errorf("open on the machine: %s", text)
	}
	t.Run("udp", func(t *testing.T) { testUDP(t, r, inside, r.within(db)) })

	// Nothing listens behind the port: the client is not to believe that something does.
	if text, err := askTCP(inside, "127.0.0.1:15433", 1); err == nil {
		t.Errorf("answer of nobody: %q", text)
	}

	// The container moves to another network and has another address there.
	other := r.makeNetwork("other")
	r.must(http.StatusOK, "POST", "/networks/other/connect", jsonBody{"Container": "db"}, nil)
	r.must(http.StatusOK, "POST", "/networks/bridge/disconnect", jsonBody{"Container": "db"}, nil)
	wantAnswer(t, inside, "127.0.0.1:15432", 7, "db got 7")
	r.host("network", "disconnect", other, db) // behind the guard's back
	r.host("network", "connect", r.policy.prefix()+"bridge", db)
	wantAnswer(t, inside, "127.0.0.1:15432", 8, "db got 8")

	// A connection ends with the container's ports.
	conn, err := inside.Dial(t.Context(), "tcp", netip.MustParseAddrPort("127.0.0.1:15432"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r.must(http.StatusNoContent, "POST", "/containers/db/stop?t=0", nil, nil)
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	eventually(t, "the port is closed", func() bool {
		_, err := askTCP(inside, "127.0.0.1:15432", 1)
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

func testUDP(t *testing.T, r *rig, job, db *netns.Namespace) {
	server, err := db.ListenPacket(t.Context(), "udp", ":53")
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
	var conns []net.Conn
	for range 3 { // several peers are told apart
		c, err := job.Dial(t.Context(), "udp", netip.MustParseAddrPort("127.0.0.1:1053"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	for round := range 2 {
		for i, c := range conns {
			fmt.Fprintf(c, "%d %d", round, i)
		}
		for i, c := range conns {
			_ = c.SetDeadline(time.Now().Add(patience))
			buf := make([]byte, 100)
			n, err := c.Read(buf)
			if want := fmt.Sprintf("echo %d %d", round, i); err != nil || string(buf[:n]) != want {
				t.Errorf("%q %v, want %q", buf[:n], err, want)
			}
		}
	}
	if n := r.ports.forwards.Active(); n > 3 {
		t.Errorf("%d peers", n)
	}
	eventually(t, "peers that say nothing are forgotten", func() bool { return r.ports.forwards.Active() == 0 })
}

func TestPortClash(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	job := r.job()
	inside := r.within(job)
	answerTCP(t, inside, 8080, "the job")
	closed := func(address string) bool {
		_, err := askTCP(inside, address, 1)
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	web := r.siblingMade("web", "", "8081:80/tcp", "8080:80/tcp")
	status, text := r.do("POST", "/containers/web/start", nil)
	if status != http.StatusInternalServerError {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "driver failed programming external connectivity on endpoint web (", "Bind for 0.0.0.0:8080 failed: port is already allocated")
	if state := r.host("inspect", "--format", "{{.State.Running}}", web); state != "false\n" {
		t.Errorf("running: %s", state)
	}
	if !closed("127.0.0.1:8081") {
		t.Error("left open")
	}
	wantAnswer(t, inside, "127.0.0.1:8080", 1, "the job got 1")

	// A range takes the first free port.
	first := r.sibling("first", "", "8080-8082:80/tcp")
	answerTCP(t, r.within(first), 80, "first")
	wantAnswer(t, inside, "127.0.0.1:8081", 3, "first got 3")

	// The port of a container that ended by itself is free at once.
	again := r.siblingMade("again", "", "8081:80/tcp")
	r.must(http.StatusInternalServerError, "POST", "/containers/again/start", nil, nil)
	r.host("kill", first)
	r.must(http.StatusNoContent, "POST", "/containers/again/start", nil, nil)
	answerTCP(t, r.within(again), 80, "again")
	wantAnswer(t, inside, "127.0.0.1:8081", 3, "again got 3")
	r.host("kill", again)
	eventually(t, "the port closes", func() bool { return closed("127.0.0.1:8081") })
}

// TestPortNobodyAnswers: connections to a server that takes none wait for it, without a thread for each.
func TestPortNobodyAnswers(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	inside := r.within(r.job())
	l, err := r.within(r.sibling("db", "", "5432:5432/tcp")).Listen(t.Context(), "tcp", ":5432")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) })
	if err != nil {
		t.Fatal(err)
	}
	before := threads(t)
	for range 200 {
		c, err := inside.Dial(t.Context(), "tcp", netip.MustParseAddrPort("127.0.0.1:5432"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	// Not all of them: where this takes long, the first ones have waited long enough.
	eventually(t, "many wait", func() bool { return r.ports.forwards.Active() > 3*maxDials && len(r.ports.dials) == maxDials })
	if n := threads(t) - before; n > 2*maxDials {
		t.Errorf("%d threads more", n)
	}
}

// threads is how many this program has.
func threads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}

// Two jobs have the same container name, network, volume and port at once, and the job's container may be started again.
func TestPortsOfTwoJobs(t *testing.T) {
	t.Parallel()
	needRoot(t)
	var rigs []*rig
	var jobs []string
	for i := range 2 {
		r := newRig(t)
		job := r.job()
		r.makeNetwork("app")
		r.must(http.StatusCreated, "POST", "/volumes/create", jsonBody{"Name": "data"}, nil)
		db := r.sibling("db", "app", "5432:5432/tcp")
		answerTCP(t, r.within(db), 5432, fmt.Sprint(i))
		rigs, jobs = append(rigs, r), append(jobs, job)
	}
	for i, r := range rigs {
		wantAnswer(t, r.within(jobs[i]), "127.0.0.1:5432", 1, fmt.Sprintf("%d got 1", i))
		var n struct {
			Containers map[string]struct{ Name string }
		}
		r.must(http.StatusOK, "GET", "/networks/app", nil, &n)
		var names []string
		for _, c := range n.Containers {
			names = append(names, c.Name)
		}
		if !slices.Equal(names, []string{"db"}) {
			t.Errorf("on the network: %q", names)
		}
	}
	r := rigs[0]
	before := r.within(jobs[0])
	r.host("restart", "--time", "0", jobs[0])
	if err := r.JobStarted(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, r.within(jobs[0]), "127.0.0.1:5432", 2, "0 got 2")
	if _, err := askTCP(before, "127.0.0.1:5432", 1); err == nil {
		t.Error("open in the namespace that was")
	}
	wantAnswer(t, rigs[1].within(jobs[1]), "127.0.0.1:5432", 1, "1 got 1")
}

func TestPublishLocal(t *testing.T) {
	t.Parallel()
	needRoot(t) // to serve in the container
	for _, local := range []bool{true, false} {
		r := newRig(t, func(o *Options) { o.Policy.PublishLocal = local })
		l, port := ownPort(t)
		db := r.siblingMade("db", "", fmt.Sprintf("%d:5432/tcp", port))
		if local {
			_, text := r.do("POST", "/containers/db/start", nil)
			wants(t, text, "port is already allocated")
		}
		l.Close()
		r.must(http.StatusNoContent, "POST", "/containers/db/start", nil, nil)
		answerTCP(t, r.within(db), 5432, "db")
		text, err := askTCP(nil, fmt.Sprintf("127.0.0.1:%d", port), 4)
		if local != (err == nil && text == "db got 4") {
			t.Errorf("local %t: %q %v", local, text, err)
		}
		if outside := machineAddress(t); outside != "" && local {
			if _, err := askTCP(nil, fmt.Sprintf("%s:%d", outside, port), 4); err == nil {
				t.Errorf("open at %s", outside)
			}
		}
	}
}

// ownPort listens on a port of the machine that stays the test's own when it does so no more: none of those that the system gives to others.
func ownPort(t *testing.T) (l net.Listener, port int) {
	t.Helper()
	for port := 20000 + os.Getpid()%10000; port < 32000; port++ {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return l, port
		}
	}
	t.Fatal("no port is free")
	return nil, 0
}

// machineAddress is an address of this machine that its neighbours see.
func machineAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	return ""
}

func TestCheckPorts(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Root = false })
	c := &call{Guard: r.Guard, ctx: t.Context()}
	if err := c.checkPorts([]portRequest{{Port: 80, Protocol: "tcp", HostPort: 80}}); err != nil {
		t.Errorf("without a job container: %v", err)
	}
	rule := func(err error) string {
		var d *Denial
		if errors.As(err, &d) {
			return d.Rule
		}
		return fmt.Sprint(err)
	}
	if got := rule(c.checkPorts([]portRequest{{Port: 80, Protocol: "sctp"}})); got != "publish-protocol" {
		t.Error(got)
	}
	many := slices.Repeat([]portRequest{{Port: 80, Protocol: "tcp"}}, maxPorts/2+1)
	r.objects.addContainer(&containerRecord{ID: "1", Ports: many})
	if got := rule(c.checkPorts(many)); got != "limit-ports" {
		t.Error(got)
	}
	r.objects.dropContainer("1")
	r.job()
	if got := rule(c.checkPorts([]portRequest{{Port: 80, Protocol: "tcp"}})); got != "needs-root" {
		t.Error(got)
	}
	if got := rule(c.checkPorts(nil)); got != "<nil>" {
		t.Error(got)
	}
}

func TestHostPorts(t *testing.T) {
	t.Parallel()
	for s, want := range map[string][2]uint16{"": {}, "0": {}, "8080": {8080, 0}, "9000-9002": {9000, 9002}, "65535": {65535, 0}} {
		if first, last, err := hostPorts(s); err != nil || first != want[0] || last != want[1] {
			t.Errorf("%q: %d %d %v", s, first, last, err)
		}
	}
	for _, bad := range []string{"x", "70000", "-1", "9-8", "0-5", "80-", "80-90-95", " 80"} {
		if first, last, err := hostPorts(bad); err == nil {
			t.Errorf("%q: %d %d", bad, first, last)
		}
	}
}
