package guard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	grpcmeta "google.golang.org/grpc/metadata"

	"github.com/slipway-ci/slipway/internal/rawconn"
	"github.com/slipway-ci/slipway/internal/tarball"
)

// stall begins a request with an archive, and does not go on behind the first bytes of it.
func (r *rig) stall(method, target string, archive []byte, n int) net.Conn {
	r.t.Helper()
	conn, err := net.Dial("unix", r.Socket())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() { // it may not be read
		_, _ = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: guard\r\nContent-Type: application/x-tar\r\nContent-Length: %d\r\n\r\n%s", method, target, len(archive), archive[:n])
	}()
	return conn
}

// answered is a call's answer, when it comes.
type answered struct {
	status int
	text   string
}

// ask sends a request beside the test, with an archive or without. Without an answer the status is 0.
func ask(r *rig, method, target string, archive []byte) <-chan answered {
	out := make(chan answered, 1)
	ctx := r.t.Context()
	go func() {
		var got answered
		req, err := http.NewRequestWithContext(ctx, method, "http://guard"+target, bytes.NewReader(archive))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-tar")
			transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", r.Socket()) }, DisableKeepAlives: true}
			var resp *http.Response
			if resp, err = transport.RoundTrip(req); err == nil {
				var text []byte
				text, err = io.ReadAll(resp.Body)
				resp.Body.Close()
				got = answered{resp.StatusCode, string(text)}
			}
		}
		if err != nil {
			got = answered{text: err.Error()}
		}
		out <- got
	}()
	return out
}

// answer waits for it.
func answer(t *testing.T, what string, from <-chan answered) answered {
	t.Helper()
	eventually(t, what, func() bool { return len(from) > 0 })
	return <-from
}

// atWork is how many of the job's places for builds are taken.
func (r *rig) atWork() int {
	r.Guard.builds.mu.Lock()
	defer r.Guard.builds.mu.Unlock()
	return r.Guard.builds.n
}

// impatient is a job that may have one build at a time, and whose clients may not stall for long.
func impatient(o *Options) {
	o.Policy.Limits.Builds, o.patience = 1, time.Second
}

// TestUploadStalls: whose archive comes beside the build keeps no place for builds when that has ended, though it does not go on.
func TestUploadStalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, impatient)
	text := "FROM scratch\nLABEL upload=" + r.policy.Token + "\n"
	refused := entries(t, tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, Linkname: text}, tar.Header{Name: "./Dockerfile", Typeflag: tar.TypeReg, Linkname: text},
		tar.Header{Name: "more", Typeflag: tar.TypeReg, Linkname: strings.Repeat("0123456789abcdef", 1<<16)})
	build := func(id string) <-chan answered {
		return ask(r, http.MethodPost, "/build?version=2&remote=upload-request&buildid="+id, nil)
	}
	for id, n := range map[string]int{"at-once": 0, "later": 2 * tarball.BufferSize} {
		r.stall(http.MethodPost, "/build?version=2&buildid=upload-request:"+id, refused, n)
		got := build(id)
		if n == 0 { // the build itself waits for the archive, until it is ended
			eventually(t, "the build is at work", func() bool { return r.atWork() == 1 })
			r.do(http.MethodPost, "/build/cancel?id="+id, nil)
			answer(t, "the build ends", got)
		} else if a := answer(t, "the build is refused", got); a.status != http.StatusForbidden || !strings.Contains(a.text, "[build-context]") {
			t.Errorf("%+v", a)
		}
		eventually(t, "its place is free", func() bool { return r.atWork() == 0 })
	}
	// Who goes on sending is answered in both requests.
	sent := ask(r, http.MethodPost, "/build?version=2&buildid=upload-request:whole", refused)
	if a := answer(t, "the build is refused", build("whole")); a.status != http.StatusForbidden {
		t.Errorf("%+v", a)
	}
	if a := answer(t, "the archive is taken", sent); a.status != http.StatusOK {
		t.Errorf("%+v", a)
	}
	sent = ask(r, http.MethodPost, "/build?version=2&buildid=upload-request:good", contextOf(t, "Dockerfile", text))
	if a := answer(t, "the build is done", build("good")); a.status != http.StatusOK || !strings.Contains(a.text, "moby.image.id") {
		t.Errorf("%+v", a)
	}
	if a := answer(t, "the archive is taken", sent); a.status != http.StatusOK {
		t.Errorf("%+v", a)
	}
}

// mortalEngine is the Engine as one that can die at any time, for builds alone.
type mortalEngine struct {
	listener net.Listener
	mu       sync.Mutex
	builds   []net.Conn // what builds have with the guard
	taken    int        // bytes that came there
}

// newMortalEngine puts one before the Engine of a rig.
func newMortalEngine(t *testing.T) (*mortalEngine, func(*Options)) {
	t.Helper()
	e := &mortalEngine{}
	var err error
	if e.listener, err = net.Listen("unix", filepath.Join(t.TempDir(), "s")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.listener.Close() })
	return e, func(o *Options) {
		real := o.Dial
		go func() {
			for {
				conn, err := e.listener.Accept()
				if err != nil {
					return
				}
				go e.serve(conn, real)
			}
		}()
		o.Dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", e.listener.Addr().String())
		}
	}
}

func (e *mortalEngine) serve(conn net.Conn, dial func(context.Context) (net.Conn, error)) {
	defer conn.Close()
	engine, err := dial(context.Background())
	if err != nil {
		return
	}
	defer engine.Close()
	go func() {
		build := false
		_, _ = io.Copy(engine, io.TeeReader(conn, writerFunc(func(p []byte) {
			e.mu.Lock()
			defer e.mu.Unlock()
			if !build && bytes.HasPrefix(p, []byte("POST ")) && bytes.Contains(p, []byte("/build?")) {
				build = true
				e.builds = append(e.builds, conn)
			}
			if build {
				e.taken += len(p)
			}
		})))
		_ = rawconn.CloseWrite(engine)
	}()
	_, _ = io.Copy(conn, engine)
}

// die ends the Engine for the builds at work. last is what it says before.
func (e *mortalEngine) die(t *testing.T, last string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, conn := range e.builds {
		if _, err := io.WriteString(conn, last); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
	e.builds = nil
}

// has reports whether so much of builds has come.
func (e *mortalEngine) has(n int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.taken >= n
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// TestEngineDiesUnderStall: a build whose Engine is gone ends, though its client does not go on sending the context.
func TestEngineDiesUnderStall(t *testing.T) {
	t.Parallel()
	const begun = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
	data := make([]byte, maxAhead+1<<20)
	_, _ = rand.Read(data)
	for what, last := range map[string]string{
		"without an answer": "", "in its answer": begun, "with an answer that ends": begun + "0\r\n\r\n",
		"with an error": "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			engine, mortal := newMortalEngine(t)
			r := newRig(t, impatient, mortal)
			context := contextOf(t, "Dockerfile", "FROM scratch\nCOPY big /\nLABEL of="+r.policy.Token+"\n", "big", string(data), "more", string(data))
			conn := r.stall(http.MethodPost, "/build", context, maxAhead+1<<19)
			eventually(t, "the Engine has nearly all that was sent", func() bool { return engine.has(maxAhead + 1<<18) })
			engine.die(t, last)
			eventually(t, "the build's place is free", func() bool { return r.atWork() == 0 })
			text, err := io.ReadAll(conn)
			if err != nil || !strings.Contains(string(text), "slipway: ") && !strings.HasPrefix(string(text), "HTTP/1.1 500") {
				t.Errorf("the client is not told: %q %v", text, err)
			}
			// It builds again, and has what came in time.
			if status, text := r.do(http.MethodPost, "/build", context); status != http.StatusOK || !strings.Contains(text, "Successfully built") {
				t.Errorf("%d %s", status, text)
			}
		})
	}
}

// TestStalledRest: what a client sends of a context when its build is over, and so is the time that it had for it, is no call.
func TestStalledRest(t *testing.T) {
	t.Parallel()
	engine, mortal := newMortalEngine(t)
	r := newRig(t, impatient, mortal)
	data := make([]byte, maxAhead+1<<20)
	_, _ = rand.Read(data)
	context := contextOf(t, "Dockerfile", "FROM scratch\nCOPY big /\nLABEL of="+r.policy.Token+"\n", "big", string(data))
	conn := r.stall(http.MethodPost, "/build", context, len(context)-1<<10)
	eventually(t, "the Engine has nearly all that was sent", func() bool { return engine.has(maxAhead + 1<<18) })
	engine.die(t, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	eventually(t, "the build's place is free", func() bool { return r.atWork() == 0 })
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "slipway: ") {
		t.Errorf("%q %v", text, err)
	}
	r.audit.take()
	_, _ = io.WriteString(conn, "GET /_ping HTTP/1.1\r\nHost: guard\r\n\r\n")
	if text, _ := in.ReadString('\n'); text != "" {
		t.Errorf("the rest of the context was answered: %s", text)
	}
}

// TestBuildAnsweredEarly: an Engine of today answers before it has read the context, of which nothing may get lost then.
func TestBuildAnsweredEarly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	data := make([]byte, 2*maxAhead)
	_, _ = rand.Read(data)
	archive := contextOf(t, "Dockerfile", "FROM "+alpine+"\nCOPY big /\nRUN sha256sum /big\n", "big", string(data))
	body, out := io.Pipe()
	go func() { // in chunks, as docker's client does, and slower than the Engine
		for rest := archive; len(rest) > 0; {
			n := min(len(rest), 1<<20)
			_, _ = out.Write(rest[:n])
			rest = rest[n:]
			time.Sleep(100 * time.Millisecond)
		}
		out.Close()
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://guard/build", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-tar")
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", r.Socket()) }}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	wants(t, string(text), digestOf(string(data))[len("sha256:"):], "Successfully built")
}

// TestStalledCopy: while the Engine copies into or out of a container it cannot tell figures of it, and whoever wants those of
// another one waits. A client that stalls in the middle of a copy must not keep other jobs waiting for long.
func TestStalledCopy(t *testing.T) {
	t.Parallel()
	a, b := newRig(t, func(o *Options) { o.patience = 10 * time.Second }), newRig(t, newScope)
	a.sleeper("db")
	b.sleeper("db")
	a.docker("exec", "db", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=8")
	archive := archiveOf(t, &tar.Header{Name: "f", Size: 1 << 20, Mode: 0o644, Typeflag: tar.TypeReg})
	if _, err := a.stream(http.MethodGet, "/containers/db/stats?stream=1").ReadString('\n'); err != nil { // the Engine goes on to ask
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, target string
		n              int
	}{{http.MethodPut, "/containers/db/archive?path=/tmp", 1 << 19}, {http.MethodGet, "/containers/db/archive?path=/big", 0}} {
		a.calls.take()
		a.audit.take()
		conn := a.stall(c.method, c.target, archive[:2*c.n], c.n)
		eventually(t, "the Engine copies", func() bool { return strings.Contains(a.calls.String(), "/archive?") })
		b.docker("stats", "--no-stream", "db")
		eventually(t, "the copy is cut", func() bool {
			return strings.Contains(a.audit.String(), `call="`+c.method+` /containers/{id}/archive"`)
		})
		answer, err := io.ReadAll(conn)
		if c.n > 0 && (err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408") || !strings.Contains(string(answer), "did not come in time")) {
			t.Errorf("%q %v", answer, err)
		}
		if c.n == 0 && (len(answer) == 0 || len(answer) > 4<<20) {
			t.Errorf("%d bytes, %v", len(answer), err)
		}
	}
	a.docker("cp", "db:/big", t.TempDir())
	a.docker("cp", "/etc/hostname", "db:/tmp")
}

// TestStalledProgress: who does not read the progress of a build keeps nobody waiting for the name of an image that it pulls.
func TestStalledProgress(t *testing.T) {
	t.Parallel()
	registry, open := startRegistry(t)
	publish(t, registry, "team/base:1", "stalled")
	name := open + "/team/base:1"
	a, b := rigs(t, withRegistry(open, ""))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := write(t, t.TempDir(), "Dockerfile", "FROM "+name+"\nLABEL of="+a.policy.Token+"\n")
	id, end := a.clientSession("key", dirs(t, map[string]string{dirDockerfile: dir, dirContext: dir}))
	defer end()
	const ref = "stalled"
	conn := a.grpcConn()
	go func() {
		_, _ = control.NewControlClient(conn).Solve(ctx, &control.SolveRequest{Ref: ref, Session: id, Cache: &control.CacheOptions{}})
	}()
	status, err := control.NewControlClient(a.grpcConn()).Status(ctx, &control.StatusRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() { // nobody receives more than this
		_, err := status.Recv()
		first <- err
	}()
	build := func() *grpcBuild {
		a.grpcBuilds.mu.Lock()
		defer a.grpcBuilds.mu.Unlock()
		return a.grpcBuilds.byRef[ref]
	}
	eventually(t, "the build begins", func() bool { return build() != nil })
	tell, _ := build().progress.Step("a test")
	eventually(t, "the build is followed", func() bool {
		_ = tell([]byte(`{"status":"begins"}`))
		return len(first) > 0
	})
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{})
	go func() { // as much as a pull of many layers has to tell
		defer close(told)
		line := fmt.Appendf(nil, `{"status":%q}`, strings.Repeat("x", 64<<10))
		for range 256 {
			_ = tell(line)
		}
	}()
	select {
	case <-told:
	case <-time.After(time.Second): // it waits for the client
	}
	go func() {
		of := grpcmeta.NewOutgoingContext(ctx, grpcmeta.Pairs(buildIDHeader, ref))
		_, _ = gateway.NewLLBBridgeClient(conn).Solve(of, &gateway.SolveRequest{Frontend: frontendName, FrontendOpt: map[string]string{}})
	}()
	eventually(t, "the base is pulled", func() bool { return strings.Contains(a.calls.String(), "/images/create?") })
	pulled := ask(b, http.MethodPost, "/images/create?fromImage="+open+"/team/base&tag=1", nil)
	if got := answer(t, "the other job's pull", pulled); got.status != http.StatusOK || strings.Contains(got.text, `"error"`) {
		t.Errorf("%+v", got)
	}
}

// TestStalledEvents: with each event that it cannot get rid of, the Engine keeps all waiting a moment. Who takes in less of its own than
// there are gets no more.
func TestStalledEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.patience = 6 * time.Second })
	id := r.own("large", "--network", "none", "--label", "large="+strings.Repeat("x", 60_000), alpine, "true")
	conn := r.stall(http.MethodGet, "/events", nil, 0)
	eventually(t, "the events begin", func() bool {
		return strings.Contains(r.calls.String(), "/events HTTP/1.1") || strings.Contains(r.calls.String(), "/events\n")
	})
	taken := make(chan int, 1)
	go func() { // a little now and then
		sum := 0
		for buf := make([]byte, 1<<10); ; time.Sleep(20 * time.Millisecond) {
			n, err := conn.Read(buf)
			if sum += n; err != nil {
				taken <- sum
				return
			}
		}
	}()
	n := 0
	eventually(t, "the stream is cut", func() bool {
		n++
		if status, text := r.do(http.MethodPost, fmt.Sprintf("/containers/%s/rename?name=large%d", id, n%2), nil); status != http.StatusNoContent {
			t.Fatal(status, text)
		}
		return strings.Contains(r.audit.String(), `call="GET /events"`)
	})
	wants(t, r.audit.String(), "msg=answered", errBehind.Error())
	conn.Close()
	if <-taken == 0 {
		t.Error("the client has got nothing")
	}
}

// TestStuckRemoval: there are ways to keep the Engine from removing an image, such as a copy into a container of it; a client that
// attaches to one and does not read is another. That keeps nobody waiting who names or removes other images.
func TestStuckRemoval(t *testing.T) {
	t.Parallel()
	a, b := rigs(t)
	a.patience = time.Hour
	name := "stuck:1"
	if status, text := a.do(http.MethodPost, "/build?t="+name, contextOf(t, "Dockerfile", "FROM "+alpine+"\nLABEL stuck="+a.policy.Token+"\n")); status != http.StatusOK {
		t.Fatal(status, text)
	}
	a.docker("create", "--name", "still", "--network", "none", name)
	archive := archiveOf(t, &tar.Header{Name: "f", Size: 1 << 20, Mode: 0o644, Typeflag: tar.TypeReg})
	conn := a.stall(http.MethodPut, "/containers/still/archive?path=/tmp", archive, 1<<19)
	eventually(t, "the Engine is stuck with the container", func() bool {
		inspected := ask(a, http.MethodGet, "/containers/still/json", nil)
		select {
		case <-inspected:
			return false
		case <-time.After(2 * time.Second):
			return true
		}
	})
	over, stopped := make(chan struct{}), make(chan struct{})
	go func() { // again and again, because each ends some time
		defer close(stopped)
		for again := time.NewTicker(100 * time.Millisecond); ; {
			removed := ask(a, http.MethodDelete, "/images/"+name+"?force=1", nil)
			select {
			case <-removed:
			case <-over:
				conn.Close()
				<-removed
				return
			}
			<-again.C
		}
	}()
	eventually(t, "the Engine removes the image", func() bool { // and not only a name
		return strings.Count(a.calls.String(), "DELETE /v"+a.engine.version.String()+"/images/") > 1
	})
	built := ask(b, http.MethodPost, "/build?t=free:1", contextOf(t, "Dockerfile", "FROM "+alpine+"\nLABEL free="+b.policy.Token+"\n"))
	got := answer(t, "the other job's build", built)
	close(over)
	<-stopped
	if got.status != http.StatusOK || !strings.Contains(got.text, "Successfully tagged free:1") {
		t.Errorf("%+v", got)
	}
}
