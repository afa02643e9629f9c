package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// enter connects with a job's web terminal as GitLab does.
func enter(t *testing.T, d coordinator.Door, authorization string) (*websocket.Conn, int) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(d.Certificate))
	conn, resp, err := websocket.Dial(t.Context(), strings.Replace(d.URL, "https", "wss", 1)+"/exec", &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
		HTTPHeader:   http.Header{"Authorization": {authorization}},
		Subprotocols: []string{"terminal.gitlab.com"},
	})
	if resp == nil {
		t.Fatal(err)
	}
	return conn, resp.StatusCode
}

// TestWebTerminal: somebody gets a shell in a running job, and the job stays until they have gone.
func TestWebTerminal(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) {
		r.global += "[session_server]\n  listen_address = \"127.0.0.1:0\"\n  session_timeout = 3600\n"
	})
	j := r.enqueue(withVariables(spec("echo $$ >/tmp/here; echo begun", untilTold, "cat /tmp/from-the-terminal"), "GREETING", "hello from the job"))
	r.until(j, "\nbegun\n")
	d := j.Door()
	if _, status := enter(t, d, "guessed"); status != http.StatusUnauthorized {
		t.Errorf("without the password: %d", status)
	}
	conn, status := enter(t, d, d.Authorization)
	if conn == nil {
		t.Fatalf("not let in: %d", status)
	}
	if _, status := enter(t, d, d.Authorization); status != http.StatusLocked {
		t.Errorf("a second one: %d", status)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var seen bytes.Buffer
	expect := func(text string) {
		t.Helper()
		for !strings.Contains(seen.String(), text) {
			_, b, err := conn.Read(ctx)
			if err != nil {
				t.Fatalf("%v; on the terminal:\n%s", err, seen.String())
			}
			seen.Write(b)
		}
	}
	typed := func(keys string) {
		t.Helper()
		if err := conn.Write(ctx, websocket.MessageBinary, []byte(keys)); err != nil {
			t.Fatal(err)
		}
	}
	typed("pwd; tty; echo \"$GREETING, $((6*7)).\"; test -s /tmp/here && echo typed >/tmp/from-the-terminal\n")
	expect("hello from the job, 42.")
	wants(t, seen.String(), "/builds/group/demo", "/dev/pts/")
	r.tell(j)
	r.until(j, "Terminal is connected, will time out in 1h0m0s...")
	if s := j.State(); s != job.Running {
		t.Errorf("somebody is inside, and the job is %s", s)
	}
	typed("exit\n")
	if o, log := r.end(j); o.State != job.Success || !strings.Contains(log, "\ntyped\n") {
		t.Errorf("%+v:\n%s", o, log)
	}
	if _, status := enter(t, d, d.Authorization); status != http.StatusNotFound {
		t.Errorf("after the job: %d", status)
	}
	// Nobody inside: the job waits for nobody. One who is inside when a job is canceled is put out.
	r.must(job.Success, spec("true"))
	j = r.enqueue(spec("echo begun", "sleep 300"))
	r.until(j, "\nbegun\n")
	if conn, _ = enter(t, j.Door(), j.Door().Authorization); conn == nil {
		t.Fatal("not let in")
	}
	j.Cancel(false)
	if o, log := r.end(j); o.State == job.Success {
		t.Errorf("%+v:\n%s", o, log)
	}
	for {
		if _, _, err := conn.Read(ctx); err != nil {
			break
		}
	}
}
