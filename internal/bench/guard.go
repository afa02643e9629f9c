package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The sizes of the streams that are measured through the guard, in bytes.
const (
	contextSize = 500 << 20
	archiveSize = 400 << 20
)

// guarded is a guard as a process of its own, beside the Engine's own socket.
type guarded struct {
	process    *exec.Cmd
	log        bytes.Buffer // read when the process has ended
	job, raw   *http.Client
	base       string // the image of the builds
	workspace  string
	hugeStream int // so many huge streams were sent
}

func (r *rig) startGuard(ctx context.Context, slipway string) (*guarded, error) {
	g := &guarded{base: baseImage, workspace: filepath.Join(r.dir, "guarded")}
	socket := filepath.Join(r.dir, "guard.sock")
	if err := os.Mkdir(g.workspace, 0o755); err != nil {
		return nil, err
	}
	g.process = exec.Command(slipway, "guard", "--listen", socket, "--workspace", g.workspace, "--project", projectPath, "--state", filepath.Join(r.dir, "guard"))
	g.process.Stdout, g.process.Stderr = &g.log, &g.log
	if err := g.process.Start(); err != nil {
		return nil, err
	}
	g.job, g.raw = clientOf(socket), clientOf(r.engine.Socket())
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, err := send(ctx, g.job, http.MethodGet, "/_ping", nil)
		if err == nil {
			return g, nil
		}
		if time.Now().After(deadline) {
			_ = g.process.Process.Kill()
			_ = g.process.Wait()
			return nil, fmt.Errorf("the guard does not answer: %w\n%s", err, g.log.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (g *guarded) close() error {
	_ = g.process.Process.Signal(syscall.SIGTERM)
	if err := g.process.Wait(); err != nil {
		return fmt.Errorf("slipway guard: %w\n%s", err, g.log.String())
	}
	return nil
}

func clientOf(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true, WriteBufferSize: 256 << 10, ReadBufferSize: 256 << 10,
	}}
}

// send makes a call and reads the whole answer, of which the first bytes are returned.
func send(ctx context.Context, c *http.Client, method, target string, body io.Reader) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+target, body)
	if err != nil {
		return "", err
	}
	switch body.(type) {
	case nil:
	case *strings.Reader:
		req.Header.Set("Content-Type", "application/json")
	default:
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	head, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if resp.StatusCode >= http.StatusBadRequest || strings.Contains(string(head), `"errorDetail"`) {
		err = errors.Join(err, fmt.Errorf("%s %s: %s: %s", method, target, resp.Status, head))
	}
	return string(head), err
}

// guard adds the rows that compare the guard with the Engine's own socket.
func (r *rig) guard(ctx context.Context, slipway string, runs int, t *table) (err error) {
	g, err := r.startGuard(ctx, slipway)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()

	small, err := g.inTurn(20*runs, func(c *http.Client) error {
		_, err := send(ctx, c, http.MethodGet, "/v1.41/containers/json", nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("small calls: %w", err)
	}
	t.row("guard: small call", millis(small.ours), millis(small.minimum), "+"+(median(small.ours)-median(small.minimum)).Round(10*time.Microsecond).String(), "≤ +0.5 ms")

	files := tarball(map[string]string{"Dockerfile": "FROM " + g.base + "\nRUN echo " + filepath.Base(r.dir) + " > /warm\nCOPY app.txt /\nRUN cat /warm\n", "app.txt": "hello\n"})
	warm, err := g.inTurn(runs, func(c *http.Client) error { return g.build(ctx, c, "warm", "2", bytes.NewReader(files)) })
	if err != nil {
		return fmt.Errorf("warm build: %w", err)
	}
	t.row("guard: warm build", millis(warm.ours), millis(warm.minimum), warm.ratio(), "≤ 1.05× the same BuildKit request")
	classic, err := g.inTurn(runs, func(c *http.Client) error { return g.build(ctx, c, "classic", "1", bytes.NewReader(files)) })
	if err != nil {
		return fmt.Errorf("warm classic build: %w", err)
	}
	t.row("guard: warm build, classic clients", millis(classic.ours), millis(classic.minimum), classic.ratio(), "≤ 1.35× the classic builder")

	if err := r.buildx(runs, g, t); err != nil {
		return fmt.Errorf("buildx: %w", err)
	}

	huge, err := g.inTurn(5, func(c *http.Client) error { return g.build(ctx, c, "huge", "2", g.hugeContext()) })
	if err != nil {
		return fmt.Errorf("huge context: %w", err)
	}
	t.row("guard: build with 500 MB of context", spread(huge.ours), spread(huge.minimum), huge.ratio(), "≤ 1.1×")

	before, err := g.peak()
	if err != nil {
		return err
	}
	out, err := g.copyOut(ctx)
	if err != nil {
		return fmt.Errorf("copy out: %w", err)
	}
	after, err := g.peak()
	if err != nil {
		return err
	}
	t.row("guard: docker cp of 400 MB out", spread(out.ours), spread(out.minimum), out.ratio(), "≤ 1.3×")
	t.row("guard: peak RSS before and after", mebibytes(before)+", "+mebibytes(after), "", "", "flat")
	return nil
}

// inTurn measures the guard and the Engine's socket by turns, after one run of each that is not counted.
func (g *guarded) inTurn(runs int, do func(c *http.Client) error) (p pair, err error) {
	for i := range runs + 1 {
		for _, side := range []struct {
			c  *http.Client
			to *[]time.Duration
		}{{g.job, &p.ours}, {g.raw, &p.minimum}} {
			began := time.Now()
			if err := do(side.c); err != nil {
				return p, err
			}
			if i > 0 {
				*side.to = append(*side.to, time.Since(began))
			}
		}
	}
	return p, nil
}

// build tags each kind of build apart: an image that lost its name would stay.
func (g *guarded) build(ctx context.Context, c *http.Client, tag, version string, context io.Reader) error {
	_, err := send(ctx, c, http.MethodPost, "/v1.41/build?q=1&t=slipway.bench%2Fguarded-"+tag+"&version="+version, context)
	return err
}

// hugeContext is a context that nobody has seen before: random bytes, and one small file that the build takes.
func (g *guarded) hugeContext() io.Reader {
	g.hugeStream++
	head := tarball(map[string]string{"Dockerfile": "FROM " + g.base + "\nCOPY app.txt /\n", "app.txt": "hello\n"})
	head = head[:len(head)-1024] // without the end of the archive
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "huge", Mode: 0o644, Size: contextSize, Typeflag: tar.TypeReg}) // into memory
	seed := [32]byte{byte(g.hugeStream), 1}
	return io.MultiReader(bytes.NewReader(head), &b, io.LimitReader(rand.NewChaCha8(seed), contextSize), bytes.NewReader(make([]byte, 1024)))
}

// copyOut measures `docker cp` out of a container of the guard's.
func (g *guarded) copyOut(ctx context.Context) (p pair, err error) {
	made, err := send(ctx, g.job, http.MethodPost, "/v1.41/containers/create?name=huge", strings.NewReader(
		fmt.Sprintf(`{"Image":%q,"Cmd":["dd","if=/dev/urandom","of=/huge","bs=1M","count=%d"],"HostConfig":{"NetworkMode":"none"}}`, g.base, archiveSize>>20)))
	if err != nil {
		return p, err
	}
	var c struct{ Id string }
	if err := json.Unmarshal([]byte(made), &c); err != nil {
		return p, err
	}
	for _, call := range []string{"/start", "/wait"} {
		if _, err := send(ctx, g.job, http.MethodPost, "/v1.41/containers/"+c.Id+call, nil); err != nil {
			return p, err
		}
	}
	return g.inTurn(3, func(client *http.Client) error {
		_, err := send(ctx, client, http.MethodGet, "/v1.41/containers/"+c.Id+"/archive?path=%2Fhuge", nil)
		return err
	})
}

// peak is the most memory that the guard's process ever had, in bytes.
func (g *guarded) peak() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("the process has no VmHWM")
}

func tarball(files map[string]string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}) // into memory
		_, _ = w.Write([]byte(text))
	}
	_ = w.Close()
	return b.Bytes()
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
