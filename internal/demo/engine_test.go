package demo

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// needEngine skips a test where no Engine answers, and fails it where one is required.
func needEngine(t *testing.T) {
	t.Helper()
	if _, err := dockerOutput(t.Context(), nil, "version", "--format", "{{.Server.Version}}"); err != nil {
		if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" {
			t.Fatalf("no Engine: %v", err)
		}
		t.Skipf("no Engine: %v", err)
	}
}

// docker runs this machine's docker client and gives back what it printed.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	return dockerIn(t, nil, args...)
}

func dockerIn(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	out, err := dockerOutput(t.Context(), stdin, args...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func dockerOutput(ctx context.Context, stdin []byte, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// removeImage forgets a name and waits for nothing: the test's own image.
func removeImage(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	defer cancel()
	if out, err := dockerOutput(ctx, nil, "image", "rm", "--force", name); err != nil {
		t.Errorf("remove the image %s: %v\n%s", name, err, out)
	}
}
