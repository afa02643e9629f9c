package guard

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// folder makes a build's context of names and contents.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// contextOf makes a tar archive of names and contents.
func contextOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// clients are the docker clients of this machine that build in the classic form.
func clients(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, p := range []string{"/usr/local/bin/docker", "/usr/bin/docker"} {
		if _, err := os.Stat(p); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// buildWith runs one of the clients and returns both outputs and the exit code.
func (r *rig) buildWith(docker, stdin string, args ...string) (string, int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, docker, append([]string{"build"}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+r.Socket(), "DOCKER_BUILDKIT=0", "HOME="+r.t.TempDir())
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestClassicBuild(t *testing.T) {
	t.Parallel()
	dir := folder(t, "Dockerfile", fmt.Sprintf(`ARG BASE=%s
FROM $BASE AS build
RUN echo hello && echo built > /out
FROM scratch AS unused
COPY --from=build /out /x
FROM $BASE
ENV A=b
COPY --from=build /out /out
RUN cat /out \
    && cat /proc/sys/kernel/random/uuid > /id
CMD ["x"]
`, alpine))
	for _, docker := range clients(t) {
		t.Run(docker, func(t *testing.T) {
			r := newRig(t)
			out, code := r.buildWith(docker, "", "-t", "app", "--iidfile", dir+"/iid", dir)
			fmt.Println(out, code)
			out, code = r.buildWith(docker, "", "-t", "app", dir)
			fmt.Println(out, code)
		})
	}
}
