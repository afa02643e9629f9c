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

	"github.com/moby/moby/api/types/network"

	"github.com/slipway-ci/slipway/internal/netns"
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
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := ns.Dial(ctx, "tcp", netip.MustParseAddrPort(address))
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(make([]byte, length)); err != nil {
		return "", err
	}
	if err := closeWrite(c); err != nil {
		return "", err
	}
	text, err := io.ReadAll(c)
	return string(text), err
}

// publish records what a container publishes and opens it.
func (r *rig) publish(container string, requests ...portRequest) error {
	r.objects.update(container, func(c *containerRecord) { c.Ports = requests })
	return r.ports.started(r.t.Context(), container)
}

func tcp(port, host uint16) portRequest {
	return portRequest{Port: port, Protocol: "tcp", HostPort: host}
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
	r := netRig(t)
	job := r.job()
	id, err := r.defaultNetwork(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	db := r.sibling("db", []string{id}, "sleep", "600")
	answerTCP(t, r.within(db), 5432, "db")
	if err := r.publish(db, tcp(5432, 0), tcp(5432, 15432), portRequest{Port: 53, Protocol: "udp", HostPort: 1053}); err != nil {
		t.Fatal(err)
	}
	open := r.ports.of(db)
	if len(open) != 3 || open[1].Open != 15432 || open[2].Open != 1053 || open[0].Open == 0 {
		t.Fatalf("open: %+v", open)
	}
	inside := r.within(job)
	for _, size := range []int{0, 5, 4 << 20} {
		want := fmt.Sprintf("db got %d", size)
		wantAnswer(t, inside, "127.0.0.1:15432", size, want)
		wantAnswer(t, inside, fmt.Sprintf("127.0.0.1:%d", open[0].Open), size, want)
	}
	if text, err := askTCP(nil, "127.0.0.1:15432", 1); err == nil {
		t.Errorf("open on the machine: %s", text)
	}
	t.Run("udp", func(t *testing.T) { testUDP(t, r, inside, r.within(db)) })

	// Nothing listens behind the port: the client is not to believe that something does.
	if err := r.publish(db, tcp(5432, 15432), tcp(1, 15433)); err != nil {
		t.Fatal(err)
	}
	if text, err := askTCP(inside, "127.0.0.1:15433", 1); err == nil {
		t.Errorf("answer of nobody: %q", text)
	}

	// The container moves to another network and has another address there.
	other := r.makeNetwork("other")
	r.must(http.StatusOK, "POST", "/networks/other/connect", jsonBody{"Container": "db"}, nil)
	r.must(http.StatusOK, "POST", "/networks/bridge/disconnect", jsonBody{"Container": "db"}, nil)
	wantAnswer(t, inside, "127.0.0.1:15432", 7, "db got 7")
	r.host("network", "disconnect", other, db) // behind the guard's back
	r.host("network", "connect", id, db)
	wantAnswer(t, inside, "127.0.0.1:15432", 8, "db got 8")

	// A connection ends with the container's ports.
	conn, err := inside.Dial(t.Context(), "tcp", netip.MustParseAddrPort("127.0.0.1:15432"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r.ports.stopped(db)
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if _, err := askTCP(inside, "127.0.0.1:15432", 1); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the stop: %v", err)
	}
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
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			buf := make([]byte, 100)
			n, err := c.Read(buf)
			if want := fmt.Sprintf("echo %d %d", round, i); err != nil || string(buf[:n]) != want {
				t.Errorf("%q %v, want %q", buf[:n], err, want)
			}
		}
	}
	if n := len(r.ports.slots); n != 3 {
		t.Errorf("%d peers", n)
	}
}

func TestPortClash(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := netRig(t)
	job := r.job()
	inside := r.within(job)
	answerTCP(t, inside, 8080, "the job")
	id, err := r.defaultNetwork(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	web := r.sibling("web", []string{id}, "sleep", "600")
	err = r.publish(web, tcp(80, 8081), tcp(80, 8080))
	status, text := statusOf(err)
	if status != http.StatusInternalServerError {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "driver failed programming external connectivity on endpoint web (", "Bind for 0.0.0.0:8080 failed: port is already allocated")
	if state := r.host("inspect", "--format", "{{.State.Running}}", web); state != "false\n" {
		t.Errorf("running: %s", state)
	}
	if _, err := askTCP(inside, "127.0.0.1:8081", 1); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("left open: %v", err)
	}
	wantAnswer(t, inside, "127.0.0.1:8080", 1, "the job got 1")

	// A range takes the first free port.
	r.host("start", web)
	answerTCP(t, r.within(web), 80, "web")
	if err := r.publish(web, portRequest{Port: 80, Protocol: "tcp", HostPort: 8080, HostLast: 8082}); err != nil {
		t.Fatal(err)
	}
	if open := r.ports.of(web); len(open) != 1 || open[0].Open != 8081 {
		t.Errorf("open: %+v", open)
	}
	wantAnswer(t, inside, "127.0.0.1:8081", 3, "web got 3")

	// The port of a container that ended by itself is free at once, and its connections end.
	again := r.sibling("again", []string{id}, "sleep", "600")
	if err := r.publish(again, tcp(80, 8081)); err == nil {
		t.Error("two containers have one port")
	}
	r.host("kill", web)
	r.host("start", again)
	answerTCP(t, r.within(again), 80, "again")
	if err := r.publish(again, tcp(80, 8081)); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, inside, "127.0.0.1:8081", 3, "again got 3")
	r.host("kill", again)
	eventually(t, "the port closes", func() bool {
		_, err := askTCP(inside, "127.0.0.1:8081", 1)
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	if open := r.ports.of(again); open != nil {
		t.Errorf("open: %+v", open)
	}
}

// Two jobs have the same container name, network, volume and port at once, and the job's container may be started again.
func TestPortsOfTwoJobs(t *testing.T) {
	t.Parallel()
	needRoot(t)
	var rigs []*rig
	var jobs []string
	for i := range 2 {
		r := netRig(t)
		job := r.job()
		r.makeNetwork("app")
		r.must(http.StatusCreated, "POST", "/volumes/create", jsonBody{"Name": "data"}, nil)
		n, err := r.objects.network("app")
		if err != nil {
			t.Fatal(err)
		}
		db := r.sibling("db", []string{n.ID}, "sleep", "600")
		answerTCP(t, r.within(db), 5432, fmt.Sprint(i))
		if err := r.publish(db, tcp(5432, 5432)); err != nil {
			t.Fatal(err)
		}
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
		if !slices.Contains(names, "db") || len(names) != 2 {
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
		r := netRig(t, func(o *Options) { o.Policy.PublishLocal = local })
		id, err := r.defaultNetwork(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		db := r.sibling("db", []string{id}, "sleep", "600")
		answerTCP(t, r.within(db), 5432, "db")
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		if local {
			_, text := statusOf(r.publish(db, tcp(5432, port)))
			wants(t, text, "port is already allocated")
			r.host("start", db)
			answerTCP(t, r.within(db), 5432, "db")
		}
		l.Close()
		if err := r.publish(db, tcp(5432, port)); err != nil {
			t.Fatal(err)
		}
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
	r := netRig(t, func(o *Options) { o.Policy.Root = false })
	c := &call{Guard: r.Guard, ctx: t.Context()}
	if err := c.checkPorts([]portRequest{tcp(80, 80)}); err != nil {
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
	if got := rule(c.checkPorts(make([]portRequest, maxPorts+1))); got != "publish-protocol" {
		t.Error(got)
	}
	many := slices.Repeat([]portRequest{tcp(80, 0)}, maxPorts/2+1)
	r.objects.addContainer(&containerRecord{ID: "1", Ports: many})
	if got := rule(c.checkPorts(many)); got != "limit-ports" {
		t.Error(got)
	}
	r.objects.dropContainer("1")
	r.job()
	if got := rule(c.checkPorts([]portRequest{tcp(80, 80)})); got != "needs-root" {
		t.Error(got)
	}
	if got := rule(c.checkPorts(nil)); got != "<nil>" {
		t.Error(got)
	}
}

func TestPublishedPorts(t *testing.T) {
	t.Parallel()
	port := network.MustParsePort
	exposed := network.PortSet{port("80/tcp"): {}, port("53/udp"): {}}
	bindings := network.PortMap{
		port("80/tcp"):   {{HostPort: ""}, {HostPort: "8080"}, {HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: "8080"}},
		port("443/tcp"):  {{HostPort: "9000-9002"}},
		port("7777/udp"): {},
	}
	for _, all := range []bool{false, true} {
		got, err := publishedPorts(exposed, bindings, all)
		want := []portRequest{tcp(80, 8080), {Port: 443, Protocol: "tcp", HostPort: 9000, HostLast: 9002}, tcp(80, 0)}
		if all {
			want = append(want, portRequest{Port: 53, Protocol: "udp"})
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%+v %v, want %+v", got, err, want)
		}
	}
	for _, bad := range []string{"x", "70000", "-1", "9-8", "0-5", "80-", "80-90-95", " 80"} {
		if got, err := publishedPorts(nil, network.PortMap{port("80/tcp"): {{HostPort: bad}}}, false); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}
