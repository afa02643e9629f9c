package guard

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	control "github.com/moby/buildkit/api/services/control"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	grpcmeta "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// plugins is a folder for DOCKER_CONFIG with docker's own plugins in it. scripts/plugins makes them; without them the test
// is skipped, or fails where an Engine is required.
func plugins(t *testing.T) string {
	t.Helper()
	made := os.Getenv("SLIPWAY_PLUGINS")
	if made == "" {
		if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" {
			t.Fatal("SLIPWAY_PLUGINS does not say where buildx and compose are: make test does")
		}
		t.Skip("SLIPWAY_PLUGINS does not say where buildx and compose are")
	}
	dir := t.TempDir()
	if err := os.Symlink(made, filepath.Join(dir, "cli-plugins")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// modern runs docker as it is today, with its plugins, in a folder on the job's socket.
func (r *rig) modern(dir, stdin string, args ...string) (string, error) {
	r.t.Helper()
	return r.modernAt(plugins(r.t), "unix://"+r.Socket(), dir, stdin, args...)
}

func (r *rig) modernAt(config, host, dir, stdin string, args ...string) (string, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+config, "DOCKER_HOST="+host, "BUILDKIT_PROGRESS=plain", "NO_COLOR=1")
	cmd.WaitDelay = outputTime
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// buildxIn runs docker buildx on the job's socket.
func (r *rig) buildxIn(dir, stdin string, args ...string) (string, error) {
	r.t.Helper()
	return r.modern(dir, stdin, append([]string{"buildx"}, args...)...)
}

// buildx fails the test if it fails.
func (r *rig) buildx(dir string, args ...string) string {
	r.t.Helper()
	out, err := r.buildxIn(dir, "", args...)
	if err != nil {
		r.t.Fatalf("buildx %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// asBuildx builds a folder with the messages that buildx sends. change may alter the build and what is said of it.
func (r *rig) asBuildx(dir string, change func(solve *control.SolveRequest, front *gateway.SolveRequest)) (map[string]string, error) {
	r.t.Helper()
	id, end := r.clientSession("key", dirs(r.t, map[string]string{dirDockerfile: dir, dirContext: dir}))
	defer end()
	conn := r.grpcConn()
	solve := &control.SolveRequest{Ref: "ref" + id, Session: id, Cache: &control.CacheOptions{}}
	front := &gateway.SolveRequest{Frontend: frontendName, FrontendOpt: map[string]string{}, AllowResultReturn: true, AllowResultArrayRef: true}
	if change != nil {
		change(solve, front)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	type result struct {
		resp *control.SolveResponse
		err  error
	}
	made := make(chan result, 1)
	go func() {
		resp, err := control.NewControlClient(conn).Solve(ctx, solve)
		made <- result{resp, err}
	}()
	bridge := gateway.NewLLBBridgeClient(conn)
	of := grpcmeta.NewOutgoingContext(ctx, grpcmeta.Pairs(buildIDHeader, solve.Ref))
	resp, err := bridge.Solve(of, front)
	answer := &gateway.ReturnRequest{}
	if err != nil {
		st, _ := status.FromError(err)
		answer.Error = st.Proto()
	} else {
		answer.Result = resp.Result
	}
	_, returned := bridge.Return(of, answer) // fails where the build is over
	m := <-made
	err = errors.Join(err, m.err)
	if err == nil {
		err = returned
	}
	return m.resp.GetExporterResponse(), err
}
