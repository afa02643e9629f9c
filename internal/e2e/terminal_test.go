package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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

// screen is a terminal as somebody sees it.
type screen struct {
	t    *testing.T
	conn *websocket.Conn
	seen bytes.Buffer
}

// enter opens a job's terminal.
func (r *rig) enter(j *coordinator.Job) *screen {
	r.t.Helper()
	s := &screen{t: r.t}
	r.eventually("the terminal is free", func() bool {
		var status int
		if s.conn, status = enter(r.t, j.Door(), j.Door().Authorization); s.conn == nil && status != http.StatusLocked {
			r.t.Fatalf("not let in: %d", status)
		}
		return s.conn != nil // whoever was there has gone, which the server may not know yet
	})
	return s
}

func (s *screen) types(keys string) {
	s.t.Helper()
	if err := s.conn.Write(s.t.Context(), websocket.MessageBinary, []byte(keys)); err != nil {
		s.t.Fatal(err)
	}
}

// expect reads until a text was shown.
func (s *screen) expect(text string) {
	s.t.Helper()
	for !strings.Contains(s.seen.String(), text) {
		if err := s.read(); err != nil {
			s.t.Fatalf("%v; on the terminal:\n%s", err, s.seen.String())
		}
	}
}

// ends reads until the terminal has ended.
func (s *screen) ends() {
	s.t.Helper()
	for {
		if err := s.read(); errors.Is(err, context.DeadlineExceeded) {
			s.t.Fatalf("the terminal goes on:\n%s", s.seen.String())
		} else if err != nil {
			return
		}
	}
}

func (s *screen) read() error {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	_, b, err := s.conn.Read(ctx)
	s.seen.Write(b)
	return err
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
	s := r.enter(j)
	if _, status := enter(t, d, d.Authorization); status != http.StatusLocked {
		t.Errorf("a second one: %d", status)
	}
	s.types("test -s /tmp/here && echo typed >/tmp/from-the-terminal; pwd; tty; echo \"$GREETING, $((6*7)).\"\n")
	s.expect("hello from the job, 42.")
	wants(t, s.seen.String(), "/builds/group/demo", "/dev/pts/")
	r.tell(j)
	r.until(j, "Terminal is connected, will time out in 1h0m0s...")
	if state := j.State(); state != job.Running {
		t.Errorf("somebody is inside, and the job is %s", state)
	}
	s.types("exit\n")
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
	s = r.enter(j)
	j.Cancel(false)
	if o, log := r.end(j); o.State == job.Success {
		t.Errorf("%+v:\n%s", o, log)
	}
	s.ends()
	// Nor need the container be killed for that.
	const age = "in a container from $(cut -d ' ' -f 22 /proc/1/stat)."
	j = r.enqueue(withAfter(spec(ticking, "echo begun "+age+"; sleep 300"), "echo after "+age))
	r.until(j, "\nbegun in ")
	s = r.enter(j)
	s.types("sleep 301; echo $((6*7)).\n")
	s.expect("sleep 301")
	j.Cancel(true)
	o, log := r.end(j)
	_, rest, _ := strings.Cut(log, "\nbegun ")
	if where, _, _ := strings.Cut(rest, "\n"); o.State != coordinator.Canceled || !strings.Contains(log, "\nafter "+where+"\n") {
		t.Errorf("%+v:\n%s", o, log)
	}
	s.ends()
}

// TestWebTerminalClosesFirst: nobody gets in once the job is over, also while GitLab cannot be told of that.
func TestWebTerminalClosesFirst(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]option{"container": func(*rig) {}, "shell": inShell("")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, o, globalKeys("[session_server]\n  listen_address = \"127.0.0.1:0\""))
			tell := r.Inject(coordinator.Fault{Endpoint: coordinator.UpdateJob, State: job.Success, Status: http.StatusBadGateway, Times: -1})
			j := r.enqueue(spec("true"))
			r.until(j, "Job succeeded")
			r.eventually("the door is shut", func() bool {
				_, status := enter(t, j.Door(), j.Door().Authorization)
				return status == http.StatusNotFound
			})
			if state := j.State(); state != job.Running {
				t.Errorf("the job is %s", state)
			}
			tell()
			if o, log := r.end(j); o.State != job.Success {
				t.Errorf("%+v:\n%s", o, log)
			}
		})
	}
}

// TestWebTerminalOfShellJob: the same in a job without a container, as the job's user. Nothing that is begun there outlives the job.
func TestWebTerminalOfShellJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, inShell("nobody"), globalKeys("[session_server]\n  listen_address = \"127.0.0.1:0\"\n  session_timeout = 3600"))
	s := withVariables(spec("echo here >here; echo begun", untilTold, "cat from-the-terminal"), "GREETING", "it's\nthe job's", "PATH", "/usr/bin:/bin:/job")
	j := r.enqueue(s)
	other := r.enqueue(spec("echo begun", untilTold))
	r.until(j, "\nbegun\n")
	r.until(other, "\nbegun\n")
	in := r.enter(other)
	if _, status := enter(t, j.Door(), other.Door().Authorization); status != http.StatusUnauthorized {
		t.Errorf("with another job's password: %d", status)
	}
	in.types("touch go-on; exit\n")
	r.end(other)

	in = r.enter(j)
	if _, status := enter(t, j.Door(), j.Door().Authorization); status != http.StatusLocked {
		t.Errorf("a second one: %d", status)
	}
	in.types("id -un; tty; echo \"$GREETING\"; echo $PATH $HOME; cat here; echo to its name >$(tty); echo to the tty >/dev/tty; echo $((6*7)).\n")
	in.expect("\n42.")
	wants(t, in.seen.String(), "nobody\r\n/dev/pts/", "\nit's\r\nthe job's\r", "\n/usr/bin:/bin:/job /", "\nhere\r", "\nto its name\r", "\nto the tty\r")
	lacks(t, in.seen.String(), "no job control", "ermission denied")
	in.types(nap(31) + "\n")
	r.eventually("a command in the foreground", func() bool { return lives(nap(31)) })
	in.types("\x03")
	r.eventually("Ctrl-C reaches it", func() bool { return !lives(nap(31)) })

	// Who goes away leaves the place, and ends what is in the foreground; what else they began goes on.
	in.types("setsid " + nap(32) + " & env -i " + nap(33) + " & exec " + nap(34) + "\n")
	r.eventually("all of it", func() bool { return lives(nap(32)) && lives(nap(33)) && lives(nap(34)) })
	_ = in.conn.CloseNow()
	r.eventually("the shell is hung up", func() bool { return !lives(nap(34)) })
	if !lives(nap(32)) || !lives(nap(33)) {
		t.Error("nothing is left for the job's end")
	}
	in = r.enter(j)
	in.types("echo typed >from-the-terminal; touch go-on\n")
	r.until(j, "Terminal is connected, will time out in 1h0m0s...")
	if state := j.State(); state != job.Running {
		t.Errorf("somebody is inside, and the job is %s", state)
	}
	in.types("exit\n")
	if o, log := r.end(j); o.State != job.Success || !strings.Contains(log, "\ntyped\n") {
		t.Errorf("%+v:\n%s", o, log)
	}
	if lives(nap(32)) || lives(nap(33)) {
		t.Error("something is left")
	}
	if _, status := enter(t, j.Door(), j.Door().Authorization); status != http.StatusNotFound {
		t.Errorf("after the job: %d", status)
	}

	// Who is inside when a job is canceled is put out, and the job's own shell need not be killed for that.
	j = r.enqueue(withAfter(spec(ticking, "echo begun in $$.; "+nap(35)), "echo after in $$."))
	r.until(j, "\nbegun in ")
	in = r.enter(j)
	in.types(nap(36) + "\n")
	r.eventually("a command in the foreground", func() bool { return lives(nap(36)) })
	j.Cancel(true)
	o, log := r.end(j)
	_, rest, _ := strings.Cut(log, "\nbegun in ")
	if shell, _, _ := strings.Cut(rest, "\n"); o.State != coordinator.Canceled || !strings.Contains(log, "\nafter in "+shell+"\n") {
		t.Errorf("%+v:\n%s", o, log)
	}
	in.ends()
	if lives(nap(35)) || lives(nap(36)) {
		t.Error("something is left")
	}
}

// TestWebTerminalTimeout: who does not leave in time is put out, with all that they began.
func TestWebTerminalTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t, inShell(""), globalKeys("[session_server]\n  listen_address = \"127.0.0.1:0\"\n  session_timeout = 1"))
	j := r.enqueue(spec("echo begun", untilTold))
	r.until(j, "\nbegun\n")
	in := r.enter(j)
	in.types("trap '' HUP TERM; setsid " + nap(37) + " & " + nap(38) + " &\n")
	r.eventually("both", func() bool { return lives(nap(37)) && lives(nap(38)) })
	in.types("touch go-on\n")
	r.until(j, "Terminal is connected, will time out in 1s...")
	if o, log := r.end(j); o.State != job.Success {
		t.Errorf("%+v:\n%s", o, log)
	}
	in.ends()
	if lives(nap(37)) || lives(nap(38)) {
		t.Error("something is left")
	}
}
