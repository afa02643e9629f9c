package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const composeFile = `version: "2.4"
services:
  web:
    image: %[1]s
    stop_signal: KILL
    command: ["httpd", "-f", "-p", "80", "-h", "/www"]
    volumes: ["./www:/www:ro", "data:/data"]
    ports: ["127.0.0.1:%[2]d:80"]
    healthcheck:
      test: ["CMD", "wget", "-qO", "/dev/null", "http://127.0.0.1/"]
      interval: 1s
      retries: 30
  client:
    image: %[1]s
    stop_signal: KILL
    command: ["sh", "-c", "echo asked $$(wget -qO- http://web/); echo kept >/data/file; exec sleep 300"]
    volumes: ["data:/data"]
    depends_on:
      web:
        condition: service_healthy
volumes:
  data:
`

// TestComposeThroughGuard: compose, with a bind, a named volume, a port, a health condition and names.
func TestComposeThroughGuard(t *testing.T) {
	t.Parallel()
	for name, command := range map[string][]string{"v1": {"docker-compose"}, "v2": {"docker", "compose"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := exec.Command(command[0], append(command[1:], "version")...).CombinedOutput(); err != nil {
				t.Skipf("%v: %v %s", command, err, out)
			}
			compose(t, strings.Join(command, " "))
		})
	}
}

func compose(t *testing.T, command string) {
	engine(t)
	dir := t.TempDir()
	work := filepath.Join(dir, "work")
	if err := os.MkdirAll(filepath.Join(work, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"docker-compose.yml": fmt.Sprintf(composeFile, alpine, freePort(t)), "www/index.html": "the page\n",
	} {
		if err := os.WriteFile(filepath.Join(work, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := strings.ReplaceAll(`set -ex
cd `+work+`
COMPOSE up -d
COMPOSE ps
for i in $(seq 100); do COMPOSE logs client | grep asked && break; sleep 0.1; done
for i in $(seq 100); do COMPOSE exec -T web cat /data/file && break; sleep 0.1; done
wget -qO- http://$(COMPOSE port web 80)/ || true
COMPOSE up -d
COMPOSE down -v
docker ps -aq
docker volume ls -q
echo done
`, "COMPOSE", command)
	cmd := slipway("guard", "--state", filepath.Join(dir, "state"), "--workspace", work, "--publish-local", "--", "sh", "-c", script)
	out, err := cmd.CombinedOutput()
	log := string(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	wants(t, log, "asked the page", "\nkept\n")
	lacks(t, log, "denied by slipway")
	if _, err := exec.LookPath("wget"); err == nil {
		wants(t, log, "\nthe page\n")
	}
	end := log[strings.LastIndex(log, "+ docker ps -aq"):]
	if !strings.Contains(strings.ReplaceAll(end, "\n+ echo done", ""), "+ docker ps -aq\n+ docker volume ls -q\ndone\n") {
		t.Errorf("something is left after down:\n%s", end)
	}
}

// freePort is a port of this machine that nobody uses.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
