package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// otherRunner is a GitLab runner that serves a config file.
type otherRunner struct {
	pid       int // 0: it is about to be started
	unit      string
	container string // the ID of the container it runs in
	args      []string
}

// refuseBesides returns an error when GitLab's runner is using the config file: two runners with one token would
// share the jobs out by chance.
func (a *app) refuseBesides(ctx context.Context, path string, foreign bool) error {
	r, found := findRunner(a.host.proc, path)
	if !found && foreign && a.host.root {
		r, found = findUnit(ctx)
	}
	if !found {
		return nil
	}
	stop, start := r.commands()
	self := "slipway run"
	if a.global.config != "" {
		self += " --config " + shellWord(a.global.config)
	}
	return withHint(fmt.Errorf("%s is using %s", r, path),
		"to switch over: %s && %s\nto go back: stop slipway, then %s", stop, self, start)
}

func (r otherRunner) String() string {
	var facts []string
	if r.pid != 0 {
		facts = append(facts, fmt.Sprintf("process %d", r.pid))
	}
	if r.unit != "" {
		facts = append(facts, "unit "+r.unit)
	}
	if r.container != "" {
		facts = append(facts, "container "+r.container)
	}
	return fmt.Sprintf("gitlab-runner (%s)", strings.Join(facts, ", "))
}

// commands are those that stop the runner and that start it again.
func (r otherRunner) commands() (stop, start string) {
	switch {
	case r.unit != "":
		return "systemctl disable --now " + r.unit, "systemctl enable --now " + r.unit
	case r.container != "":
		return "docker stop " + r.container, "docker start " + r.container
	}
	words := make([]string, len(r.args))
	for i, w := range r.args {
		words[i] = shellWord(w)
	}
	// GitLab: its runner finishes its jobs on SIGQUIT.
	return fmt.Sprintf("kill -QUIT %d", r.pid), strings.Join(words, " ")
}

// findRunner looks for a process "gitlab-runner run" that uses the file at path.
func findRunner(proc, path string) (otherRunner, bool) {
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*")) // none on a system without /proc
	for _, dir := range dirs {
		args := readNul(filepath.Join(dir, "cmdline"))
		if len(args) < 2 || !slices.Contains([]string{"gitlab-runner", "gitlab-ci-multi-runner"}, filepath.Base(args[0])) ||
			!slices.Contains(args[1:], "run") || !serves(dir, args[1:], path) {
			continue
		}
		r := otherRunner{args: args}
		r.pid, _ = strconv.Atoi(filepath.Base(dir))
		r.unit, r.container = cgroupOf(proc, dir)
		return r, true
	}
	return otherRunner{}, false
}

// serves reports whether the process uses the file at path. It may live in a container: its paths are looked up
// from its own root folder.
func serves(dir string, args []string, path string) bool {
	theirs := configOf(dir, args)
	a, errA := os.Stat(filepath.Join(dir, "root", theirs))
	b, errB := os.Stat(path)
	if errA != nil || errB != nil {
		return theirs == path // another user's process does not show its root folder
	}
	return os.SameFile(a, b)
}

// configOf is the config file of a gitlab-runner process as that process names it.
func configOf(dir string, args []string) string {
	env := map[string]string{}
	for _, pair := range readNul(filepath.Join(dir, "environ")) {
		key, value, _ := strings.Cut(pair, "=")
		env[key] = value
	}
	path := cmp.Or(flagValue(args, "c", "config"), env["CONFIG_FILE"])
	switch {
	case path == "" && ownedByRoot(dir):
		return "/etc/gitlab-runner/config.toml"
	case path == "":
		return filepath.Join(env["HOME"], ".gitlab-runner/config.toml")
	case filepath.IsAbs(path):
		return path
	}
	cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
	return filepath.Join(cwd, path)
}

// flagValue finds -c FILE, --config FILE and --config=FILE; one dash or two are the same to gitlab-runner.
func flagValue(args []string, names ...string) string {
	for i, arg := range args {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case !strings.HasPrefix(arg, "-") || !slices.Contains(names, name):
		case joined:
			return value
		case i+1 < len(args):
			return args[i+1]
		}
	}
	return ""
}

func ownedByRoot(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0
}

// cgroupOf tells from a process's cgroup which systemd unit or container it belongs to, if that is not ours too.
func cgroupOf(proc, dir string) (unit, container string) {
	ours, _ := os.ReadFile(filepath.Join(proc, "self", "cgroup"))
	theirs, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	if bytes.Equal(ours, theirs) {
		return "", ""
	}
	if id := regexp.MustCompile(`[0-9a-f]{64}`).Find(theirs); id != nil {
		return "", string(id[:12])
	}
	if m := regexp.MustCompile(`/([^/\n]*gitlab-runner[^/\n]*\.service)`).FindSubmatch(theirs); m != nil {
		return string(m[1]), ""
	}
	return "", ""
}

// findUnit asks systemd for GitLab's unit: it may be between two starts, when no process is there.
func findUnit(ctx context.Context) (otherRunner, bool) {
	// The exit status says the same as the answer; without systemctl there is no answer.
	state, _ := exec.CommandContext(ctx, "systemctl", "is-active", "gitlab-runner.service").Output()
	switch strings.TrimSpace(string(state)) {
	case "active", "activating", "reloading":
		return otherRunner{unit: "gitlab-runner.service"}, true
	}
	return otherRunner{}, false
}

// readNul reads a file of strings that each end in a zero byte.
func readNul(file string) []string {
	b, _ := os.ReadFile(file) // processes come and go
	if len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// shellWord quotes a word for a shell where it needs that.
func shellWord(s string) string {
	if regexp.MustCompile(`^[\w@%+=:,./-]+$`).MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
