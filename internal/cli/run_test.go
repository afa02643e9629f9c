package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
)

// An Engine and a server that are away: a runner that waits.
const waitingConfig = `concurrent = 1
[[runners]]
  name = "waiting"
  url = "http://127.0.0.1:1"
  token = "glrt-t1_aaaaaaaaaaaaaaaaaaaa"
  executor = "docker"
  [runners.docker]
    host = "unix:///nowhere/docker.sock"
    image = "alpine"
`

// TestRunReload edits the config of a running slipway: a broken one is refused with its place, the next good one taken.
func TestRunReload(t *testing.T) {
	t.Parallel()
	p := startRun(t)
	p.expect("starting")
	p.edit("concurrent = 2\n[[runners]]\n  token = \"glrt-t1_aaaaaaaaaaaaaaaaaaaa\"\n  executor = \"docker\"\n")
	p.signal(syscall.SIGHUP)
	p.expect("the new config is not used, the old one stays: " + p.config + ":2: runners.url: is missing")
	p.edit("concurrent = 2\nconcurent = 3\n")
	p.expect("concurent") // the warning, with no signal: the change was noticed
	p.expect("read the config again")
	p.expect("runners=0 concurrent=2")
	p.edit("concurrent = 3\nlisten_address = \"127.0.0.1:0\"\n")
	p.expect("listen_address has changed, which takes effect when slipway is started again")
	p.expect("runners=0 concurrent=3")
	p.signal(syscall.SIGQUIT)
	p.expect("told to quit")
	p.ends(exitOK)
}

// TestRunTwice: who starts slipway once more hears of the first one, not of what that has taken.
func TestRunTwice(t *testing.T) {
	t.Parallel()
	p := startRun(t, "--listen-address", "127.0.0.1:0")
	p.expect("address=")
	address, _, _ := strings.Cut(p.rest, "\n")
	p.expect("starting")
	p.expect("reach the Docker Engine") // it has its state folder
	again := exec.Command("slipway", "run", "--config", p.config, "--listen-address", strings.TrimSpace(address))
	again.Env = p.cmd.Env
	out, err := again.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another Slipway uses this state folder") || !strings.Contains(string(out), "hint: stop the other one") {
		t.Errorf("%v\n%s", err, out)
	}
	p.signal(syscall.SIGTERM)
	p.ends(exitOK)
}

func TestRunStop(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			p := startRun(t, "--user", "gitlab-runner", "--service", "gitlab-runner", "--syslog", "--listen-address", "127.0.0.1:0")
			p.expect("--syslog is ignored")
			p.expect("serving metrics and health")
			p.expect("starting")
			p.signal(sig)
			p.expect("told to stop")
			p.ends(exitOK)
		})
	}
}

// process is a slipway run and what it logs.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	config string
	log    *bufio.Reader
	seen   strings.Builder
	rest   string // of the line that was read last
}

func startRun(t *testing.T, args ...string) *process {
	t.Helper()
	p := prepareRun(t, args...)
	p.begin()
	return p
}

func prepareRun(t *testing.T, args ...string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{t: t, config: filepath.Join(dir, "config.toml")}
	p.edit(waitingConfig)
	p.cmd = exec.Command("slipway", append([]string{"run", "--config", p.config}, args...)...)
	p.cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	return p
}

func (p *process) begin() {
	p.t.Helper()
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.log = bufio.NewReader(stderr)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	kill := time.AfterFunc(10*time.Minute, func() { _ = p.cmd.Process.Kill() })
	p.t.Cleanup(func() { kill.Stop() })
}

// edit replaces the config, as editors do.
func (p *process) edit(text string) {
	p.t.Helper()
	temp := p.config + ".new"
	if err := errors.Join(os.WriteFile(temp, []byte(text), 0o600), os.Rename(temp, p.config)); err != nil {
		p.t.Error(err)
	}
}

func (p *process) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// expect reads the log until it shows text.
func (p *process) expect(text string) {
	p.t.Helper()
	for {
		if _, after, ok := strings.Cut(p.rest, text); ok {
			p.rest = after
			return
		}
		line, err := p.log.ReadString('\n')
		p.seen.WriteString(line)
		p.rest = line
		if err != nil {
			p.t.Fatalf("no %q in the log: %v\n%s", text, err, p.seen.String())
		}
	}
}

func (p *process) ends(code int) {
	p.t.Helper()
	if _, err := io.Copy(&p.seen, p.log); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait() // its exit code is looked at below
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("exit code %d, want %d\n%s", got, code, p.seen.String())
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		signals []os.Signal
		want    []string
	}{
		{"finish", []os.Signal{syscall.SIGQUIT}, []string{"drain"}},
		{"reload twice", []os.Signal{syscall.SIGHUP, syscall.SIGHUP}, []string{"reload", "reload"}},
		{"abort, then at once", []os.Signal{syscall.SIGTERM, os.Interrupt}, []string{"abort terminated", "exit interrupt"}},
		{"finish, then abort, then at once", []os.Signal{syscall.SIGQUIT, os.Interrupt, syscall.SIGHUP, syscall.SIGTERM}, []string{"drain", "abort interrupt", "reload", "exit terminated"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			signals, done := make(chan os.Signal), make(chan struct{})
			var got []string
			note := func(what string) func() { return func() { got = append(got, what) } }
			noteSignal := func(what string) func(os.Signal) {
				return func(sig os.Signal) { got = append(got, what+" "+sig.String()) }
			}
			go func() {
				defer close(done)
				signalActions{drain: note("drain"), reload: note("reload"), abort: noteSignal("abort"), exit: noteSignal("exit")}.handle(ctx, signals)
			}()
			for _, sig := range tc.signals {
				signals <- sig
			}
			cancel()
			<-done
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestControl: a signal that comes before the manager is there is not lost.
func TestControl(t *testing.T) {
	t.Parallel()
	var early, late control
	var m fakeManager
	early.drain()
	early.reload(&config.Config{})
	early.attach(&m)
	if want := (fakeManager{drained: 1}); m != want {
		t.Errorf("before: got %+v, want %+v", m, want)
	}
	m = fakeManager{}
	late.attach(&m)
	late.reload(&config.Config{})
	late.drain()
	if want := (fakeManager{drained: 1, reloaded: 1}); m != want {
		t.Errorf("after: got %+v, want %+v", m, want)
	}
}

type fakeManager struct{ drained, reloaded int }

func (m *fakeManager) Drain()                { m.drained++ }
func (m *fakeManager) Reload(*config.Config) { m.reloaded++ }

func TestLogLevel(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, file string
		flags      globalFlags
		want       slog.Level
	}{
		{"default", "", globalFlags{}, slog.LevelInfo},
		{"config", "warning", globalFlags{}, slog.LevelWarn},
		{"flag wins", "warning", globalFlags{logLevel: "ERROR"}, slog.LevelError},
		{"debug wins", "warning", globalFlags{logLevel: "error", debug: true}, slog.LevelDebug},
		{"GitLab's panic", "panic", globalFlags{}, slog.LevelError},
		{"GitLab's trace", "", globalFlags{logLevel: "trace"}, slog.LevelDebug},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := &app{global: tc.flags, stderr: io.Discard}
			_, level, err := a.logger(tc.file, "")
			if err != nil || level.Level() != tc.want {
				t.Errorf("got %v, %v, want %v", level.Level(), err, tc.want)
			}
		})
	}
}
