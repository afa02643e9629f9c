package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	buildkit "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmeta "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/tarball"
)

// ask opens the session of somebody who offers these services, and is who asks for them.
func ask(t *testing.T, services ...buildkit.Attachable) buildkit.Caller {
	t.Helper()
	manager, err := buildkit.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	s, err := buildkit.NewSession(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range services {
		s.Allow(a)
	}
	go func() {
		_ = s.Run(t.Context(), func(ctx context.Context, _ string, header map[string][]string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() { _ = manager.HandleConn(ctx, far, header) }()
			return near, nil
		})
	}()
	t.Cleanup(func() { s.Close() })
	caller, err := manager.Get(t.Context(), s.ID(), false)
	if err != nil {
		t.Fatal(err)
	}
	return caller
}

// folder makes a folder of a client: name, content, name, content…; content "-> x" makes a link.
func folder(t *testing.T, files ...string) fsutil.FS {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		at := filepath.Join(dir, files[i])
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		if target, ok := strings.CutPrefix(files[i+1], "-> "); ok {
			err = errors.Join(err, os.Symlink(target, at))
		} else {
			err = errors.Join(err, os.WriteFile(at, []byte(files[i+1]), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// dirs are the folders that a client has, by the names that it gives them.
type dirs = filesync.StaticDirSource

func TestRead(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	client := ask(t, filesync.NewFSSyncProvider(dirs{"dockerfile": folder(t, "Dockerfile", "FROM a", "Dockerfile.dockerignore", "x", "other", "no one asked", "link", "-> sub/../sub/real",
		"sub/real", "linked", "deep", "-> folder/file", "folder", "-> sub2", "sub2/file", "-> ../sub/real", "absolute", "-> /sub/real",
		"out", "-> "+outside, "up", "-> ../../../../../etc/hostname", "loop", "-> loop2", "loop2", "-> loop", "empty", "",
		"Docker✓", "unicode", "large", strings.Repeat("x", 300_000))}))
	for _, c := range []struct {
		name, want string
		missing    bool
	}{
		{"Dockerfile", "FROM a", false},
		{"link", "linked", false},
		{"deep", "linked", false},
		{"sub/real", "linked", false},
		{"absolute", "linked", false},
		{"./sub/../Dockerfile", "FROM a", false},
		{"empty", "", false},
		{"Docker✓", "unicode", false},
		{"large", strings.Repeat("x", 300_000), false},
		{"nothing", "", true},
		{"out", "", true},
		{"up", "", true},
		{"loop", "", true},
		{"sub", "", true},
		{"../x", "", true},
		{".", "", true},
		{"Dockerfile/x", "", true},
	} {
		files, err := Read(t.Context(), client, "dockerfile", c.name)
		got, ok := files[c.name]
		if err != nil || ok == c.missing || string(got) != c.want {
			t.Errorf("%s: %.80q, there: %t, %v", c.name, got, ok, err)
		}
	}
	files, err := Read(t.Context(), client, "dockerfile", "Dockerfile", "Dockerfile.dockerignore", "link", "deep")
	if err != nil || len(files) != 4 || string(files["Dockerfile.dockerignore"]) != "x" || string(files["deep"]) != "linked" {
		t.Errorf("together: %q, %v", files, err)
	}
	if _, err := Read(t.Context(), client, "elsewhere", "Dockerfile"); err == nil {
		t.Error("a folder was read that the client does not offer")
	}
}

// hostile is a client's file service that sends what it likes.
type hostile func(s filesync.FileSync_DiffCopyServer) error

func (h hostile) Register(server *grpc.Server) { filesync.RegisterFileSyncServer(server, h) }

func (h hostile) TarStream(filesync.FileSync_TarStreamServer) error { return errors.New("no") }

func (h hostile) DiffCopy(s filesync.FileSync_DiffCopyServer) error { return h(s) }

// send sends these packets and takes all that is answered.
func send(packets ...*fstypes.Packet) hostile {
	return func(s filesync.FileSync_DiffCopyServer) error {
		for _, p := range packets {
			if err := s.Send(p); err != nil {
				return err
			}
		}
		for {
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
	}
}

func stat(name string, mode os.FileMode, link string) *fstypes.Packet {
	return &fstypes.Packet{Type: fstypes.PACKET_STAT, Stat: &fstypes.Stat{Path: name, Mode: uint32(mode), Linkname: link, Size: 1}}
}

// end says that there are no more names.
var end = &fstypes.Packet{Type: fstypes.PACKET_STAT}

// TestHostileRead sends transfers that no client of good will sends. None may hang, write or grow without bound.
func TestHostileRead(t *testing.T) {
	t.Parallel()
	fin := &fstypes.Packet{Type: fstypes.PACKET_FIN}
	data := func(id uint32, s string) *fstypes.Packet {
		return &fstypes.Packet{Type: fstypes.PACKET_DATA, ID: id, Data: []byte(s)}
	}
	flood := func(packet func(i int) *fstypes.Packet, first ...*fstypes.Packet) hostile {
		return func(s filesync.FileSync_DiffCopyServer) error {
			for _, p := range first {
				if err := s.Send(p); err != nil {
					return err
				}
			}
			if len(first) > 0 {
				if _, err := s.Recv(); err != nil { // the request
					return err
				}
			}
			for i := 0; ; i++ {
				if err := s.Send(packet(i)); err != nil {
					return err
				}
			}
		}
	}
	file := stat("Dockerfile", 0o644, "")
	for name, client := range map[string]hostile{
		"parent":         send(stat("../../etc/x", 0o644, ""), end),
		"absolute":       send(stat("/etc/x", 0o644, ""), end),
		"dots":           send(stat("a/../../x", 0o644, ""), end),
		"hard link":      send(stat("Dockerfile", 0o644, "../../etc/shadow"), end),
		"device":         send(stat("Dockerfile", os.ModeDevice|0o644, ""), end),
		"no name":        send(stat("", 0o644, ""), end),
		"data unasked":   send(data(0, "x")),
		"data other":     send(file, end, data(7, "x")),
		"fin early":      send(fin),
		"fin before end": send(file, end, fin),
		"stat after end": send(file, end, file),
		"request":        send(&fstypes.Packet{Type: fstypes.PACKET_REQ}),
		"error":          send(&fstypes.Packet{Type: fstypes.PACKET_ERR, Data: []byte("no\n\x1b[31m")}),
		"ends":           func(filesync.FileSync_DiffCopyServer) error { return nil },
		"many entries":   flood(func(i int) *fstypes.Packet { return stat(fmt.Sprint(i), 0o644, "") }),
		"long names": flood(func(i int) *fstypes.Packet {
			return stat(fmt.Sprint(i)+strings.Repeat("x", 100_000), 0o644, "")
		}),
		"large": flood(func(int) *fstypes.Packet { return data(0, strings.Repeat("x", 64<<10)) }, file, end),
	} {
		t.Run(name, func(t *testing.T) {
			files, err := Read(t.Context(), ask(t, client), "dockerfile", "Dockerfile")
			if err == nil || status.Code(err) == codes.DeadlineExceeded || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("read: %.80q, %v", files, err)
			}
		})
	}
}

// TestFiles asks as the Engine does: it gets what was checked, what was offered as the client has it, and nothing else.
func TestFiles(t *testing.T) {
	t.Parallel()
	checked, err := NewFolder(map[string][]byte{"Dockerfile": []byte("FROM checked")})
	if err != nil {
		t.Fatal(err)
	}
	client := ask(t, filesync.NewFSSyncProvider(dirs{"context": folder(t, "file", "of the client"), "elsewhere": folder(t, "file", "not for the build")}))
	seen := &layercache.Collector{}
	files := &Files{}
	files.Serve("dockerfile", checked)
	files.Offer("dockerfile", client) // what was checked stays in its place
	files.Offer("context", client)
	files.Collect("context", seen)
	engine := ask(t, files)
	for dir, c := range map[string]struct{ name, want string }{"dockerfile": {"Dockerfile", "FROM checked"}, "context": {"file", "of the client"}} {
		got, err := Read(t.Context(), engine, dir, c.name)
		if err != nil || string(got[c.name]) != c.want {
			t.Errorf("%s: %q, %v", dir, got, err)
		}
	}
	if f := seen.Files()["file"]; f.Size != int64(len("of the client")) || !f.Summed {
		t.Errorf("taken in: %+v", f)
	}
	if _, err := Read(t.Context(), engine, "elsewhere", "file"); status.Code(err) != codes.NotFound {
		t.Errorf("a folder that nobody offered: %v", err)
	}
	files.OfferRest(client)
	if got, err := Read(t.Context(), engine, "elsewhere", "file"); err != nil || string(got["file"]) != "not for the build" {
		t.Errorf("all the rest was offered: %q, %v", got, err)
	}
}

// TestHostileFiles: names that lead out of the folder, devices, and attributes that only root may set do not reach the Engine.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]*fstypes.Packet{
		"parent": stat("../x", 0o644, ""), "absolute": stat("/x", 0o644, ""), "link": stat("x", 0o644, "../../shadow"), "device": stat("x", os.ModeDevice|0o600, ""),
	} {
		files := &Files{}
		files.Offer("context", ask(t, send(p, end)))
		if got, err := Read(t.Context(), ask(t, files), "context", "x"); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	marked := stat("x", 0o644, "")
	marked.Stat.Xattrs = map[string][]byte{tarball.TrustedAttributes + "overlay.opaque": []byte("y"), "user.kept": []byte("y")}
	files := &Files{}
	files.Offer("context", ask(t, send(marked, end)))
	stream, err := filesync.NewFileSyncClient(ask(t, files).Conn()).DiffCopy(grpcmeta.NewOutgoingContext(t.Context(), grpcmeta.Pairs(keyDir, "context")))
	if err != nil {
		t.Fatal(err)
	}
	got, err := stream.Recv()
	if err != nil || len(got.Stat.Xattrs) != 1 || got.Stat.Xattrs["user.kept"] == nil {
		t.Errorf("the Engine gets %v, %v", got, err)
	}
}

// keeper has credentials for every registry, and a secret.
type keeper struct{ auth.UnimplementedAuthServer }

func (k keeper) Register(server *grpc.Server) {
	auth.RegisterAuthServer(server, k)
	secrets.RegisterSecretsServer(server, k)
}

func (keeper) Credentials(_ context.Context, r *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	return &auth.CredentialsResponse{Username: "me", Secret: "of " + r.Host}, nil
}

func (keeper) GetSecret(_ context.Context, r *secrets.GetSecretRequest) (*secrets.GetSecretResponse, error) {
	if r.ID != "mine" {
		return nil, status.Error(codes.NotFound, "no such secret")
	}
	return &secrets.GetSecretResponse{Data: []byte("secret")}, nil
}

// TestServices: the Engine gets what the client offers and nothing that it does not; credentials for registries that are allowed only.
func TestServices(t *testing.T) {
	t.Parallel()
	allow := func(_ context.Context, registry string) error {
		if registry != "allowed" {
			return errors.New("not this one")
		}
		return nil
	}
	if services := Services(ask(t), nil, allow); len(services) != 0 {
		t.Errorf("a client that offers nothing offers %v", services)
	}
	client := ask(t, keeper{})
	services := Services(client, nil, allow)
	if len(services) != 2 {
		t.Fatalf("the client offers %v", services)
	}
	engine := ask(t, services...)
	if got, err := secrets.NewSecretsClient(engine.Conn()).GetSecret(t.Context(), &secrets.GetSecretRequest{ID: "mine"}); err != nil || string(got.Data) != "secret" {
		t.Errorf("the secret: %v, %v", got, err)
	}
	if _, err := secrets.NewSecretsClient(engine.Conn()).GetSecret(t.Context(), &secrets.GetSecretRequest{ID: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("another secret: %v", err)
	}
	for host, code := range map[string]codes.Code{"allowed": codes.OK, "169.254.169.254": codes.PermissionDenied} {
		got, err := auth.NewAuthClient(engine.Conn()).Credentials(t.Context(), &auth.CredentialsRequest{Host: host})
		if status.Code(err) != code || err == nil && got.Secret != "of "+host {
			t.Errorf("credentials for %s: %v, %v", host, got, err)
		}
	}
	if got := Credentials(t.Context(), client)("docker.io"); got != "eyJwYXNzd29yZCI6Im9mIHJlZ2lzdHJ5LTEuZG9ja2VyLmlvIiwic2VydmVyYWRkcmVzcyI6InJlZ2lzdHJ5LTEuZG9ja2VyLmlvIiwidXNlcm5hbWUiOiJtZSJ9" {
		t.Errorf("X-Registry-Auth is %q", got)
	}
	if got := Credentials(t.Context(), ask(t))("docker.io"); got != "" {
		t.Errorf("a client without credentials has %q", got)
	}
}

// TestPassingFilesAreBounded: nothing is held of files that nothing will be told of.
func TestPassingFilesAreBounded(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]func(i int) string{
		"many":           func(i int) string { return fmt.Sprint(i) },
		"long":           func(i int) string { return strings.Repeat("x", 4000) + fmt.Sprint(i) },
		"again the same": func(int) string { return "x" },
	} {
		f := passingFiles{files: &layercache.Collector{}}
		for i := range 100_000 {
			f.take(&fstypes.Packet{Type: fstypes.PACKET_STAT, Stat: &fstypes.Stat{Path: path(i), Size: 1}})
		}
		if len(f.stats) > 0 || f.files != nil {
			t.Errorf("%s: %d are held", name, len(f.stats))
		}
	}
}

// TestPanic: a defect that one question of the Engine's comes upon is the answer to that question.
func TestPanic(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	engine := ask(t, &secretService{log: log}, &outputService{log: log}) // without a client
	_, unary := secrets.NewSecretsClient(engine.Conn()).GetSecret(t.Context(), &secrets.GetSecretRequest{ID: "s"})
	stream, err := filesync.NewFileSendClient(engine.Conn()).DiffCopy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, streamed := stream.Recv()
	for _, err := range []error{unary, streamed} {
		if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "defect of Slipway's") {
			t.Error(err)
		}
	}
	for _, want := range []string{"Secrets/GetSecret", "FileSend/DiffCopy", "session.go"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in: %s", want, &out)
		}
	}
}
