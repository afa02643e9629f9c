package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRun is docker run as a whole: create, attach, wait, start, and the removal by the Engine.
func TestRun(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	out, err := r.tryIn("hello\n", "run", "--rm", "--interactive", "--name", "once", alpine, "sh", "-c", "cat; sleep 0.2; echo after; exit 5")
	if err == nil || out != "hello\nafter\n" || !strings.Contains(err.Error(), "status 5") {
		t.Errorf("%q %v", out, err)
	}
	// Its name is free again, at once and every time.
	for range 3 {
		if out := r.docker("run", "--rm", "--name", "once", alpine, "echo", "again"); out != "again\n" {
			t.Errorf("%q", out)
		}
	}
	if out := r.docker("ps", "-aq"); out != "" {
		t.Error(out)
	}
	r.docker("run", "--detach", "--name", "bound", "--volume", jobDir+":/work:ro", "--volume", "data:/data",
		"--volume", "/var/run/docker.sock:/var/run/docker.sock", alpine, "sleep", "600")
	if out := r.docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}/{{.NetworkSettings.Networks.bridge.IPAddress}}", "bound"); len(out) < 10 || strings.HasPrefix(out, "/") {
		t.Errorf("no address on the default network: %q", out)
	}
	_, text := r.do("GET", "/containers/bound/json", nil)
	wants(t, text, `"Source":"`+jobDir+`"`, `"Source":"/var/run/docker.sock"`, `"Name":"data"`, `"Image":"`+alpine+`"`)
	lacks(t, text, r.policy.Token, r.workspace, r.dir, LabelGuard)
	_, text = r.do("GET", "/containers/json", nil)
	wants(t, text, `"Source":"`+jobDir+`"`, `"Name":"data"`, `"Image":"`+alpine+`"`)
	lacks(t, text, r.policy.Token, r.workspace, r.dir, LabelGuard)
	if got := r.docker("ps", "-q", "--filter", "ancestor="+alpine, "--filter", "volume=data", "--filter", "volume=/work"); strings.TrimSpace(got) == "" {
		t.Error("the filters find nothing")
	}
	if got := r.docker("ps", "-q", "--filter", "ancestor=nosuch"); got != "" {
		t.Error(got)
	}
	if got := r.docker("ps", "-q", "--filter", "volume=nosuch"); got != "" {
		t.Error(got)
	}
	r.docker("rm", "--force", "--volumes", "bound")
	if out := r.docker("volume", "ls", "-q"); strings.TrimSpace(out) != "data" {
		t.Error(out)
	}
}

// TestRudeCreate: what a client made that is gone before the answer is on record, and goes with the job.
func TestRudeCreate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	body := `{"Image":"` + alpine + `","Cmd":["sleep","600"],"HostConfig":{"NetworkMode":"none"}}`
	for i := range 5 {
		conn, err := net.Dial("unix", r.Socket())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, request(fmt.Sprintf("POST /v1.41/containers/create?name=rude%d HTTP/1.1", i), "Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(body)))+body)
		time.Sleep(time.Duration(i) * time.Millisecond) // gone sooner and later
		conn.Close()
	}
	eventually(t, "the end of the calls", func() bool {
		made := strings.Fields(r.host("ps", "-aq", "--no-trunc", "--filter", "label="+LabelGuard+"="+r.policy.Token))
		for _, id := range made {
			if !r.objects.ownsContainer(id) {
				return false
			}
		}
		return strings.Count(r.calls.String(), "/containers/create") == len(made)
	})
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCloseWhileWorking closes the guard while clients make things as fast as they can: nothing is left.
func TestCloseWhileWorking(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stop := make(chan struct{})
	ended := make(chan struct{})
	for range 3 {
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = r.try("run", "--detach", alpine, "sleep", "600")
				}
			}
		}()
	}
	eventually(t, "some containers", func() bool { return strings.Count(r.calls.String(), "/start") >= 3 })
	start := time.Now()
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > patience {
		t.Errorf("it took %s", d)
	}
	close(stop)
	for range 3 {
		<-ended
	}
}

// heldConn lets a create wait on its way to the Engine, as one does that has much to do.
type heldConn struct {
	*net.UnixConn
	asked func()
	goOn  <-chan struct{}
}

func (c *heldConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("/containers/create?")) {
		c.asked()
		<-c.goOn
	}
	return c.UnixConn.Write(p)
}

// TestCloseWaitsForTheEngine: what the Engine makes only when the guard has removed what there was is gone, too, when the guard is closed.
func TestCloseWaitsForTheEngine(t *testing.T) {
	t.Parallel()
	asked, goOn := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(o *Options) {
		o.Dial = func(context.Context) (net.Conn, error) {
			conn, err := net.Dial("unix", strings.TrimPrefix(engineHost(), "unix://"))
			if err != nil {
				return nil, err
			}
			return &heldConn{conn.(*net.UnixConn), sync.OnceFunc(func() { close(asked) }), goOn}, nil
		}
	})
	body := fmt.Sprintf(`{"Image":%q,"Cmd":["sleep","600"],"HostConfig":{"NetworkMode":"none"}}`, alpine)
	conn, err := net.Dial("unix", r.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request("POST /v1.41/containers/create?name=late HTTP/1.1", "Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(body)))+body); err != nil {
		t.Fatal(err)
	}
	<-asked
	closed := make(chan error, 1)
	go func() { closed <- r.Close(context.Background()) }()
	eventually(t, "the guard does not wait any more", func() bool { return strings.Contains(r.audit.String(), "calls of the job are still at work") })
	select {
	case err := <-closed:
		t.Errorf("it is closed while the Engine is at work: %v", err)
	case <-time.After(time.Second):
	}
	close(goOn)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	r.leftovers()
}

// TestAuditLetsPass: what would be refused is done as it was asked, and told.
func TestAuditLetsPass(t *testing.T) {
	t.Parallel()
	heads := &lines{}
	r := newRig(t, func(o *Options) { o.Policy.Audit, o.Dial = true, teeDial(heads) })
	r.sleeper("db")
	_, _ = r.try("exec", "--privileged", "db", "true") // the machine may not be able to
	wants(t, heads.String(), `"Privileged":true`)
	if status, text := r.do("GET", "/plugins/privileges?remote=x", nil); status == http.StatusForbidden {
		t.Error(text)
	}
	wants(t, r.audit.String(), "would be denied", "exec-privileged", "group-refused")
	wants(t, r.reports.String(), "audit: would be denied by slipway [exec-privileged]")
}

// TestUnknownFieldsAreLeftOut: what the guard does not know never reaches the Engine.
func TestUnknownFieldsAreLeftOut(t *testing.T) {
	t.Parallel()
	heads := &lines{}
	r := newRig(t, func(o *Options) { o.Dial = teeDial(heads) })
	r.sleeper("db")
	status, text := r.do("POST", "/containers/db/exec?evil=1", `{"Cmd":["true"],"Evil":{"evil":true},"cmd2":1}`)
	if status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(text), &made); err != nil {
		t.Fatal(err)
	}
	if status, text := r.do("POST", "/exec/"+made.ID+"/start", `{"Detach":true,"evil":true}`); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	lacks(t, strings.ToLower(heads.String()), "evil", "cmd2")
}
