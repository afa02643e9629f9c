package guard

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/demo"
)

// ryukImage is what this version of Testcontainers starts to clean up after itself.
const ryukImage = "testcontainers/ryuk:0.14.0"

// TestTestcontainers runs a program that is written with Testcontainers in a job: with its Ryuk, which mounts the Engine's
// socket and may ask to be privileged, and with a daemon on TCP as beside a Docker-in-Docker.
func TestTestcontainers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	raw := engine(t)
	dir := t.TempDir()
	program, ryuk := filepath.Join(dir, "program"), filepath.Join(dir, "ryuk")
	goBuild(t, "testdata/testcontainers", program)
	goBuild(t, "testdata/ryuk", ryuk)
	content, err := os.ReadFile(ryuk)
	if err != nil {
		t.Fatal(err)
	}
	recipe := demo.Alpine()
	recipe.Files["/bin/ryuk"] = demo.File{Mode: 0o755, Content: content}
	recipe.Cmd, recipe.Labels = []string{"/bin/ryuk"}, map[string]string{"slipway.test": "ryuk"}
	var archive bytes.Buffer
	if err := recipe.WriteArchive(&archive, ryukImage); err != nil {
		t.Fatal(err)
	}
	if err := raw.Load(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.RemoveImage(context.Background(), ryukImage) })
	for name, environment := range map[string]string{
		"socket":          "DOCKER_HOST=",
		"privileged Ryuk": "TESTCONTAINERS_RYUK_CONTAINER_PRIVILEGED=true",
		"TCP":             "DOCKER_HOST=tcp://docker:2375",
		"without Ryuk":    "TESTCONTAINERS_RYUK_DISABLED=true",
	} {
		r := newRig(t, func(o *Options) { o.Daemon = &Daemon{Names: []string{"docker"}} })
		job := r.job()
		if out, err := exec.Command("cp", program, filepath.Join(r.workspace, "program")).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		out, err := r.inJob(job, "echo 127.0.0.1 docker >>/etc/hosts; export "+environment+"; ./program "+alpine+" 2>&1")
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
			continue
		}
		wants(t, out, "says served")
		if name == "privileged Ryuk" {
			id := strings.TrimSpace(r.docker("create", "--privileged", "--quiet", ryukImage))
			wants(t, r.host("inspect", "--format", "privileged: {{.HostConfig.Privileged}}", id[len(id)-64:]), "privileged: false")
			r.refused("privileged", "create", "--privileged", alpine)
		}
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// goBuild makes a program that runs in any image.
func goBuild(t *testing.T, dir, out string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-mod=mod", "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build in %s: %v\n%s", dir, err, text)
	}
}
