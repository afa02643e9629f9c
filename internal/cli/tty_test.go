//go:build linux

package cli

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/coordinator"
)

const typedToken = "glrt-t1_typedtypedtypedtyped"

// TestTerminal types at register: the token is not shown, Ctrl-C and Ctrl-D write nothing and leave the terminal as it
// was.
func TestTerminal(t *testing.T) {
	t.Parallel()
	c := coordinator.New(coordinator.Options{LongPoll: -1})
	c.AddRunner(coordinator.Runner{Token: typedToken})
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)

	asked := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server notices when the client leaves
		close(asked)
		<-r.Context().Done()
	}))
	t.Cleanup(silent.Close)

	const url, token = "URL of the GitLab server", "token of the runner"
	for _, tc := range []struct {
		name  string
		types func(*keyboard)
		code  int
		shown string
	}{
		{"everything", func(tt *keyboard) {
			tt.answer(url, srv.URL+"\n")
			tt.answerUnseen(token, "x\x15"+typedToken+"y\x7f\r")
			tt.answer("name of this runner", "typed\n")
			tt.answer("executor [docker]", "\n")
			tt.answer("image", "\n")
		}, 0, `registered runner "typed"`},
		{"Ctrl-C at a question", func(tt *keyboard) { tt.answer(url, "\x03") }, exitInterrupted, "error: interrupted"},
		{"Ctrl-C at the token", func(tt *keyboard) {
			tt.answer(url, srv.URL+"\n")
			tt.answerUnseen(token, "\x03")
		}, exitInterrupted, "error: interrupted"},
		{"Ctrl-C while the server is asked", func(tt *keyboard) {
			tt.answer(url, silent.URL+"\n")
			tt.answerUnseen(token, typedToken+"\r")
			<-asked
			tt.press("\x03")
		}, exitInterrupted, "error: interrupted"},
		{"Ctrl-D at a question", func(tt *keyboard) { tt.answer(url, "\x04") }, exitFailure, "nothing was written"},
		{"Ctrl-D at the token", func(tt *keyboard) {
			tt.answer(url, srv.URL+"\n")
			tt.answerUnseen(token, "\x04")
		}, exitFailure, "nothing was written"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			tt := startOnTerminal(t, home, "register")
			tc.types(tt)
			if code := tt.wait(); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if !strings.Contains(tt.seen.String(), tc.shown) {
				t.Errorf("does not show %q", tc.shown)
			}
			if strings.Contains(tt.seen.String(), "typedtyped") {
				t.Error("shows the token")
			}
			if !tt.echoes() {
				t.Error("the terminal does not show what is typed any more")
			}
			_, err := os.Stat(filepath.Join(home, ".config/slipway/config.toml"))
			if wrote := err == nil; wrote != (tc.code == 0) {
				t.Errorf("wrote a config: %t", wrote)
			}
			if t.Failed() {
				t.Logf("terminal:\n%s", tt.seen.String())
			}
		})
	}
}

// keyboard is a program on a terminal, seen from the keyboard.
type keyboard struct {
	t    *testing.T
	cmd  *exec.Cmd
	pty  *os.File // keyboard and screen
	tty  *os.File // the program's side
	seen bytes.Buffer
	read int // how much of seen was expected already
}

func startOnTerminal(t *testing.T, home string, args ...string) *keyboard {
	t.Helper()
	keys, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { keys.Close() })
	t.Cleanup(func() { tty.Close() })
	cmd := exec.Command("slipway", args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { kill.Stop() })
	return &keyboard{t: t, cmd: cmd, pty: keys, tty: tty}
}

// answer waits for a question and types.
func (tt *keyboard) answer(question, keys string) {
	tt.t.Helper()
	tt.expect(question)
	tt.press(keys)
}

// answerUnseen is answer once the terminal does not show what is typed.
func (tt *keyboard) answerUnseen(question, keys string) {
	tt.t.Helper()
	tt.expect(question)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(5 * time.Minute)
	for tt.echoes() {
		select {
		case <-tick.C:
		case <-deadline:
			tt.t.Fatalf("the terminal still shows what is typed at %q", question)
		}
	}
	tt.press(keys)
}

func (tt *keyboard) press(keys string) {
	tt.t.Helper()
	if _, err := tt.pty.WriteString(keys); err != nil {
		tt.t.Fatal(err)
	}
}

// expect reads the screen until it shows text.
func (tt *keyboard) expect(text string) {
	tt.t.Helper()
	buf := make([]byte, 4096)
	for {
		if i := strings.Index(tt.seen.String()[tt.read:], text); i >= 0 {
			tt.read += i + len(text)
			return
		}
		n, err := tt.pty.Read(buf)
		tt.seen.Write(buf[:n])
		if err != nil {
			tt.t.Fatalf("no %q on the terminal: %v\n%s", text, err, tt.seen.String())
		}
	}
}

// wait reads the screen until the program has ended. This side keeps the terminal open, so that its end shows only as
// the end of the process.
func (tt *keyboard) wait() int {
	tt.t.Helper()
	err := tt.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tt.t.Fatal(err)
	}
	if _, err := tt.tty.WriteString("\x00the end"); err != nil {
		tt.t.Fatal(err)
	}
	tt.expect("\x00the end")
	return tt.cmd.ProcessState.ExitCode()
}

func (tt *keyboard) echoes() bool {
	tt.t.Helper()
	state, err := unix.IoctlGetTermios(int(tt.tty.Fd()), unix.TCGETS)
	if err != nil {
		tt.t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}
