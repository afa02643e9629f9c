package docker

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// shortDir is a folder whose path is short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "slipway-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// containerd answers each call at a socket.
func containerd(t *testing.T, answer []byte) (socket string, asked chan string) {
	t.Helper()
	socket = filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	asked = make(chan string, 10)
	srv := grpc.NewServer(grpc.ForceServerCodec(asBytes{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var query []byte
		method, _ := grpc.MethodFromServerStream(s)
		if err := s.RecvMsg(&query); err != nil {
			return err
		}
		asked <- method + " " + string(query)
		return s.SendMsg(&answer)
	}))
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return socket, asked
}

func field(n protowire.Number, value ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), bytes.Join(value, nil))
}

func plugin(kind, id string, exports ...string) []byte {
	out := [][]byte{field(1, []byte(kind)), field(2, []byte(id)), protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 7)}
	for i := 0; i < len(exports); i += 2 {
		out = append(out, field(5, field(1, []byte(exports[i])), field(2, []byte(exports[i+1]))))
	}
	return field(1, out...)
}

// TestContainerdsAnswers: of all that it may answer, only a folder is believed.
func TestContainerdsAnswers(t *testing.T) {
	t.Parallel()
	const snapshots, content = "io.containerd.snapshotter.v1", "io.containerd.content.v1"
	for name, c := range map[string]struct {
		answer           []byte
		layers, archives string
		err              string
	}{
		"both":     {bytes.Join([][]byte{plugin(content, "content", "root", "/b"), plugin(snapshots, "overlayfs", "x", "/x", "root", "/a", "y", "/y")}, nil), "/a", "/b", ""},
		"one":      {plugin(snapshots, "overlayfs", "root", "/a"), "/a", "", ""},
		"no root":  {plugin(snapshots, "overlayfs", "x", "/x"), "", "", `does not say where its "overlayfs" has its files`},
		"nothing":  {nil, "", "", `does not say where its "overlayfs" has its files`},
		"relative": {plugin(snapshots, "overlayfs", "root", "a/b"), "", "", `does not say where its "overlayfs" has its files`},
		"rubbish":  {[]byte{0xff, 0xff, 0xff}, "", "", "unexpected EOF"},
		"cut":      {plugin(snapshots, "overlayfs", "root", "/a")[:20], "", "", "unexpected EOF"},
	} {
		socket, asked := containerd(t, c.answer)
		layers, archives, err := askContainerd(t.Context(), socket, "overlayfs")
		if layers != c.layers || archives != c.archives || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %q, %v", name, layers, archives, err)
		}
		if q := <-asked; !strings.HasPrefix(q, "/containerd.services.introspection.v1.Introspection/Plugins ") || !strings.Contains(q, "type==io.containerd.snapshotter.v1,id==overlayfs") {
			t.Errorf("%s: asked %q", name, q)
		}
	}
	if _, _, err := askContainerd(t.Context(), "/nowhere/containerd.sock", "x"); err == nil || !strings.Contains(err.Error(), "/nowhere/containerd.sock") {
		t.Errorf("of nobody: %v", err)
	}
}

// engineThatSays is one that is asked for its information only.
func engineThatSays(t *testing.T, network, info string) *Engine {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(shortDir(t), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("API-Version", "1.47")
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/info") {
			_, _ = w.Write([]byte("{" + info + "}"))
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	e, err := Connect(t.Context(), Options{Host: network + "://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// TestLayersDir: where an Engine keeps its images, by what it says of itself.
func TestLayersDir(t *testing.T) {
	t.Parallel()
	socket, _ := containerd(t, plugin("io.containerd.snapshotter.v1", "overlayfs", "root", "/a"))
	const own, theirs = `"Driver":"overlay2"`, `"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]`
	for name, c := range map[string]struct{ info, network, want, why string }{
		"an Engine's own store":   {own, "unix", "/data", ""},
		"containerd's":            {theirs + `,"Containerd":{"Address":"` + socket + `"}`, "unix", "/a", ""},
		"by TCP":                  {theirs + `,"Containerd":{"Address":"` + socket + `"}`, "tcp", "", "may be on another machine"},
		"an older Engine":         {theirs, "unix", "", "does not say where its containerd listens"},
		"a containerd that's not": {theirs + `,"Containerd":{"Address":"/nowhere/s"}`, "unix", "", "no such file or directory"},
	} {
		m, err := engineThatSays(t, c.network, `"DockerRootDir":"/data",`+c.info).Machine(t.Context())
		if err != nil || m.LayersDir != c.want || m.DataRoot != "/data" {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if (m.LayersUnknown == nil) != (c.why == "") || m.LayersUnknown != nil && !strings.Contains(m.LayersUnknown.Error(), c.why) {
			t.Errorf("%s: %v", name, m.LayersUnknown)
		}
	}
}

// TestFoldersOfContainerd asks a real one, with folders in places of their own.
func TestFoldersOfContainerd(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("containerd")
	if err != nil || os.Geteuid() != 0 {
		if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip("containerd and root are needed")
	}
	dir := shortDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	config := strings.NewReplacer("DIR", dir).Replace(`version = 2
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "DIR/s"
[plugins."io.containerd.snapshotter.v1.overlayfs"]
  root_path = "DIR/elsewhere"
`)
	if err := os.WriteFile(at("config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(program, "--config", at("config.toml"))
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var layers, archives string
	for {
		if layers, archives, err = askContainerd(ctx, at("s"), "overlayfs"); err == nil {
			break
		}
		if ctx.Err() != nil || strings.Contains(err.Error(), "does not say") {
			stop()
			t.Fatalf("%v\n%s", err, &log)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if layers != at("elsewhere") || archives != at("root/io.containerd.content.v1.content") {
		t.Errorf("%q, %q", layers, archives)
	}
	if _, _, err := askContainerd(ctx, at("s"), "none"); err == nil || !strings.Contains(err.Error(), `does not say where its "none" has its files`) {
		t.Errorf("of a snapshotter that it does not have: %v", err)
	}
}
