package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// countGoroutines makes the command print at each SIGUSR1 how many goroutines it has.
func countGoroutines(w io.Writer) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	for range ch {
		fmt.Fprintf(w, "goroutines: %d\n", runtime.NumGoroutine())
	}
}

// signal sends the process a signal.
func (r *rig) signal(sig os.Signal) {
	r.t.Helper()
	if err := r.process.Process.Signal(sig); err != nil {
		r.t.Fatal(err)
	}
}

// exit waits for the process to end by itself and returns its exit code.
func (r *rig) exit() int {
	r.t.Helper()
	late := time.AfterFunc(patience, func() { _ = r.process.Process.Kill() })
	_ = r.process.Wait()
	if !late.Stop() {
		r.t.Fatalf("slipway does not end within %s:\n%s", patience, r.log)
	}
	code := r.process.ProcessState.ExitCode()
	r.process = nil
	lacks(r.t, r.log.String(), "DATA RACE", "panic:")
	return code
}

// logged waits until Slipway's own log has all the texts.
func (r *rig) logged(texts ...string) {
	r.t.Helper()
	for _, text := range texts {
		r.eventually("slipway's log has "+text, func() bool { return strings.Contains(r.log.String(), text) })
	}
}

// once fails the test unless the text is there exactly once.
func once(t *testing.T, log, text string) {
	t.Helper()
	if n := strings.Count(log, text); n != 1 {
		t.Errorf("the log has %d times %q:\n%s", n, text, log)
	}
}

// writeOwn makes the rig's config another one, of which a slipway that runs never sees a part.
func (r *rig) writeOwn(text string) {
	r.t.Helper()
	written := r.configPath() + ".new"
	if err := errors.Join(os.WriteFile(written, []byte(text), 0o600), os.Rename(written, r.configPath())); err != nil {
		r.t.Fatal(err)
	}
}

// readOwn is the rig's config.
func (r *rig) readOwn() string {
	r.t.Helper()
	b, err := os.ReadFile(r.configPath())
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// concurrent is how many jobs may run at once.
func concurrent(n int) option {
	return func(r *rig) {
		r.global = strings.Replace(r.global, "concurrent = 4", fmt.Sprintf("concurrent = %d", n), 1)
	}
}

// An ordinary user: nobody, in the group that may use the Engine.
const nobody = 65534

// ordinaryUser makes Slipway run as a user who cannot remove what root wrote.
func ordinaryUser(t *testing.T) option {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	socket, err := os.Stat("/var/run/docker.sock")
	if err != nil {
		t.Skip(err)
	}
	return func(r *rig) {
		binary := filepath.Join(r.dir, "slipway")
		r.command = func(args ...string) *exec.Cmd {
			// The folders of the test binary and of tests are root's alone.
			if out, err := exec.Command("cp", os.Args[0], binary).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for _, path := range []string{filepath.Dir(r.dir), r.dir, binary, r.configPath()} {
				if err := os.Chown(path, nobody, nobody); err != nil {
					t.Fatal(err)
				}
			}
			cmd := slipway(args...)
			cmd.Path = binary
			cmd.Env = append(cmd.Env, "HOME="+r.dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{
				Uid: nobody, Gid: nobody, Groups: []uint32{socket.Sys().(*syscall.Stat_t).Gid},
			}}
			return cmd
		}
	}
}
