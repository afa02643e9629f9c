package demo

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunnerConfig(t *testing.T) {
	t.Parallel()
	usual := runnerConfig("http://127.0.0.1:1/", "glrt-x", "/var/run/docker.sock")
	want := strings.NewReplacer("URL", "http://127.0.0.1:1/", "TOKEN", "glrt-x").Replace(sampleConfig)
	if diff := cmp.Diff(want, usual); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	rootless := runnerConfig("http://127.0.0.1:1/", "glrt-x", "/run/user/1000/docker.sock")
	want = strings.Replace(want, `["/var/run/docker.sock:`, `["/run/user/1000/docker.sock:`, 1)
	want = strings.Replace(want, "  [runners.docker]\n", "  [runners.docker]\n    host = \"unix:///run/user/1000/docker.sock\"\n", 1)
	if diff := cmp.Diff(want, rootless); diff != "" {
		t.Errorf("config with another socket (-want +got):\n%s", diff)
	}
}

func TestLocalSocket(t *testing.T) {
	t.Parallel()
	if socket, err := LocalSocket("unix:///run/user/1000/docker.sock"); socket != "/run/user/1000/docker.sock" || err != nil {
		t.Errorf("LocalSocket = %q, %v", socket, err)
	}
	for _, host := range []string{"tcp://10.0.0.1:2375", "ssh://root@host", "tcp://127.0.0.1:2375", ""} {
		var e *Error
		if _, err := LocalSocket(host); !errors.As(err, &e) || !strings.Contains(e.Hint, "unset DOCKER_HOST") {
			t.Errorf("LocalSocket(%q): %v", host, err)
		}
	}
}
