package guard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/tartest"
)

func TestExec(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.sleeper("db")
	for range 5 {
		if out := r.docker("exec", "db", "echo", "said"); strings.TrimSpace(out) != "said" {
			t.Errorf("%q", out)
		}
	}
	if out, err := r.tryIn("typed", "exec", "-i", "-e", "A=b", "-w", "/tmp", "-u", "1:1", "db", "sh", "-c", "cat; echo $A $PWD $(id -u); exit 3"); err == nil || out != "typedb /tmp 1\n" {
		t.Errorf("%q %v", out, err)
	}
	r.docker("exec", "-d", "db", "touch", "/made")
	eventually(t, "the file", func() bool {
		_, err := r.try("exec", "db", "test", "-e", "/made")
		return err == nil
	})
	r.refused("exec-privileged", "exec", "--privileged", "db", "id")
	for _, body := range []string{
		`{"Cmd":["id"],"privileged":true}`, `{"Cmd":["id"],"Privileged":false,"privileged":true}`,
		`{"Cmd":["id"],"Privileged":false}{"Privileged":true}`, `{"Cmd":["id"],"Pr\u0131vileged":true}`,
	} {
		if status, text := r.do("POST", "/containers/db/exec", body); status < 400 {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
	made := strings.Count(r.calls.String(), "/exec\n")
	// A call is noted when it was answered.
	eventually(t, "all but the refused ones reached the Engine", func() bool {
		return made == strings.Count(r.audit.String(), `call="POST /containers/{id}/exec"`)-5
	})
}

func TestExecLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Limits.Execs = 3 })
	r.sleeper("db")
	for range 5 { // they end
		r.docker("exec", "db", "true")
	}
	for range 3 {
		r.docker("exec", "-d", "db", "sleep", "600")
	}
	r.refused("limit-execs", "exec", "db", "true")
}

// TestHalfClose is what proxies in front of Docker often get wrong: the end of the input is not the end of the output.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.own("cat", "--interactive", "--network", "none", "--entrypoint", "sh", alpine, "-c", "cat; sleep 0.3; echo after")
	out, err := r.tryIn("hello\n", "start", "--attach", "--interactive", "cat")
	if err != nil || out != "hello\nafter\n" {
		t.Errorf("%q %v", out, err)
	}
}

// TestStreamsFlush reads the first piece of streams that do not end.
func TestStreamsFlush(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.own("talk", "--network", "none", "--entrypoint", "sh", alpine, "-c", "echo first; exec sleep 600")
	events := r.stream("GET", "/v1.41/events")
	wait := r.stream("POST", "/containers/talk/wait?condition=next-exit")
	r.docker("start", "talk")
	logs := r.stream("GET", "/containers/talk/logs?follow=1&stdout=1")
	stats := r.stream("GET", "/containers/talk/stats?stream=1")
	for _, s := range []struct {
		what, want string
		r          *bufio.Reader
	}{{"logs", "first", logs}, {"events", `"id":"` + id, events}, {"stats", `"name":"/talk"`, stats}} {
		line, err := s.r.ReadString('\n')
		if err != nil || !strings.Contains(line, s.want) {
			t.Errorf("%s: %q %v", s.what, line, err)
		}
	}
	r.docker("kill", "talk")
	if line, err := wait.ReadString('\n'); err != nil || !strings.Contains(line, "137") {
		t.Errorf("wait: %q %v", line, err)
	}
}

// stream sends a request and returns the answer's body when its head is there.
func (r *rig) stream(method, target string) *bufio.Reader {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://guard"+target, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", r.Socket()) }}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		r.t.Fatalf("%s %s: %s %s", method, target, resp.Status, text)
	}
	return bufio.NewReader(resp.Body)
}

func TestCloseCutsStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.sleeper("db")
	logs := r.stream("GET", "/containers/db/logs?follow=1&stdout=1")
	events := r.stream("GET", "/events")
	attached := exec.Command("docker", "--host", "unix://"+r.Socket(), "exec", "db", "sleep", "600")
	if err := attached.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the exec", func() bool { return strings.Contains(r.calls.String(), "/start") })
	start := time.Now()
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(logs); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a cut stream looks whole: %v", err)
	}
	_, _ = io.ReadAll(events)
	_ = attached.Wait()
	if d := time.Since(start); d > patience {
		t.Errorf("it took %s", d)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	all, shop, none := r.stream("GET", "/events"), r.stream("GET", `/events?filters={"container":["shop"]}`), r.stream("GET", `/events?filters={"container":{"`+r.policy.prefix()+`":true}}`)
	// Not a name of hexadecimal digits: the ID of another container may begin with those.
	foreign := other.sleeper("shop")
	other.docker("exec", "shop", "echo", "password")
	r.sleeper("shop", "--label", "tier=data")
	r.own("web", "--network", "none", alpine, "true")
	r.docker("exec", "shop", "true")
	r.docker("rm", "-f", "shop", "web")
	seen := readUntil(t, all, `"Action":"destroy"`, 2)
	wants(t, seen, `"name":"shop"`, `"name":"web"`, `"image":"the-image"`, `"tier":"data"`, "exec_create: true", `"Action":"start"`)
	lacks(t, seen, foreign, "password", r.policy.prefix(), "slipway.")
	seen = readUntil(t, shop, `"Action":"destroy"`, 1)
	wants(t, seen, `"name":"shop"`)
	lacks(t, seen, "web")
	if none.Buffered() > 0 {
		t.Error("a name of the Engine's matches")
	}
}

func readUntil(t *testing.T, r *bufio.Reader, what string, times int) string {
	t.Helper()
	var b strings.Builder
	for strings.Count(b.String(), what) < times {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%v after %s", err, b.String())
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestCopy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in.sh"), []byte("text\n"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("in.sh", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]string{
		"created": r.own("created", "--network", "none", "--volume", "/data", alpine, "true"),
		"running": r.sleeper("running", "--volume", "/data"),
	} {
		r.docker("cp", dir+"/.", name+":/data")
		out := filepath.Join(t.TempDir(), "out")
		r.docker("cp", name+":/data", out)
		data, err := os.ReadFile(filepath.Join(out, "link"))
		if err != nil || string(data) != "text\n" {
			t.Errorf("%s: %q %v", name, data, err)
		}
		if info, err := os.Stat(filepath.Join(out, "in.sh")); err != nil || info.Mode().Perm() != 0o750 {
			t.Errorf("%s: %v %v", name, info, err)
		}
		if s := r.state(id); s != name {
			t.Errorf("%s is %s after the copy", name, s)
		}
	}
	if _, err := r.try("exec", "running", "cmp", "/data/in.sh", "/data/link"); err != nil {
		t.Error(err)
	}
}

// archiveOf is a tar archive of entries.
func archiveOf(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var files []tartest.File
	for _, h := range headers {
		files = append(files, tartest.File{Header: h, Content: strings.Repeat("x", int(h.Size))})
	}
	return []byte(tartest.Of(t, files...))
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(data)
	_ = z.Close()
	return b.Bytes()
}

// sparseArchive claims a file of a terabyte, in GNU tar's old form.
func sparseArchive() []byte {
	h := make([]byte, 1024)
	copy(h, "holes")
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	copy(h[386:], "20000000000\x0000000000000\x00")                   // a hole up to there
	copy(h[483:], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00") // real size
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h[:512] {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func TestArchivePut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.own("db", "--network", "none", alpine, "true")
	plain := archiveOf(t, &tar.Header{Name: "plain", Size: 5, Mode: 0o644, Typeflag: tar.TypeReg})
	zipped := gzipped(archiveOf(t, &tar.Header{
		Name: "zipped", Size: 5, Mode: 0o644, Typeflag: tar.TypeReg,
		PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}, Format: tar.FormatPAX,
	}))
	for _, c := range []struct {
		what   string
		body   []byte
		status int
		want   string
	}{
		{"plain", plain, 200, ""},
		{"gzip", zipped, 200, ""},
		{"bzip2", []byte("BZh91AY&SY"), 403, "[archive-compression]"},
		{"xz", []byte("\xfd7zXZ\x00\x00"), 403, "[archive-compression]"},
		{"zstd", []byte("\x28\xb5\x2f\xfd\x00"), 403, "[archive-compression]"},
		{"device", archiveOf(t, &tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}), 403, "[archive-device]"},
		{"plain with a compressed look", archiveOf(t, &tar.Header{Name: "BZh91AY", Typeflag: tar.TypeDir}), 403, "[archive-compression]"},
		{"the same within gzip", gzipped(archiveOf(t, &tar.Header{Name: "BZh91AY", Typeflag: tar.TypeDir})), 403, "[archive-compression]"},
		{"the same in a split name", archiveOf(t, &tar.Header{Name: strings.Repeat("p", 90) + "/BZh" + strings.Repeat("x", 80), Size: 1, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}), 403, "[archive-compression]"},
		{"zstd to skip", []byte("\x5a\x2a\x4d\x18" + strings.Repeat("x", 600)), 403, "[archive-compression]"},
		{"sparse", sparseArchive(), 403, "[archive-sparse]"},
		{"noise", []byte(strings.Repeat("noise", 500)), 400, "cannot be read"},
	} {
		status, text := r.do("PUT", "/containers/db/archive?path=/tmp", c.body)
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s", c.what, status, text)
		}
	}
	status, text := r.do("PUT", "/containers/db/archive?path=/tmp", "path=/etc", "Content-Type", "application/x-www-form-urlencoded")
	if status != http.StatusForbidden {
		t.Errorf("%d %s", status, text)
	}
	_, out := r.do("GET", "/containers/db/archive?path=/tmp", nil)
	wants(t, out, "plain", "zipped")
	lacks(t, out, "trusted.overlay")
	lacks(t, r.docker("diff", "db"), "sda")
}

// TestCopyStaysStill: an Engine before 29.5.1 mounts a container's volumes by path while it copies. What runs in the
// container must not be able to move that path meanwhile.
func TestCopyStaysStill(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if releaseAtLeast(r.engine.release, patchedCopy) {
		t.Skip("this Engine copies safely")
	}
	id := r.sleeper("db", "--volume", "/a/b")
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://guard/containers/db/archive?path=/tmp", pr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", r.Socket()) }}
		resp, err := transport.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		done <- err
	}()
	archive := archiveOf(t, &tar.Header{Name: "f", Size: 1 << 20, Mode: 0o644, Typeflag: tar.TypeReg})
	if _, err := pw.Write(archive[:1<<19]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pause", func() bool {
		// An inspection waits for the copy.
		return strings.Contains(r.host("ps", "--filter", "id="+id, "--format", "{{.Status}}"), "Paused")
	})
	unpaused := make(chan struct{})
	go func() {
		defer close(unpaused)
		_, _ = r.try("unpause", "db")
	}()
	select {
	case <-unpaused:
		t.Error("it was unpaused while the Engine copies")
	case <-time.After(300 * time.Millisecond):
	}
	_, _ = pw.Write(archive[1<<19:])
	pw.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-unpaused
	if r.state(id) != "running" {
		t.Error(r.state(id))
	}
	r.own("nested", "--network", "none", "--volume", "/a", "--volume", "/a/b", alpine, "true")
	r.refused("copy-race", "cp", "nested:/tmp", t.TempDir())
	beside := func(name, of string) string {
		return strings.TrimSpace(r.docker("create", "--name", name, "--network", "none", "--pid", "container:"+of, alpine, "sleep", "600"))
	}
	other := beside("other", "db")
	r.refused("copy-race", "cp", "db:/tmp", t.TempDir())
	// One that joined by way of another stays when the other is gone.
	r.docker("start", other)
	beside("third", other)
	r.docker("start", "third")
	r.docker("rm", "--force", other)
	r.refused("copy-race", "cp", "db:/tmp", t.TempDir())
	r.docker("rm", "--force", "third")
	r.docker("cp", "db:/tmp", t.TempDir())
	// The files that every container has mounted are moved as well.
	r.sleeper("bare")
	beside("fourth", "bare")
	r.refused("copy-race", "cp", "bare:/tmp", t.TempDir())
	r.own("over", "--network", "none", "--volume", "/etc", alpine, "true")
	r.refused("copy-race", "cp", "over:/tmp", t.TempDir())
	job := r.job()
	r.refused("copy-race", "cp", job+":/etc/passwd", t.TempDir())
}

// TestBigStreamsStayFlat copies and logs far more than the guard may hold.
func TestBigStreamsStayFlat(t *testing.T) {
	r := newRig(t)
	id := r.sleeper("big", "--volume", "/v")
	r.docker("exec", "big", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=200")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	body := r.stream("GET", "/containers/"+id+"/archive?path=/big")
	n, err := io.Copy(io.Discard, body)
	if err != nil || n < 200<<20 {
		t.Errorf("%d %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
		t.Errorf("%d MB were allocated for a copy of 200 MB", grown>>20)
	}
}

func TestCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.own("db", "--network", "none", alpine, "true")
	status, text := r.do("POST", "/commit?container=db&comment=c&changes=LABEL+slipway.guard%3Dforged+mine%3D%22a+b%22&changes=ENV+A%3Db", map[string]any{
		"Labels": map[string]string{"slipway.guard": "forged", "body": "kept"},
	})
	if status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(text), &made); err != nil {
		t.Fatal(err)
	}
	if !r.objects.ownsImage(made.ID) {
		t.Error("the image is not on record")
	}
	out := r.host("image", "inspect", "--format", "{{json .Config}}", made.ID)
	wants(t, out, `"mine":"a b"`, `"A=b"`)
	lacks(t, out, "forged")
	for _, change := range []string{"RUN id", "FROM scratch", "COPY a b", "ENV a=b\nRUN id"} {
		if status, text := r.do("POST", "/commit?container=db&changes="+strings.NewReplacer(" ", "+", "\n", "%0A").Replace(change), nil); status != http.StatusBadRequest {
			t.Errorf("%q: %d %s", change, status, text)
		}
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := run(engineHost(), "", "image", "inspect", made.ID); err == nil {
		t.Error("the nameless image was left behind")
	}
}
