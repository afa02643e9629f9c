package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// own makes a container of the job's through the Engine's own socket and puts it on record, as a create through the guard
// does.
func (r *rig) own(name string, args ...string) string {
	r.t.Helper()
	all := []string{"create", "--label", LabelGuard + "=" + r.policy.Token, "--label", "slipway.test.guard=true"}
	if name != "" {
		all = append(all, "--name", r.policy.prefix()+name)
	}
	id := strings.TrimSpace(r.host(append(all, args...)...))
	r.objects.addContainer(&containerRecord{ID: id, Name: name, Image: "the-image"})
	return id
}

// sleeper is an own container that runs.
func (r *rig) sleeper(name string, args ...string) string {
	r.t.Helper()
	id := r.own(name, append(args, "--network", "none", "--entrypoint", "sleep", alpine, "600")...)
	r.docker("start", id)
	return id
}

// state is what the Engine says of a container: running, exited, paused, or "" if there is none.
func (r *rig) state(id string) string {
	out, err := run(engineHost(), "", "inspect", "--type", "container", "--format", "{{.State.Status}}", id)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

func TestLife(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.own("db", "--network", "none", "--entrypoint", "sh", alpine, "-c", "echo hello; echo oops >&2; exec sleep 600")
	if out := r.docker("start", "db"); !strings.Contains(out, "db") || r.state(id) != "running" {
		t.Errorf("%q, %s", out, r.state(id))
	}
	eventually(t, "output", func() bool { return strings.Contains(r.docker("logs", "db"), "oops") })
	wants(t, r.docker("logs", id[:12]), "hello", "oops")
	wants(t, r.docker("top", "db", "-eo", "pid,comm"), "sleep")
	wants(t, r.docker("stats", "--no-stream", "db"), "db")
	wants(t, r.docker("port", "db"), "")
	r.docker("pause", "db")
	if r.state(id) != "paused" {
		t.Error(r.state(id))
	}
	r.docker("unpause", "db")
	r.docker("exec", "db", "touch", "/new")
	wants(t, r.docker("diff", "db"), "A /new")
	r.docker("restart", "-t", "0", "db")
	r.docker("rename", "db", "base")
	wants(t, r.host("inspect", "--format", "{{.Name}}", id), r.policy.prefix()+"base")
	if out, err := r.try("container", "inspect", "db"); err == nil {
		t.Error("the old name still means the container", out)
	}
	r.docker("kill", "base")
	if out := r.docker("wait", "base"); strings.TrimSpace(out) != "137" {
		t.Error(out)
	}
	r.docker("start", "base")
	r.docker("stop", "-t", "0", "base")
	r.docker("rm", "-v", "base")
	if r.state(id) != "" {
		t.Error("it was not removed")
	}
	if out, err := r.try("start", "base"); err == nil || !strings.Contains(out, "No such container: base") {
		t.Error(out)
	}
	// No client's word went upstream as it was: full IDs only.
	for line := range strings.Lines(r.calls.String()) {
		if strings.Contains(line, "/containers/db") || strings.Contains(line, "/containers/base") {
			t.Error(line)
		}
	}
}

func TestNameOfRemovedContainerIsFree(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.own("once", "--rm", "--network", "none", "--entrypoint", "true", alpine)
	r.docker("start", "once")
	eventually(t, "the record's end", func() bool { return !r.objects.ownsContainer(id) })
	if out, err := r.try("container", "inspect", "once"); err == nil || !strings.Contains(out, "No such") {
		t.Error(out)
	}
}

func TestListShowsTheJobsOwn(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	other.own("secret", "--network", "none", alpine, "true")
	job := r.job()
	running := r.sleeper("db", "--label", "tier=data")
	created := r.own("", "--network", "none", alpine, "true")
	// A label proves nothing: this one has ours, and is nobody's.
	forged := strings.TrimSpace(r.host("create", "--label", LabelGuard+"="+r.policy.Token, "--name", "forged-"+r.policy.Token, alpine))
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"-a"}, []string{job, running, created}},
		{[]string{}, []string{job, running}},
		{[]string{"-a", "--filter", "name=^/?db$"}, []string{running}},
		{[]string{"-a", "--filter", "name=" + r.policy.prefix()}, nil},
		{[]string{"-a", "--filter", "label=tier=data"}, []string{running}},
		{[]string{"-a", "--filter", "label=" + LabelGuard}, nil},
		{[]string{"-a", "--filter", "status=created"}, []string{created}},
		{[]string{"-a", "--filter", "id=" + running[:12]}, []string{running}},
		{[]string{"-a", "--filter", "before=db"}, []string{job}},
		{[]string{"-a", "--filter", "since=db"}, []string{created}},
		{[]string{"-n", "1"}, []string{created}},
		{[]string{"-n", "2"}, []string{created, running}},
	} {
		out := r.docker(append([]string{"ps", "-q", "--no-trunc"}, c.args...)...)
		if got := strings.Fields(out); !sameSet(got, c.want) {
			t.Errorf("ps %v: %v, want %v", c.args, got, c.want)
		}
	}
	if out, err := r.try("ps", "--filter", "since=secret"); err == nil || !strings.Contains(out, "No such container: secret") {
		t.Error(out)
	}
	_, text := r.do("GET", "/v1.41/containers/json?all=1", nil)
	wants(t, text, `"/db"`, `"the-image"`, `"tier":"data"`)
	lacks(t, text, r.policy.prefix(), "slipway.test.guard", `"slipway.guard"`, forged[:12])
	r.host("rm", forged)
}

func sameSet(a, b []string) bool {
	in := map[string]bool{}
	for _, s := range a {
		in[s] = true
	}
	for _, s := range b {
		if !in[s] {
			return false
		}
	}
	return len(a) == len(b)
}

func TestInspectShowsWhatTheJobWrote(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.own("db", "--network", "none", "--volume", r.workspace+"/conf:/conf:ro", "--volume", r.Socket()+":/var/run/docker.sock",
		"--expose", "80", alpine, "true")
	r.objects.update(id, func(c *containerRecord) {
		c.Ports = []portRequest{{Port: 80, Protocol: "tcp", HostPort: 8080}}
	})
	_, text := r.do("GET", "/containers/db/json", nil)
	wants(t, text, `"Name":"/db"`, `"Image":"the-image"`, jobDir+"/conf:/conf:ro", `"/var/run/docker.sock:/var/run/docker.sock"`,
		`"Source":"`+jobDir+`/conf"`, `"HostPort":"8080"`, `"CgroupParent":""`, `"LogPath":""`)
	lacks(t, text, r.policy.Token, r.workspace, r.dir, "/var/lib/docker", "slipway.guard")

	job := r.job()
	_, text = r.do("GET", "/containers/"+job+"/json", nil)
	wants(t, text, `"Source":"`+jobDir+`"`)
	lacks(t, text, r.workspace, r.dir, "/var/lib/docker", LabelGuard)
}

func TestJobContainerIsSpared(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := r.job()
	r.own("db", "--network", "none", alpine, "true")
	all := strings.Fields(r.docker("ps", "-aq", "--no-trunc"))
	r.docker(append([]string{"rm", "-f"}, all...)...)
	r.docker("stop", "-t", "0", job)
	r.docker("kill", job)
	r.docker("container", "prune", "-f")
	if r.state(job) != "running" {
		t.Errorf("the job's container is %q", r.state(job))
	}
	if out := r.docker("ps", "-aq", "--no-trunc"); strings.TrimSpace(out) != job {
		t.Error(out)
	}
	if n := strings.Count(r.reports.String(), "is not removed"); n != 1 {
		t.Errorf("told %d times:\n%s", n, r.reports)
	}
	for _, args := range [][]string{{"pause", job}, {"restart", job}, {"rename", job, "x"}} {
		r.refused("job-container", args...)
	}
	lacks(t, r.calls.String(), job+"/pause", job+"/restart", job+"/rename", job+"/kill", job+"/stop", "DELETE /v1.41/containers/"+job)
	wants(t, r.docker("exec", job, "echo", "inside"), "inside")
	wants(t, r.docker("logs", job), "")
	wants(t, r.docker("top", job), "sleep")
}

func TestPruneRemovesOwnOnly(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	foreign := other.own("done", "--network", "none", alpine, "true")
	kept := r.own("kept", "--network", "none", "--label", "keep=1", alpine, "true")
	gone := r.own("gone", "--network", "none", alpine, "true")
	if out := r.docker("container", "prune", "-f", "--filter", "until=1h"); strings.Contains(out, gone) {
		t.Error(out)
	}
	out := r.docker("container", "prune", "-f", "--filter", "label!=keep=1")
	wants(t, out, gone)
	// The attack of facts/guard.md 0.2: a form's fields win over the query on the Engine.
	for _, form := range [][]string{
		{"filters=%7B%22label%22%3A%5B%22slipway.test.guard%22%5D%7D", "application/x-www-form-urlencoded"},
		{"--x\r\nContent-Disposition: form-data; name=\"filters\"\r\n\r\n{\"label\":[\"slipway.test.guard\"]}\r\n--x--\r\n", "multipart/form-data; boundary=x"},
	} {
		status, text := r.do("POST", "/containers/prune?filters=%7B%22label%22%3A%7B%22none%22%3Atrue%7D%7D", form[0], "Content-Type", form[1])
		if status != http.StatusForbidden {
			t.Errorf("%d %s", status, text)
		}
	}
	if r.state(gone) != "" || r.state(kept) != "created" || r.state(foreign) != "created" {
		t.Errorf("gone %q, kept %q, foreign %q", r.state(gone), r.state(kept), r.state(foreign))
	}
	lacks(t, r.calls.String(), "prune")
}

func TestCleanUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := r.job()
	running, paused := r.sleeper("run", "--volume", "/anonymous"), r.sleeper("paused")
	r.docker("pause", paused)
	network := strings.TrimSpace(r.host("network", "create", "--label", LabelGuard+"="+r.policy.Token, r.policy.prefix()+"net"))
	r.objects.addNetwork(networkRecord{ID: network, Name: "net"})
	r.host("network", "connect", network, job)
	visitor := strings.TrimSpace(r.host("run", "--detach", "--network", network, alpine, "sleep", "600"))
	t.Cleanup(func() { r.host("rm", "--force", visitor) })
	volume := strings.TrimSpace(r.host("volume", "create", "--label", LabelGuard+"="+r.policy.Token, r.policy.prefix()+"data"))
	r.objects.addVolume(volume)
	// Not on record: its creation was seen by nobody.
	lost := strings.TrimSpace(r.host("create", "--name", r.policy.prefix()+"lost", "--label", LabelGuard+"="+r.policy.Token, "--volume", volume+":/data", alpine, "true"))
	// Somebody else's, of an image that has our label.
	foreign := strings.TrimSpace(r.host("create", "--label", LabelGuard+"="+r.policy.Token, alpine, "true"))
	start := time.Now()
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > patience {
		t.Errorf("it took %s", d)
	}
	for _, id := range []string{running, paused, lost} {
		if r.state(id) != "" {
			t.Errorf("%s is there", id)
		}
	}
	if r.state(job) != "running" || r.state(visitor) != "running" || r.state(foreign) == "" {
		t.Error("the job's container is gone, or somebody else's")
	}
	if _, err := os.Stat(r.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the guard's folder is there: %v", err)
	}
	r.host("rm", foreign)
	wants(t, r.reports.String(), "removed what the job left: 3 containers, 1 network, 1 volume")
}

func TestSweep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dead := fmt.Sprintf("dead-%s", r.policy.Token)
	create := func(name string) string {
		return strings.TrimSpace(r.host("create", "--name", name, "--label", LabelGuard+"=0123", "--label", "slipway.test.instance="+dead, alpine, "true"))
	}
	id := create(namePrefix("0123") + dead)
	// Somebody else's, of an image that has our labels.
	foreign := create("web-" + dead)
	t.Cleanup(func() { r.host("rm", foreign) })
	alive := r.own("alive", "--network", "none", alpine, "true")
	err := Sweep(t.Context(), r.recorder(), func(labels map[string]string) bool { return labels["slipway.test.instance"] == dead }, r.log)
	if err != nil {
		t.Fatal(err)
	}
	if r.state(id) != "" || r.state(alive) != "created" || r.state(foreign) != "created" {
		t.Errorf("dead %q, alive %q", r.state(id), r.state(alive))
	}
}

// TestLifeRefused has one call per rule, and the honest call beside it.
func TestLifeRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.sleeper("db")
	before := r.calls.String()
	for _, c := range []struct{ method, target, rule string }{
		{"GET", "/containers/db/attach/ws?stream=1", "attach-ws"},
		{"GET", "/containers/db/top?ps_args=-eo+ppid%3DPID,args", "top-args"},
		{"GET", "/containers/db/top?ps_args=aux%3Bid", "top-args"},
		{"GET", "/containers/db/top?ps_args=-eo+args,pid", "top-args"},
		{"GET", "/containers/db/top?ps_args=f+e+-p+1+-o+args,etime,pid", "top-args"},
		{"GET", "/containers/db/top?ps_args=-O+args+-o+pid", "top-args"},
		{"GET", "/containers/db/top?ps_args=--format+args,pid", "top-args"},
		{"GET", "/containers/db/top?ps_args=-C+init+-o+pid", "top-args"},
		{"DELETE", "/containers/db?link=1", "legacy-link"},
	} {
		status, text := r.do(c.method, c.target, nil)
		if status != http.StatusForbidden || !strings.Contains(text, "denied by slipway ["+c.rule+"]") {
			t.Errorf("%s %s: %d %s", c.method, c.target, status, text)
		}
	}
	if after := r.calls.String(); after != before {
		t.Errorf("these reached the Engine:\n%s", strings.TrimPrefix(after, before))
	}
	for _, target := range []string{
		"/containers/db/top", "/containers/db/top?ps_args=-eo+pid,comm", "/containers/db/top?ps_args=aux", "/containers/db/top?ps_args=-ef",
		"/containers/db/top?ps_args=axo+pid,args", "/containers/db/top?ps_args=-e+-o+pid,ppid,comm", "/containers/db/top?ps_args=auxww",
	} {
		if status, text := r.do("GET", target, nil); status != http.StatusOK || !strings.Contains(text, "sleep") {
			t.Errorf("%s: %d %s", target, status, text)
		}
	}
	if status, text := r.do("POST", "/containers/"+id+"/resize?h=x&w=1", nil); status != http.StatusBadRequest {
		t.Errorf("%d %s", status, text)
	}
	if r.state(id) != "running" {
		t.Error(r.state(id))
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.own("tty", "--tty", "--interactive", "--network", "none", "--entrypoint", "sh", alpine)
	r.docker("start", "tty")
	if status, text := r.do("POST", "/containers/"+id+"/resize?h=11&w=77", nil); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	answers := []string{"101 UPGRADED", "11 77"}
	out := r.send(request("POST /v1.41/containers/"+id+"/attach?stream=1&stdin=1&stdout=1 HTTP/1.1", "Connection: Upgrade", "Upgrade: tcp", "Content-Length: 0")+"stty size; exit 3\n", answers...)
	wants(t, out, answers...)
	if out := r.docker("wait", "tty"); strings.TrimSpace(out) != "3" {
		t.Error(out)
	}
}
