package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/script"
)

// Account is the user of this machine whom jobs without a container run as.
type Account struct {
	Name, Home string
	UID, GID   int
	Groups     []uint32
	Other      bool // not this process's own user: only root can become it
}

// FindAccount looks a user up; "" is this process's own. The error is a *job.Error with a hint.
func FindAccount(name string) (Account, error) {
	look := func() (*user.User, error) { return user.Lookup(name) }
	if name == "" {
		look = user.Current
	}
	u, err := look()
	if err != nil {
		return Account{}, configurationError("make the user with useradd, or correct user of [[runners]]", "the user of the shell executor: %w", err)
	}
	a := Account{Name: u.Username, Home: u.HomeDir}
	var uidErr, gidErr error
	a.UID, uidErr = strconv.Atoi(u.Uid)
	a.GID, gidErr = strconv.Atoi(u.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return Account{}, fmt.Errorf("the user %s: %w", name, err)
	}
	if a.Other = a.UID != os.Geteuid(); !a.Other {
		if home, err := os.UserHomeDir(); err == nil {
			a.Home = home
		}
		return a, nil
	}
	if os.Geteuid() != 0 {
		return Account{}, configurationError("leave user out, or run slipway as root", "only root can run jobs as the user %s, and slipway runs as another", a.Name)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return Account{}, fmt.Errorf("the groups of the user %s: %w", a.Name, err)
	}
	for _, g := range groups {
		id, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return Account{}, fmt.Errorf("the groups of the user %s: %w", a.Name, err)
		}
		a.Groups = append(a.Groups, uint32(id))
	}
	return a, nil
}

// jobMark is the variable by which the processes of a job are known, wherever they went. Its value is the instance's and the
// job's.
const jobMark = "SLIPWAY_JOB"

// hostPlace is this machine as the place of a job's processes.
type hostPlace struct {
	account Account
	shell   string   // bash or sh
	env     []string // the job's
	mark    string   // value of jobMark
	log     *slog.Logger

	how error // how the shell ended

	mu      sync.Mutex
	leaders []leader // of the sessions that were begun for the job
	cleared bool     // no more are
}

// leader is the first process of a session.
type leader struct {
	pid      int
	born     string // when, as /proc tells it
	terminal bool   // somebody's, not the job's shell
}

// lives reports whether the leader is there: once nothing of its session is left, its number may be another process's.
func (l leader) lives() bool { return bornAt(l.pid) == l.born }

// outputAfterEnd is how long what the shell printed may take to arrive once it has ended: a process that it left holds the pipes.
const outputAfterEnd = time.Second

// start implements place.
//
// GitLab: a login shell, so that the profile of the user counts; as another user with nothing of the runner's environment.
func (h *hostPlace) start(_ context.Context, stdout, stderr io.Writer) (*shell, error) {
	cmd := exec.Command(h.shell, "-l")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = stdout, stderr, outputAfterEnd
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := h.begin(cmd, false); err != nil {
		return nil, err
	}
	sh := &shell{in, make(chan struct{})}
	go func() {
		defer close(sh.ended)
		h.how = cmd.Wait()
	}()
	return sh, nil
}

// begin starts a command as a process of the job, in a session of its own; on a terminal, the command's stdin is that.
func (h *hostPlace) begin(cmd *exec.Cmd, terminal bool) error {
	cmd.Dir = "/"
	cmd.Env = append(h.base(), h.env...)
	if terminal {
		cmd.Env = append(cmd.Env, "TERM=xterm")
	}
	cmd.Env = append(cmd.Env, jobMark+"="+h.mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: terminal}
	if a := h.account; a.Other {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.UID), Gid: uint32(a.GID), Groups: a.Groups}
	}
	h.mu.Lock() // until it can be found: nobody clears the place meanwhile
	defer h.mu.Unlock()
	if h.cleared {
		return errors.New("the job is over")
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", h.shell, err)
	}
	h.leaders = append(h.leaders, leader{cmd.Process.Pid, bornAt(cmd.Process.Pid), terminal})
	return nil
}

// withheldFromJobs are variables that tell a program what systemd wants of this process.
var withheldFromJobs = []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "INVOCATION_ID", "JOURNAL_STREAM", jobMark}

// base is the environment that a job's comes on top of.
func (h *hostPlace) base() []string {
	var env []string
	if h.account.Other {
		env = []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"}
		for _, name := range []string{"LANG", "LC_ALL", "TZ"} {
			if v, ok := os.LookupEnv(name); ok {
				env = append(env, name+"="+v)
			}
		}
	} else {
		env = slices.DeleteFunc(os.Environ(), func(e string) bool {
			name, _, _ := strings.Cut(e, "=")
			return slices.Contains(withheldFromJobs, name)
		})
	}
	return append(env, "HOME="+h.account.Home, "USER="+h.account.Name, "LOGNAME="+h.account.Name, "SHELL="+h.shell)
}

// line implements place.
func (h *hostPlace) line(path, nonce string) string { return script.RunInside(path, nonce) }

// scriptEnd implements place.
//
// GitLab: the shell executor calls it the exit status.
func (h *hostPlace) scriptEnd(_ context.Context, code int) error {
	if code == 0 {
		return nil
	}
	return &job.Error{Reason: job.ScriptFailure, ExitCode: code, Err: fmt.Errorf("exit status %d", code)}
}

// shellEnd implements place.
func (h *hostPlace) shellEnd(context.Context) error {
	var exit *exec.ExitError
	code := 0
	if errors.As(h.how, &exit) {
		code = exit.ExitCode()
		if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			code = signaled + int(st.Signal())
		}
	}
	return &job.Error{
		Reason: job.ScriptFailure, ExitCode: max(code, 1), Err: errors.New("the shell ended before the script did"),
		Hint: "look at /etc/profile and the profile of the user " + h.account.Name + ": they must not end the shell; nor must the job kill it",
	}
}

// readable implements place: who has given files to another user can read them.
func (h *hostPlace) readable(context.Context, *session, ...string) error { return nil }

// terminate implements place. Shells that people type at do not heed TERM, and end when they are hung up.
func (h *hostPlace) terminate(ctx context.Context) bool {
	for _, pid := range h.processes(false) {
		_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended
	}
	for _, l := range h.begun() {
		if l.terminal && l.lives() {
			_ = syscall.Kill(l.pid, syscall.SIGHUP)
		}
	}
	for tick := time.Tick(killEvery); len(h.processes(false)) > 0; {
		select {
		case <-tick:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// kill implements place.
func (h *hostPlace) kill(ctx context.Context) error {
	return killAll(ctx, func() []int { return h.processes(true) })
}

// clear implements place: what the job started and left ends.
func (h *hostPlace) clear(ctx context.Context, s *session, _ ...string) {
	h.mu.Lock()
	h.cleared = true
	h.mu.Unlock()
	if err := h.kill(ctx); err != nil {
		h.log.Warn("processes of a job are still there", "error", err)
	}
	s.close()
}

// begun are the leaders of the job's sessions.
func (h *hostPlace) begun() []leader {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.leaders)
}

// processes are those of the job that live: they have its mark in their environment, or are in a session that was begun for it. Its
// shell itself is among them if that is asked for.
func (h *hostPlace) processes(shell bool) []int {
	sessions, own := map[int]leader{}, 0
	for _, l := range h.begun() {
		if sessions[l.pid] = l; !l.terminal {
			own = l.pid
		}
	}
	return processes(func(pid int) bool {
		return (shell || pid != own) && (hasMark(pid, h.mark) || isIn(sessions, pid))
	})
}

// isIn reports whether a process is in one of the sessions, and not in a later one of the same number: no process gets that number
// while somebody is in the session.
func isIn(sessions map[int]leader, pid int) bool {
	l, ok := sessions[sessionOf(pid)]
	return ok && (l.lives() || bornAt(l.pid) == "")
}

// forget is called when a leader has ended: once nothing of its session is left, its number may be another's soon.
func (h *hostPlace) forget(pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if left := processes(func(p int) bool { return sessionOf(p) == pid }); len(left) == 0 {
		h.leaders = slices.DeleteFunc(h.leaders, func(l leader) bool { return l.pid == pid })
	}
}

// killEvery is how long to wait between looks at what is left of a job.
const killEvery = 20 * time.Millisecond

// killAll kills until nothing is left: a process may have made another one meanwhile.
func killAll(ctx context.Context, find func() []int) error {
	for tick := time.Tick(killEvery); ; {
		left := find()
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end", left)
		}
	}
}

// SweepProcesses ends what jobs of an earlier run of the instance left on this machine.
func SweepProcesses(ctx context.Context, instance string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanUpTimeout)
	defer cancel()
	return killAll(ctx, func() []int {
		return processes(func(pid int) bool { return hasMark(pid, instance+"-") })
	})
}

// processes are the live ones of this machine for which is holds.
func processes(is func(pid int) bool) (out []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && pid != os.Getpid() && is(pid) && alive(pid) {
			out = append(out, pid)
		}
	}
	return out
}

// hasMark reports whether a process was started with a value of jobMark that begins so.
func hasMark(pid int, value string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	want := []byte(jobMark + "=" + value)
	return bytes.HasPrefix(env, want) || bytes.Contains(env, append([]byte{0}, want...))
}

// stat is what /proc says of a process after its name, which may hold anything; nil if it is gone.
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
}

func sessionOf(pid int) int {
	f := stat(pid)
	if len(f) < 4 {
		return 0
	}
	id, _ := strconv.Atoi(f[3])
	return id
}

// bornAt is when a process was started, in ticks of the machine's clock; "" if it is gone. See proc(5).
func bornAt(pid int) string {
	const starttime = 22 - 3 // the third field is the first after the name
	if f := stat(pid); len(f) > starttime {
		return f[starttime]
	}
	return ""
}

// alive: dead ones that nobody has buried do not count.
func alive(pid int) bool {
	f := stat(pid)
	return len(f) > 0 && f[0] != "Z" && f[0] != "X"
}
