package guard

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/ledger"
)

// The images of the tests, made of this machine's programs. On the ledger they are the operator's.
var (
	alpine = fmt.Sprintf("slipway.test/guard-alpine:%d", os.Getpid())
	client = fmt.Sprintf("slipway.test/guard-docker:%d", os.Getpid()) // with a docker client
)

func TestMain(m *testing.M) {
	limitParallel()
	code := m.Run()
	if e, err := docker.Connect(context.Background(), docker.Options{}); err == nil {
		_ = e.RemoveImage(context.Background(), alpine)
		_ = e.RemoveImage(context.Background(), client)
	}
	os.Exit(code)
}

// mostAtOnce is how many tests run at once however many CPUs there are: an Engine has address ranges for some thirty networks, which are
// for the tests of other packages, too.
const mostAtOnce = 4

func limitParallel() {
	flag.Parse()
	if n, err := strconv.Atoi(flag.Lookup("test.parallel").Value.String()); err == nil && n > mostAtOnce {
		_ = flag.Set("test.parallel", strconv.Itoa(mostAtOnce))
	}
}

// engineHost is the Engine that the tests use.
func engineHost() string { return cmp.Or(os.Getenv("DOCKER_HOST"), "unix:///var/run/docker.sock") }

// engine is the Engine of the tests, with the test images. Without one the test is skipped, or fails where one is
// required.
func engine(t *testing.T) *docker.Engine {
	t.Helper()
	e, err := docker.Connect(t.Context(), docker.Options{})
	if err != nil {
		if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() { e.Close() })
	images.Do(func() {
		for name, recipe := range map[string]demo.Recipe{alpine: demo.Alpine(), client: demo.DockerClient()} {
			recipe.Labels = map[string]string{"slipway.test": name}
			var archive bytes.Buffer
			if images.err = recipe.WriteArchive(&archive, name); images.err == nil {
				images.err = e.Load(context.Background(), &archive)
			}
			if images.err != nil {
				return
			}
		}
	})
	if images.err != nil {
		t.Fatal(images.err)
	}
	return e
}

var images struct {
	sync.Once
	err error
}

// rig is a guard for one job, on the real Engine.
type rig struct {
	*Guard
	t         *testing.T
	raw       *docker.Engine
	workspace string // on the host; the job sees it at /builds/group/demo
	reports   *lines
	audit     *lines
	warnings  string // of the last container
	calls     *lines // what reached the Engine: "POST /v1.41/containers/create?name=x"
}

const jobDir = "/builds/group/demo"

var lastToken struct {
	sync.Mutex
	n int
}

// newRig opens a guard. change may alter the options.
func newRig(t *testing.T, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, raw: engine(t), workspace: t.TempDir(), reports: &lines{}, audit: &lines{}, calls: &lines{}}
	if err := os.Chmod(r.workspace, 0o777); err != nil {
		t.Fatal(err)
	}
	lastToken.Lock()
	lastToken.n++
	token := fmt.Sprintf("%06x%06x", os.Getpid()&0xffffff, lastToken.n)
	lastToken.Unlock()
	// Short, for the sake of the socket in it.
	dir, err := os.MkdirTemp("", "guard-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o := Options{
		wait: patience, // clients send at once what belongs together, but a busy machine may not
		Dial: r.recorder(), Dir: filepath.Join(dir, "g"), Images: testLedger(t, dir),
		Log:    slog.New(slog.NewTextHandler(r.audit, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Report: func(line string) { fmt.Fprintln(r.reports, line) },
		Policy: Policy{
			Token: token, Scope: "s" + token, Labels: map[string]string{"slipway.test.guard": "true"},
			Mounts:  []Mount{{Destination: jobDir, Source: r.workspace}},
			Sockets: []string{"/var/run/docker.sock"}, Root: os.Geteuid() == 0,
		},
	}
	for _, c := range change {
		c(&o)
	}
	if r.Guard, err = Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		r.leftovers()
		if t.Failed() {
			t.Logf("reports:\n%s\naudit:\n%s", r.reports, r.audit)
		}
	})
	return r
}

// testLedger is a record that is empty: all images that are there are the operator's. What is named by it is removed.
func testLedger(t *testing.T, dir string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer l.Close()
		entries, err := l.Entries()
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			// What a test leaves there on purpose may be in use no more.
			_, _ = run(engineHost(), "", "rmi", "--force", e.Name)
		}
	})
	return l
}

// leftovers reports what the guard did not remove.
func (r *rig) leftovers() {
	r.t.Helper()
	label := LabelGuard + "=" + r.policy.Token
	for _, kind := range [][]string{{"ps", "-aq"}, {"network", "ls", "-q"}, {"volume", "ls", "-q"}} {
		out, err := exec.Command("docker", append(kind, "--filter", "label="+label)...).Output()
		if err != nil || len(bytes.TrimSpace(out)) > 0 {
			r.t.Errorf("docker %s: left behind: %s %v", kind[0], out, err)
		}
	}
}

// recorder dials the Engine and notes the head of each request that goes there.
func (r *rig) recorder() func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", strings.TrimPrefix(engineHost(), "unix://"))
		if err != nil {
			return nil, err
		}
		return &recordedConn{conn.(*net.UnixConn), r.calls}, nil
	}
}

// recordedConn notes the first line of what looks like a request: the transport writes a head in one piece.
type recordedConn struct {
	*net.UnixConn
	calls *lines
}

func (c *recordedConn) Write(p []byte) (int, error) {
	if line, _, ok := bytes.Cut(p, []byte(" HTTP/1.1\r\n")); ok && len(line) < 4096 && bytes.IndexByte(line, '\n') < 0 {
		fmt.Fprintln(c.calls, string(line))
	}
	return c.UnixConn.Write(p)
}

// docker runs this machine's docker client on the guard's socket and fails the test if it fails.
func (r *rig) docker(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// try runs the docker client on the guard's socket; the text is both its outputs.
func (r *rig) try(args ...string) (string, error) { return r.tryIn("", args...) }

func (r *rig) tryIn(stdin string, args ...string) (string, error) {
	return run("unix://"+r.Socket(), stdin, args...)
}

// refused runs the docker client and fails the test unless the guard refused by that rule.
func (r *rig) refused(rule string, args ...string) {
	r.t.Helper()
	out, err := r.try(args...)
	if err == nil || !strings.Contains(out, "denied by slipway ["+rule+"]") {
		r.t.Errorf("docker %s: not refused as [%s]: %v\n%s", strings.Join(args, " "), rule, err, out)
	}
}

// host runs the docker client on the Engine's own socket.
func (r *rig) host(args ...string) string {
	r.t.Helper()
	out, err := run(engineHost(), "", args...)
	if err != nil {
		r.t.Fatalf("docker (raw) %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func run(host, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_BUILDKIT=0")
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = outputTime
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// job starts a container that is the job's own, with the workspace and the socket, and returns its ID. It has a docker
// client.
func (r *rig) job() string {
	r.t.Helper()
	id := strings.TrimSpace(r.host("run", "--detach", "--label", LabelGuard+".job="+r.policy.Token,
		"--volume", r.workspace+":"+jobDir, "--volume", r.Socket()+":/var/run/docker.sock", "--workdir", jobDir,
		"--stop-signal", "KILL", "--entrypoint", "sleep", client, "600"))
	r.t.Cleanup(func() { _, _ = run(engineHost(), "", "rm", "--force", "--volumes", id) })
	r.JobContainer(id, "runner-job-"+r.policy.Token)
	if err := r.JobStarted(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return id
}

// inJob runs a shell line in the job's container.
func (r *rig) inJob(id, line string) (string, error) {
	return run(engineHost(), "", "exec", id, "sh", "-c", line)
}

// do sends a request to the guard and returns status and body. body may be nil, a string, or a value for JSON.
func (r *rig) do(method, target string, body any, headers ...string) (int, string) {
	r.t.Helper()
	var reader io.Reader
	contentType := "application/json"
	switch b := body.(type) {
	case nil:
		contentType = ""
	case string:
		reader = strings.NewReader(b)
	case []byte:
		reader, contentType = bytes.NewReader(b), "application/x-tar"
	default:
		data, err := json.Marshal(b)
		if err != nil {
			r.t.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://guard"+target, reader)
	if err != nil {
		r.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", r.Socket())
		},
		DisableKeepAlives: true,
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// outputTime is how long what a program printed may take to be read when it has ended.
const outputTime = 30 * time.Second

// patience is how long the slowest machine may take for what has to happen. It only matters when something is broken.
const patience = 4 * time.Minute

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%s: not within %s\n%s", what, patience, buf[:runtime.Stack(buf, true)])
		}
	}
}

// wants reports what a text lacks.
func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("there is no %q in:\n%s", p, text)
		}
	}
}

// lacks reports what a text should not have.
func lacks(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if strings.Contains(text, p) {
			t.Errorf("there is %q in:\n%s", p, text)
		}
	}
}

// lines collects text from several goroutines.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take gives what was written since the last time.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
