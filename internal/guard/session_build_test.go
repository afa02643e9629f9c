package guard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmeta "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/slipway-ci/slipway/internal/demo"
)

// oldClient is docker's client of version 20.10, which builds over sessions.
const oldClient = "/usr/bin/docker"

// oldDocker runs it in a folder.
func (r *rig) oldDocker(dir, stdin string, args ...string) (string, error) {
	return oldDocker("unix://"+r.Socket(), dir, stdin, args...)
}

func oldDocker(host, dir, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, oldClient, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_BUILDKIT=1")
	cmd.Dir = dir
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	cmd.WaitDelay = outputTime
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func needOldClient(t *testing.T) {
	t.Helper()
	out, err := exec.Command(oldClient, "--version").CombinedOutput()
	if err == nil && strings.Contains(string(out), "Docker version 20.10.") {
		return
	}
	if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" {
		t.Fatalf("%s is not docker's client of version 20.10: %s %v", oldClient, out, err)
	}
	t.Skipf("%s is not docker's client of version 20.10: %s %v", oldClient, out, err)
}

// oldBuild builds and returns the image's ID.
func (r *rig) oldBuild(dir, stdin string, args ...string) string {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "id")
	out, err := r.oldDocker(dir, stdin, append([]string{"build", "--iidfile", file}, args...)...)
	if err != nil {
		r.t.Fatalf("build %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return r.built(file)
}

func (r *rig) built(file string) string {
	r.t.Helper()
	id, err := os.ReadFile(file)
	if err != nil || len(id) == 0 {
		r.t.Fatalf("the build wrote no ID: %v", err)
	}
	r.t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", "--force", string(id)) })
	return string(id)
}

// file reads a file of an image.
func (r *rig) file(image, name string) string {
	r.t.Helper()
	return r.host("run", "--rm", "--network=none", "--entrypoint=cat", image, name)
}

func TestSessionBuild(t *testing.T) {
	t.Parallel()
	needOldClient(t)
	r := newRig(t, newScope)
	marker := r.policy.Scope // no other run's cache
	dir := write(t, t.TempDir(), "Dockerfile", "FROM "+alpine+" AS first\nARG WHO=nobody\nENV M="+marker+"\nCOPY . /all/\n"+
		"RUN echo for $WHO > /who; ls /all > /list\n"+
		"RUN --mount=type=secret,id=s cat /run/secrets/s > /secret\n"+
		"RUN --mount=type=cache,target=/cache echo x >> /cache/x; cp /cache/x /cached\n"+
		"FROM scratch AS second\nCOPY --from=first /list /only\n",
		".dockerignore", "ignored\n", "kept", "kept", "ignored", "ignored", "sub/file", "deep")
	secret := filepath.Join(write(t, t.TempDir(), "secret", "geheim"), "secret")
	args := []string{"--progress=plain", "--build-arg", "WHO=me", "--secret", "id=s,src=" + secret, "--target", "first", "-t", "session:test", "."}
	id := r.oldBuild(dir, "", args...)
	for name, want := range map[string]string{"/who": "for me\n", "/secret": "geheim", "/cached": "x\n", "/all/sub/file": "deep"} {
		if got := r.file(id, name); got != want {
			t.Errorf("%s is %q, not %q", name, got, want)
		}
	}
	list := r.file(id, "/list")
	wants(t, list, "kept", "Dockerfile")
	if strings.Contains(list, "\nignored\n") {
		t.Errorf(".dockerignore was not obeyed: %s", list)
	}

	// Again: all of it from the cache.
	out, err := r.oldDocker(dir, "", append([]string{"build"}, args...)...)
	if err != nil || strings.Count(out, "CACHED") < 4 {
		t.Errorf("not from the cache: %v\n%s", err, out)
	}
	// The client saw its own names.
	wants(t, out, "FROM "+alpine, "session:test")
	lacks(t, strings.ReplaceAll(out, "ENV M="+marker, ""), r.policy.Scope, "slipway.local", r.policy.Token)

	// Without a target the last stage is built, on top of the same cache.
	tree := filepath.Join(t.TempDir(), "out")
	if out, err := r.oldDocker(dir, "", "build", "--build-arg", "WHO=me", "--secret", "id=s,src="+secret, "-o", tree, "."); err != nil {
		t.Error(err, out)
	}
	if only, err := os.ReadFile(filepath.Join(tree, "only")); string(only) != list {
		t.Errorf("the last stage has %q, %v", only, err)
	}
}

// withWait is how long a build waits for what belongs to it.
func withWait(d time.Duration) func(*Options) { return func(o *Options) { o.wait = d } }

// newScope is a scope that no earlier run of the tests has filled a cache for.
func newScope(o *Options) { o.Policy.Scope = "s" + strings.ToLower(rand.Text()) }

// TestSessionBuildScope builds the same in two scopes: the steps that run something are run in each.
func TestSessionBuildScope(t *testing.T) {
	t.Parallel()
	needOldClient(t)
	a := newRig(t, newScope)
	again := newRig(t, func(o *Options) { o.Policy.Scope = a.policy.Scope })
	other := newRig(t, newScope)
	dir := write(t, t.TempDir(), "Dockerfile", "FROM "+alpine+"\nENV M="+a.policy.Scope+"\n"+
		"RUN --mount=type=secret,id=s cat /run/secrets/s > /secret\nRUN --mount=type=cache,id=shared,target=/cache echo x >> /cache/x; cp /cache/x /cached\n")
	args := func(secret string) []string {
		return []string{"--secret", "id=s,src=" + filepath.Join(write(t, t.TempDir(), "s", secret), "s"), "."}
	}
	for _, c := range []struct {
		r            *rig
		name, secret string
		want         string
	}{{a, "first", "AAAA", "AAAA"}, {again, "same scope", "XXXX", "AAAA"}, {other, "other scope", "BBBB", "BBBB"}} {
		id := c.r.oldBuild(dir, "", args(c.secret)...)
		if got := c.r.file(id, "/secret"); got != c.want {
			t.Errorf("%s: the secret is %q, not %q", c.name, got, c.want)
		}
		if got := c.r.file(id, "/cached"); got != "x\n" {
			t.Errorf("%s: the cache mount had something of another: %q", c.name, got)
		}
	}
}

// TestSessionBuildForms are the ways to name a Dockerfile and a context.
func TestSessionBuildForms(t *testing.T) {
	t.Parallel()
	needOldClient(t)
	r := newRig(t)
	form := func(s string) string {
		return "FROM " + alpine + " AS made\nRUN echo " + s + " > /form\nFROM scratch\nCOPY --from=made /form /form\n"
	}
	text := func(s string) string { return form(s) + "COPY . /context/\n" }
	top := write(t, t.TempDir(), "above", text("above"), "context/Dockerfile", text("plain"), "context/real", text("link"), "context/link", "-> real",
		"context/own", text("own"), "context/own.dockerignore", "b\n", "context/.dockerignore", "a\n", "context/a", "a", "context/b", "b", "lower/dockerfile", text("lower"), "lower/file", "", "secret", "archive\n")
	dir := filepath.Join(top, "context")
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range [][2]string{{"Dockerfile", strings.Replace(text("x"), "RUN echo x", "RUN --mount=type=secret,id=s cat /run/secrets/s", 1)}, {"inside", "x"}} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Size: int64(len(f[1])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, f[1])
	}
	w.Close()
	for _, c := range []struct {
		name, stdin  string
		args         []string
		there, lacks string
	}{
		{"plain", "", []string{"."}, "b", "a"},
		{"above", "", []string{"-f", "../above", "."}, "b", "a"},
		{"link", "", []string{"-f", "link", "."}, "b", "a"},
		{"own", "", []string{"-f", "own", "."}, "a", "b"},
		{"lower", "", []string{"../lower"}, "file", "Dockerfile"},
		{"stdin", text("stdin"), []string{"-f", "-", "."}, "b", "a"},
		{"alone", form("alone"), []string{"-"}, "", "."},
		{"archive", archive.String(), []string{"--secret", "id=s,src=../secret", "-"}, "inside", "a"},
	} {
		out := t.TempDir()
		answer, err := r.oldDocker(dir, c.stdin, append([]string{"build", "-o", out}, c.args...)...)
		if err != nil {
			t.Errorf("%s: %v\n%s", c.name, err, answer)
			continue
		}
		if got, err := os.ReadFile(filepath.Join(out, "form")); string(got) != c.name+"\n" {
			t.Errorf("%s: it was built from %q, %v", c.name, got, err)
		}
		if _, err := os.Stat(filepath.Join(out, "context", c.there)); c.there != "" && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := os.Stat(filepath.Join(out, "context", c.lacks)); err == nil {
			t.Errorf("%s: %s is there", c.name, c.lacks)
		}
	}
	for want, args := range map[string][]string{
		"no such file": {"-f", "missing", "."}, "[build-remote]": {"https://git.example.com/x.git"}, "[build-network-host]": {"--network", "host", "."},
		"[build-outputs]": {"-o", "type=image,name=" + alpine, "."}, "[build-network]": {"--network", "other", "."},
	} {
		if answer, err := r.oldDocker(dir, "", append([]string{"build"}, args...)...); err == nil || !strings.Contains(answer, want) {
			t.Errorf("%v: %v\n%s", args, err, answer)
		}
	}
}

// TestSessionUpload sends each of the two requests of an uploaded archive without the other, and to another job.
func TestSessionUpload(t *testing.T) {
	t.Parallel()
	r, other := newRig(t, withWait(300*time.Millisecond)), newRig(t, withWait(300*time.Millisecond))
	upload := "/build?version=2&buildid=upload-request:mine"
	if status, answer := r.do(http.MethodPost, upload, []byte("x")); status != http.StatusBadRequest || !strings.Contains(answer, "no build came") {
		t.Error(status, answer)
	}
	answered := make(chan error, 1)
	go func() { answered <- other.wholeAnswer(upload) }()
	for _, id := range []string{"mine", "upload-request:mine", "", "a/b"} {
		status, answer := r.do(http.MethodPost, "/build?"+url.Values{"version": {"2"}, "remote": {"upload-request"}, "buildid": {id}}.Encode(), nil)
		if status != http.StatusBadRequest {
			t.Errorf("%q: %d %s", id, status, answer)
		}
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	lacks(t, r.calls.String()+other.calls.String(), "/build")
	for _, g := range []*rig{r, other} {
		g.sessions.mu.Lock()
		if n := len(g.sessions.meetings); n != 0 {
			t.Errorf("%d archives are still waited for", n)
		}
		g.sessions.mu.Unlock()
	}
}

// TestSessionBuildErrors are builds that fail: the client reads why, in its own names.
func TestSessionBuildErrors(t *testing.T) {
	t.Parallel()
	needOldClient(t)
	r := newRig(t)
	for name, c := range map[string]struct{ dockerfile, want string }{
		"step":    {"FROM " + alpine + "\nRUN echo said; exit 3\n", "exit code: 3"},
		"parse":   {"FROM " + alpine + "\nNONSENSE\n", "parse error on line 2"},
		"base":    {"FROM localhost:1/none/such:1\n", "[registry-host]"},
		"missing": {"FROM " + alpine + "\nCOPY nothing /\n", "nothing"},
	} {
		out, err := r.oldDocker(write(t, t.TempDir(), "Dockerfile", c.dockerfile), "", "build", "--progress=plain", ".")
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		lacks(t, out, r.policy.Scope, "slipway.local", r.policy.Token)
	}
	// A frontend that a Dockerfile asks for does not run; the Engine's own one builds.
	dir := write(t, t.TempDir(), "Dockerfile", "# syntax=localhost:1/evil/frontend:1\nFROM scratch\nCOPY Dockerfile /x\n")
	r.oldBuild(dir, "", ".")
	lacks(t, r.calls.String(), "evil")
}

// TestSessionBuildPrivateBase builds on an image that needs the client's credentials.
func TestSessionBuildPrivateBase(t *testing.T) {
	t.Parallel()
	needOldClient(t)
	reg, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	r := newRig(t, func(o *Options) { o.Policy.Registry = reg.Host })
	if err := reg.Push(t.Context(), "private/base:1", demo.Alpine()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", "--force", reg.Host+"/private/base:1") })
	dir := write(t, t.TempDir(), "Dockerfile", "FROM "+reg.Host+"/private/base:1\nRUN echo private > /form\n")
	if out, err := r.oldDocker(dir, "", "--config", t.TempDir(), "build", "."); err == nil {
		t.Errorf("it was built without credentials:\n%s", out)
	}
	config, err := json.Marshal(map[string]any{"auths": map[string]any{reg.Host: map[string]string{"auth": basic(reg.User, reg.Password)}}})
	if err != nil {
		t.Fatal(err)
	}
	login := write(t, t.TempDir(), "config.json", string(config))
	file := filepath.Join(t.TempDir(), "id")
	if out, err := r.oldDocker(dir, "", "--config", login, "build", "--iidfile", file, "."); err != nil {
		t.Fatal(err, out)
	}
	if got := r.file(r.built(file), "/form"); got != "private\n" {
		t.Errorf("it was built from %q", got)
	}
}

// postBuild sends a build's request for a session.
func (r *rig) postBuild(session string, change ...string) (int, string) {
	r.t.Helper()
	q := url.Values{"version": {"2"}, "remote": {"client-session"}, "session": {session}, "buildid": {"x"}, "dockerfile": {"Dockerfile"}}
	for i := 0; i < len(change); i += 2 {
		q.Set(change[i], change[i+1])
	}
	return r.do(http.MethodPost, "/build?"+q.Encode(), nil)
}

// imageOf finds the ID in a build's answer.
func (r *rig) imageOf(answer string) string {
	r.t.Helper()
	for dec := json.NewDecoder(strings.NewReader(answer)); ; {
		var m struct {
			ID  string
			Aux json.RawMessage
		}
		if err := dec.Decode(&m); err != nil {
			r.t.Fatalf("the build tells of no image (%v):\n%s", err, answer)
		}
		var image struct{ ID string }
		if m.ID == "moby.image.id" && json.Unmarshal(m.Aux, &image) == nil {
			r.t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", "--force", image.ID) })
			return image.ID
		}
	}
}

// TestSessionContextPoisoning lets a job of one scope send a file that another scope's file has the name, size and time
// of, under the same shared key. On the Engine's own socket, the second build gets the first one's content.
func TestSessionContextPoisoning(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	key := "key-" + r.policy.Token
	folder := func(content string) string {
		dir := write(t, t.TempDir(), "Dockerfile", "FROM "+alpine+"\nCOPY data-"+r.policy.Token+" /data\n", "data-"+r.policy.Token, content)
		at := time.Unix(1_700_000_000, 0)
		if err := os.Chtimes(filepath.Join(dir, "data-"+r.policy.Token), at, at); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	build := func(r *rig, content string) string {
		dir := folder(content)
		id, end := r.clientSession(key, dirs(t, map[string]string{dirDockerfile: dir, dirContext: dir}))
		defer end()
		status, answer := r.postBuild(id)
		if status != http.StatusOK {
			t.Fatal(status, answer)
		}
		return r.file(r.imageOf(answer), "/data")
	}
	if got := build(r, "AAAA"); got != "AAAA" {
		t.Errorf("the first build has %q", got)
	}
	if got := build(other, "BBBB"); got != "BBBB" {
		t.Errorf("the build of another scope has %q", got)
	}

	// The attack itself works: it is the key that keeps the scopes apart.
	raw := func(content string) string {
		dir := folder(content)
		id, end, err := r.engineSession(t.Context(), "raw"+key, dirs(t, map[string]string{dirDockerfile: dir, dirContext: dir}))
		if err != nil {
			t.Fatal(err)
		}
		defer end()
		resp, err := r.engine.do(t.Context(), http.MethodPost, "/build", url.Values{"version": {"2"}, "remote": {"client-session"}, "session": {id}}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.file(r.imageOf(string(answer)), "/data")
	}
	if raw("CCCC"); raw("DDDD") != "CCCC" {
		t.Log("this Engine does not mix contexts under one key")
	}
}

// TestSessionDockerfileOnce has a client that sends another Dockerfile each time it is asked. It is asked once, for no
// other files of the folder, and what is built is what was checked.
func TestSessionDockerfileOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	context := dirs(t, map[string]string{dirContext: t.TempDir()}).(filesync.FileSyncServer)
	var reads atomic.Int32
	id, end := r.clientSession("key", hostileFiles(func(s filesync.FileSync_DiffCopyServer) error {
		asked, _ := grpcmeta.FromIncomingContext(s.Context())
		if dir := asked.Get("dir-name"); dir[0] != dirDockerfile {
			return context.DiffCopy(s)
		}
		if names := asked.Get("followpaths"); !slices.Equal(names, []string{"other", "other.dockerignore"}) {
			t.Errorf("it was asked for %q", names) // the empty name is the whole folder
		}
		text := fmt.Sprintf("FROM %s\nRUN echo read %d > /read\n", alpine, reads.Add(1))
		return fsutil.Send(s.Context(), s, serve(t, "other", text), nil)
	}))
	defer end()
	status, answer := r.postBuild(id, "dockerfile", "other")
	if status != http.StatusOK {
		t.Fatal(status, answer)
	}
	if got := r.file(r.imageOf(answer), "/read"); got != "read 1\n" {
		t.Errorf("it was built from %q", got)
	}
	if n := reads.Load(); n != 1 {
		t.Errorf("the Dockerfile was read %d times", n)
	}
}

// agent stands for a client's SSH agent: what speaks to it is passed to a web server.
type agent struct{ socket string }

func (a agent) Register(server *grpc.Server) { sshforward.RegisterSSHServer(server, a) }

func (a agent) CheckAgent(_ context.Context, r *sshforward.CheckAgentRequest) (*sshforward.CheckAgentResponse, error) {
	if r.ID != "mine" {
		return nil, status.Errorf(codes.NotFound, "no agent %q", r.ID)
	}
	return &sshforward.CheckAgentResponse{}, nil
}

func (a agent) ForwardAgent(s sshforward.SSH_ForwardAgentServer) error {
	md, _ := grpcmeta.FromIncomingContext(s.Context())
	if id := md.Get(sshforward.KeySSHID); len(id) != 1 || id[0] != "mine" {
		return status.Errorf(codes.NotFound, "no agent %q", id)
	}
	conn, err := net.Dial("unix", a.socket)
	if err != nil {
		return err
	}
	return sshforward.Copy(s.Context(), conn, s, nil)
}

// TestSessionSSH lets a build step speak to its client's agent. The program that speaks is docker's client, for want of
// another one in the test's images that knows sockets.
func TestSessionSSH(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	socket := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, `{"Version": "of-the-agent", "ApiVersion": "1.41"}`)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	dir := write(t, t.TempDir(), "Dockerfile", "FROM "+client+"\nENV M="+r.policy.Token+
		"\nRUN --mount=type=ssh,id=mine DOCKER_HOST=unix://$SSH_AUTH_SOCK docker version --format '{{.Server.Version}}' > /answer\n")
	id, end := r.clientSession("key", dirs(t, map[string]string{dirDockerfile: dir, dirContext: dir}), agent{socket})
	defer end()
	status, answer := r.postBuild(id)
	if status != http.StatusOK {
		t.Fatal(status, answer)
	}
	if got := r.file(r.imageOf(answer), "/answer"); got != "of-the-agent\n" {
		t.Errorf("the agent said %q", got)
	}
}

// TestSessionHostileContext sends the Engine names that lead out of the folder: they do not reach it.
func TestSessionHostileContext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	escaped := filepath.Join(t.TempDir(), "escaped")
	for name, stat := range map[string]*fstypes.Stat{
		"parent": {Path: "../../../../../.." + escaped, Size: 1}, "absolute": {Path: escaped, Size: 1},
		"link": {Path: "x", Linkname: "../../../../../../../../etc/shadow"}, "device": {Path: "x", Mode: uint32(os.ModeDevice | 0o600)},
	} {
		id, end := r.clientSession("key", hostileFiles(func(s filesync.FileSync_DiffCopyServer) error {
			asked, _ := grpcmeta.FromIncomingContext(s.Context())
			if dir := asked.Get("dir-name"); dir[0] == dirDockerfile {
				return fsutil.Send(s.Context(), s, serve(t, "Dockerfile", "FROM "+alpine+"\nCOPY . /x/\n"), nil)
			}
			if err := errors.Join(s.Send(&fstypes.Packet{Type: fstypes.PACKET_STAT, Stat: stat}), s.Send(&fstypes.Packet{Type: fstypes.PACKET_STAT})); err != nil {
				return err
			}
			_, err := s.Recv() // who asks for more has taken it
			return err
		}))
		status, answer := r.postBuild(id)
		end()
		// The Engine may hear that the transfer was ended before it hears why.
		if !strings.Contains(answer, "transfer of files is not as it should be") && !strings.Contains(answer, `"errorDetail":{"message":"context canceled"}`) {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	if _, err := os.Lstat(escaped); err == nil {
		t.Error("the Engine wrote a file outside")
	}
}

// TestSessionForeign names sessions that are not the job's: of another job, the guard's own, and none.
func TestSessionForeign(t *testing.T) {
	t.Parallel()
	r, other := newRig(t, withWait(50*time.Millisecond)), newRig(t)
	files := dirs(t, map[string]string{dirDockerfile: write(t, t.TempDir(), "Dockerfile", "FROM scratch\n"), dirContext: t.TempDir()})
	id, _ := other.clientSession("key", files)
	ofGuard, end, err := other.engineSession(t.Context(), "key", files)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	for name, id := range map[string]string{"another job's": id, "a guard's": ofGuard, "none": "", "with prefix": "x:" + id} {
		if status, answer := r.postBuild(id); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	lacks(t, r.calls.String(), "/build", "/session")
}

// TestSessionCut ends a guard while a build runs: the client is told, and the build and all that served it end.
func TestSessionCut(t *testing.T) {
	r := newRig(t)
	before := runtime.NumGoroutine()
	dir := write(t, t.TempDir(), "Dockerfile", "FROM "+alpine+"\nRUN --mount=type=secret,id=s sleep 300.5; echo of-"+r.policy.Token+"\n")
	asked := make(chan struct{})
	id, end := r.clientSession("key", dirs(t, map[string]string{dirDockerfile: dir, dirContext: dir}), secretFunc(func() { close(asked) }))
	built := make(chan error, 1)
	go func() { built <- r.wholeAnswer("/build?version=2&remote=client-session&buildid=x&session=" + id) }()
	select {
	case <-asked:
		eventually(t, "the build's process begins", func() bool { return runs(t, "of-"+r.policy.Token) })
	case err := <-built:
		t.Fatalf("the build ended: %v", err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-built; err == nil {
		t.Error("the client was told that the build ended well")
	}
	end()
	eventually(t, "the goroutines end", func() bool { return runtime.NumGoroutine() <= before })
	eventually(t, "the build's process ends", func() bool { return !runs(t, "of-"+r.policy.Token) })
}

// TestSessionClientGone kills the client while a build runs: the build ends too.
func TestSessionClientGone(t *testing.T) {
	t.Parallel()
	needOldClient(t)
	r := newRig(t)
	marker := "gone-" + r.policy.Token
	cmd := exec.Command(oldClient, "build", write(t, t.TempDir(), "Dockerfile", "FROM "+alpine+"\nRUN sleep 300.7; echo "+marker+"\n"))
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+r.Socket(), "DOCKER_BUILDKIT=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the build's process begins", func() bool { return runs(t, marker) })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the build's process ends", func() bool { return !runs(t, marker) })
}

// runs reports whether a process of the machine has a text in its command line.
func runs(t *testing.T, text string) bool {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(lines) == 0 {
		t.Fatalf("there are no processes: %v", err)
	}
	return slices.ContainsFunc(lines, func(name string) bool {
		line, _ := os.ReadFile(name) // it may have ended
		return bytes.Contains(line, []byte(text))
	})
}

// secretFunc has every secret, and tells when it is asked for one.
type secretFunc func()

func (f secretFunc) Register(server *grpc.Server) { secrets.RegisterSecretsServer(server, f) }

func (f secretFunc) GetSecret(context.Context, *secrets.GetSecretRequest) (*secrets.GetSecretResponse, error) {
	f()
	return &secrets.GetSecretResponse{Data: []byte("s")}, nil
}

// wholeAnswer sends a POST and is nil if its answer came to its end without an error in it. It may be called from any
// goroutine.
func (r *rig) wholeAnswer(target string) error {
	conn, err := net.Dial("unix", r.Socket())
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: guard\r\nContent-Length: 0\r\n\r\n", target); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err == nil && bytes.Contains(text, []byte(`"error"`)) {
		err = fmt.Errorf("%s", text)
	}
	return err
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}
