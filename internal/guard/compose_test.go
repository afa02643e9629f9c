package guard

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

const composeFile = `
version: "2.4"
services:
  db:
    image: IMAGE
    stop_signal: KILL
    command: ["sh", "-c", "echo db is up; touch /data/ready; sleep 60"]
    volumes:
      - data:/data
      - /anonymous
    healthcheck:
      test: ["CMD", "test", "-e", "/data/ready"]
      interval: 1s
    restart: always
    mem_limit: 64m
    logging:
      driver: json-file
      options: {max-size: "1m"}
  web:
    image: IMAGE
    stop_signal: KILL
    command: ["sh", "-c", "cat /x/file; ping -c1 -w5 db > /dev/null && echo reached db; httpd -f -p 80 -h /x || sleep 60"]
    ports:
      - "8088:80"
    environment:
      - A=b
    tmpfs:
      - /t:size=1m
    volumes:
      - DIR/sub:/x:ro
      - type: bind
        source: DIR/sub
        target: /y
    depends_on:
      db:
        condition: service_healthy
volumes:
  data:
`

// TestComposeV1 runs a project from up to down with Debian's docker-compose.
func TestComposeV1(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("docker-compose"); err != nil {
		t.Skip(err)
	}
	r := newRig(t)
	if err := os.MkdirAll(r.workspace+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.workspace+"/sub/file", []byte("below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := strings.NewReplacer("IMAGE", alpine, "DIR", jobDir).Replace(composeFile)
	if err := os.WriteFile(dir+"/docker-compose.yml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	compose := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("docker-compose", append([]string{"--project-name", "demo", "--no-ansi"}, args...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "DOCKER_HOST=unix://"+r.Socket())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("docker-compose %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	compose("up", "--detach")
	wants(t, compose("exec", "-T", "web", "sh", "-c", "exec 2>&1; echo $A; cat /y/file; touch /x/no || echo refused"), "b\nbelow\n", "refused")
	wants(t, compose("logs", "web"), "below", "reached db") // it came up after db was healthy
	before := r.host("ps", "-q", "--filter", "label="+LabelGuard+"="+r.policy.Token)
	compose("up", "--detach") // nothing changed, so nothing is made anew
	if after := r.host("ps", "-q", "--filter", "label="+LabelGuard+"="+r.policy.Token); after != before {
		t.Errorf("containers were made again:\n%s%s", before, after)
	}
	compose("down", "--volumes", "--timeout", "1")
	r.leftovers()
}
