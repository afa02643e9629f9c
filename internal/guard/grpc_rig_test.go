package guard

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// buildx is a folder for DOCKER_CONFIG with the plugin in it.
func buildx(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "cli-plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/opt/newengine/buildx", filepath.Join(dir, "cli-plugins", "docker-buildx")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// buildxIn runs docker buildx on the job's socket.
func (r *rig) buildxIn(dir, stdin string, args ...string) (string, error) {
	r.t.Helper()
	cmd := exec.Command("docker", append([]string{"--host", "unix://" + r.Socket(), "buildx"}, args...)...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+buildx(r.t), "BUILDKIT_PROGRESS=plain")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
