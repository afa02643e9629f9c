package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	buildkit "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/slipway-ci/slipway/internal/rawconn"
	"github.com/slipway-ci/slipway/internal/session"
)

// clientSession opens a build session as docker's client does, and returns its ID. close ends it.
func (r *rig) clientSession(sharedKey string, services ...buildkit.Attachable) (id string, close func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := buildkit.NewSession(ctx, sharedKey)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, a := range services {
		s.Allow(a)
	}
	opened, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer func() { done <- struct{}{} }()
		_ = s.Run(ctx, func(ctx context.Context, protocol string, header map[string][]string) (net.Conn, error) {
			conn, err := r.openSession(ctx, protocol, header)
			opened <- err
			return conn, err
		})
	}()
	if err := <-opened; err != nil {
		r.t.Fatal(err)
	}
	close = sync.OnceFunc(func() {
		_ = s.Close()
		cancel()
		<-done
	})
	r.t.Cleanup(close)
	return s.ID(), close
}

// openSession asks the guard for a session's connection.
func (r *rig) openSession(ctx context.Context, protocol string, header http.Header) (net.Conn, error) {
	return r.openRaw(ctx, "/session", protocol, header)
}

// openRaw asks the guard for a raw connection.
func (r *rig) openRaw(ctx context.Context, path, protocol string, header http.Header) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.Socket())
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://guard"+path, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		text, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	return rawconn.New(conn, br), nil
}

// dirs are folders of a client, as docker's client offers them.
func dirs(t *testing.T, folders map[string]string) buildkit.Attachable {
	t.Helper()
	source := filesync.StaticDirSource{}
	for name, dir := range folders {
		f, err := fsutil.NewFS(dir)
		if err != nil {
			t.Fatal(err)
		}
		source[name] = f
	}
	return filesync.NewFSSyncProvider(source)
}

// write puts files into a folder: name, content, name, content…; content "-> x" makes a link.
func write(t *testing.T, dir string, files ...string) string {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(files[i+1], "-> "); ok {
			err = os.Symlink(target, name)
		} else {
			err = os.WriteFile(name, []byte(files[i+1]), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// hostileFiles is a client's file service that sends what it likes.
type hostileFiles func(s filesync.FileSync_DiffCopyServer) error

func (h hostileFiles) Register(server *grpc.Server) { filesync.RegisterFileSyncServer(server, h) }

func (h hostileFiles) TarStream(filesync.FileSync_TarStreamServer) error { return errors.New("no") }

func (h hostileFiles) DiffCopy(s filesync.FileSync_DiffCopyServer) error { return h(s) }

// serve is a folder with one file.
func serve(t *testing.T, name, text string) session.Folder {
	t.Helper()
	folder, err := session.NewFolder(map[string][]byte{name: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestSessionRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id, end := r.clientSession("key")
	for name, c := range map[string]struct {
		protocol string
		header   http.Header
		want     string
	}{
		"id taken":       {"h2c", http.Header{sessionID: {id}}, "already exists"},
		"no id":          {"h2c", nil, "session's ID"},
		"id with prefix": {"h2c", http.Header{sessionID: {"a:" + id}}, "session's ID"},
		"no upgrade":     {"tcp", http.Header{sessionID: {"x"}}, "needs an upgrade"},
	} {
		if conn, err := r.openSession(t.Context(), c.protocol, c.header); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v", name, conn, err)
		}
	}
	lacks(t, r.calls.String(), "/session")

	// Another job's guard knows nothing of it.
	other := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := other.sessions.find(ctx, id); err == nil {
		t.Error("a session of another job was found")
	}
	end()
	eventually(t, "the session is forgotten", func() bool {
		r.sessions.mu.Lock()
		defer r.sessions.mu.Unlock()
		return len(r.sessions.open) == 0
	})
}

// grpc is a client for what buildx speaks.
func (r *rig) grpc() control.ControlClient { return control.NewControlClient(r.grpcConn()) }

// grpcConn is the connection of such a client.
func (r *rig) grpcConn() *grpc.ClientConn {
	r.t.Helper()
	conn, err := grpc.NewClient("passthrough:guard", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.openRaw(ctx, "/grpc", "h2c", nil) }))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// TestSessionOver opens a session whose build was answered already, as docker's client does if it is refused at once: the
// session is taken, and ends.
func TestSessionOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn, err := r.openSession(t.Context(), "h2c", http.Header{sessionID: {"first"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, id := range []string{"first", "later"} {
		if status, answer := r.do(http.MethodPost, "/build?version=2&remote=https://example.com/x.git&session="+id, nil); status != http.StatusForbidden {
			t.Error(status, answer)
		}
	}
	later, err := r.openSession(t.Context(), "h2c", http.Header{sessionID: {"later"}})
	if err != nil {
		t.Fatal(err)
	}
	defer later.Close()
	for _, c := range []net.Conn{conn, later} {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("the session does not end: %v", err)
		}
	}
}

// TestSessionAudit builds by gRPC as buildx does: audit mode lets it pass, and says that it would have refused.
func TestSessionAudit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Audit = true })
	dir := write(t, t.TempDir(), "Dockerfile", "FROM scratch\nCOPY data /x\n", "data", "audited")
	out := t.TempDir()
	id, _ := r.clientSession("key", dirs(t, map[string]string{dirDockerfile: dir, dirContext: dir}), filesync.NewFSSyncTarget(filesync.WithFSSyncDir(0, out)))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := r.grpc().Solve(ctx, &control.SolveRequest{
		Ref: "slipway-" + r.policy.Token, Session: id, Frontend: "dockerfile.v0", ExporterDeprecated: "local",
		Exporters: []*control.Exporter{{Type: "local"}},
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(out, "x")); string(got) != "audited" {
		t.Errorf("the output is %q, %v", got, err)
	}
	wants(t, r.audit.String(), "would be denied", "build-definition")
	needOldClient(t)
	if got := r.file(r.oldBuild(write(t, dir, "Dockerfile", "FROM "+alpine+"\nCOPY data /x\n"), "", "."), "/x"); got != "audited" {
		t.Errorf("docker's client of version 20.10 built %q", got)
	}
}

// TestSessionLimit opens as many sessions as a job may have, and one more.
func TestSessionLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var conns []net.Conn
	for i := range maxSessions + 1 {
		conn, err := r.openSession(t.Context(), "h2c", http.Header{sessionID: {fmt.Sprint("s", i)}})
		if (err == nil) != (i < maxSessions) {
			t.Fatalf("session %d: %v", i, err)
		}
		if err == nil {
			conns = append(conns, conn)
		} else {
			wants(t, err.Error(), "[limit-sessions]")
		}
	}
	for _, c := range conns {
		c.Close()
	}
}

// TestSessionEnds closes a guard that has sessions on both sides: all are cut, and nothing of them stays.
func TestSessionEnds(t *testing.T) {
	r := newRig(t)
	before := runtime.NumGoroutine()
	for range 3 {
		r.clientSession("key", dirs(t, map[string]string{dirDockerfile: t.TempDir()}))
	}
	_, end, err := r.engineSession(r.ctx, "key")
	if err != nil {
		t.Fatal(err)
	}
	wants(t, r.calls.String(), "POST /v"+r.engine.version.String()+"/session")
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	end()
	eventually(t, "the goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}

func TestEngineKey(t *testing.T) {
	t.Parallel()
	a, b := Policy{Scope: "a"}, Policy{Scope: "b"}
	seen := map[string]string{}
	for name, key := range map[string]string{"a empty": a.engineKey(""), "a x": a.engineKey("x"), "b empty": b.engineKey(""), "b x": b.engineKey("x")} {
		if other, ok := seen[key]; ok || len(key) != 64 {
			t.Errorf("%s and %s have the key %q", name, other, key)
		}
		seen[key] = name
	}
	if a.engineKey("x") != (Policy{Scope: "a", Token: "other"}).engineKey("x") {
		t.Error("two jobs of a scope do not share a key")
	}
}
