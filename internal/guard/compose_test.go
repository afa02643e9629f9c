package guard

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const composeFile = `
version: "2.4"
services:
  db:
    image: IMAGE
    command: ["sh", "-c", "usleep 300000; touch /tmp/ready; exec nc -ll -p 5432 -e hostname"]
    healthcheck: {test: ["CMD", "test", "-f", "/tmp/ready"], interval: 1s, retries: 60}
    volumes: ["store:/store", "/anonymous"]
    stop_signal: KILL
    restart: always
    mem_limit: 64m
    logging: {driver: json-file, options: {max-size: "1m"}}
  web:
    image: IMAGE
    command: ["sh", "-c", "echo web is up; cp /data/greeting /store/copy; nslookup db 127.0.0.11 >/data/db; exec nc -ll -p 80 -e cat /store/copy"]
    depends_on: {db: {condition: service_healthy}}
    volumes:
      - ./data:/data
      - {type: bind, source: ./data, target: /again, read_only: true}
      - store:/store
    tmpfs: ["/t:size=1m"]
    environment: ["A=b"]
    stop_signal: KILL
    ports: ["8080:80"]
volumes:
  store: {}
`

// Compose brings up an application with a bind, a named volume, a published port and a condition. (Two jobs with the same
// names and ports at once: TestPortsOfTwoJobs.)
func TestCompose(t *testing.T) {
	t.Parallel()
	needRoot(t)
	program, err := exec.LookPath("docker-compose")
	if err != nil {
		if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	const greeting = "hello"
	r := newRig(t, func(o *Options) {
		// Compose runs on this machine, and knows the workspace by the same path.
		o.Policy.Mounts = []Mount{{Destination: o.Policy.Mounts[0].Source, Source: o.Policy.Mounts[0].Source}}
	})
	job := r.job()
	project := filepath.Join(r.workspace, "app")
	if err := os.MkdirAll(filepath.Join(project, "data"), 0o777); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"docker-compose.yml": strings.ReplaceAll(composeFile, "IMAGE", alpine), "data/greeting": greeting,
	} {
		if err := os.WriteFile(filepath.Join(project, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	compose := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Env = project, append(os.Environ(), "DOCKER_HOST=unix://"+r.Socket())
		cmd.WaitDelay = outputTime
		var errors strings.Builder
		cmd.Stderr = &errors
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("compose %s: %v\n%s%s", strings.Join(args, " "), err, out, &errors)
		}
		return string(out)
	}
	compose("up", "--detach")
	ps := compose("ps")
	wants(t, ps, "(healthy)", "8080->80/tcp")
	lacks(t, ps, "slipwayjob")
	wants(t, compose("exec", "-T", "web", "sh", "-c", "cat /data/greeting /store/copy /again/greeting; echo $A; exec 2>&1; touch /again/x || echo refused"),
		greeting+greeting+greeting+"b\n", "refused")
	wants(t, compose("logs", "--no-color"), "web is up")
	inside := r.within(job)
	eventually(t, "the published port answers", func() bool {
		got, err := askTCP(inside, "127.0.0.1:8080", 0)
		return err == nil && got == greeting
	})
	if out, err := r.inJob(job, "nslookup web 127.0.0.11"); err != nil {
		t.Errorf("the job does not find the service: %v %s", err, out)
	}
	eventually(t, "the bind is written to", func() bool {
		found, err := os.ReadFile(filepath.Join(project, "data", "db"))
		return err == nil && strings.Contains(string(found), "Name:")
	})
	web := func() string {
		t.Helper()
		var list []struct{ Id string }
		r.must(http.StatusOK, "GET", "/containers/json?filters="+escape(`{"label":["com.docker.compose.service=web"]}`), nil, &list)
		if len(list) != 1 {
			t.Fatalf("%d containers of the service", len(list))
		}
		return list[0].Id
	}
	before := web()
	if again := compose("up", "--detach"); web() != before {
		t.Errorf("the same application is not seen as the same:\n%s", again)
	}
	compose("down", "--volumes", "--timeout", "0")
	for _, target := range []string{"/containers/" + before + "/json", "/networks/app_default", "/volumes/app_store"} {
		r.must(http.StatusNotFound, "GET", target, nil, nil)
	}
}
