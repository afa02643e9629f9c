package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// git runs the Git command with nothing of the host's own Git settings and nothing that a repository could set.
type git struct {
	path    string
	home    string // empty folder
	version string
	refetch bool         // it is new enough to fetch what it believes to have
	started atomic.Int64 // processes so far, for the log and for tests
}

// Git 2.32 is the first that takes settings from the environment, does not follow a .gitattributes or .gitignore that
// is a symbolic link, and merges packs without a full repack.
const (
	oldestMajor = 2
	oldestMinor = 32
	// refetchMinor is the first of oldestMajor that knows git fetch --refetch.
	refetchMinor = 36
)

func findGit(home string) (*git, error) {
	path, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("git is not installed on this machine: %w", err)
	}
	g := &git{path: path, home: home}
	cmd := exec.Command(path, "version")
	cmd.Env = g.env(gitCall{})
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run git: %w", err)
	}
	version := strings.TrimSpace(strings.TrimPrefix(string(out), "git version "))
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return nil, fmt.Errorf("run git: unknown version %q", version)
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("run git: unknown version %q: %w", version, err)
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return nil, fmt.Errorf("git %s is too old: %d.%d or newer is needed", version, oldestMajor, oldestMinor)
	}
	g.version = version
	g.refetch = major > oldestMajor || minor >= refetchMinor
	return g, nil
}

// GitVersion is the version of this machine's Git. It is an error if there is none, or one that is too old.
func GitVersion() (string, error) {
	g, err := findGit(os.DevNull) // which is asked for nothing that it would look for at home
	if err != nil {
		return "", err
	}
	return g.version, nil
}

// gitCall is one Git command.
type gitCall struct {
	args     []string
	gitDir   string
	workTree *os.File    // the command runs inside; a path could be turned into another folder meanwhile
	index    string      // of the work tree
	umask    fs.FileMode // of the files it makes
	config   []setting   // besides the fixed ones
	token    string      // answers the server's 401, see credentialHelper
	schemes  []string    // protocols it may speak; none without
	stdout   io.Writer   // nil: nowhere
}

type setting struct{ key, value string }

// fixedConfig holds for every command, above anything a repository says.
var fixedConfig = []setting{
	{"core.hooksPath", "/dev/null"},
	{"core.fsmonitor", "false"},
	{"core.attributesFile", "/dev/null"},
	{"core.excludesFile", "/dev/null"},
	{"core.untrackedCache", "false"},
	{"core.sparseCheckout", "false"},
	{"core.symlinks", "true"},
	{"core.fileMode", "true"},
	{"core.autocrlf", "false"},
	{"index.version", "2"}, // the one that parseIndex reads
	{"submodule.recurse", "false"},
	{"fetch.recurseSubmodules", "false"},
	{"fetch.unpackLimit", "1"}, // one pack for each fetch, not a file for each object
	{"gc.auto", "0"},
	{"maintenance.auto", "false"},
	{"protocol.version", "2"},
	{"http.followRedirects", "initial"},
	{"safe.bareRepository", "explicit"},
	{"advice.detachedHead", "false"},
}

// passed are the variables of the runner's own environment that its Git sees, no GIT_*. Proxies it is told by proxyConfig.
var passed = []string{"PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}

func (g *git) env(c gitCall) []string {
	env := []string{
		"HOME=" + g.home, "XDG_CONFIG_HOME=" + g.home, "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=", "GIT_PROTOCOL_FROM_USER=0",
		"GIT_NO_REPLACE_OBJECTS=1", "GIT_NO_LAZY_FETCH=1", "GIT_OPTIONAL_LOCKS=0",
		"GIT_ALLOW_PROTOCOL=" + strings.Join(c.schemes, ":"),
		"GIT_DIR=" + c.gitDir,
	}
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	if c.workTree != nil {
		// "." is where the command starts: Git then never goes by the folder's path.
		env = append(env, "GIT_WORK_TREE=.", "GIT_INDEX_FILE="+c.index)
	}
	if c.token != "" {
		env = append(env, tokenVariable+"="+c.token)
	}
	settings := append(fixedConfig[:len(fixedConfig):len(fixedConfig)], c.config...)
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(settings)))
	for i, s := range settings {
		n := strconv.Itoa(i)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+s.key, "GIT_CONFIG_VALUE_"+n+"="+s.value)
	}
	return env
}

// command prepares a process in a group of its own that ends with ctx.
func (g *git) command(ctx context.Context, c gitCall) *exec.Cmd {
	// The umask belongs to a whole process, so a shell sets it on the way. A repository that makes Git take all the
	// memory shall cost Git its life, not the runner.
	script := fmt.Sprintf(`echo 1000 2>/dev/null >/proc/self/oom_score_adj; umask %04o; exec "$0" "$@"`, c.umask)
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", script, g.path}, c.args...)...)
	cmd.Env = g.env(c)
	if c.workTree != nil {
		cmd.Dir = c.workTree.Name()
	} else {
		cmd.Dir = c.gitDir
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// SIGTERM lets Git remove its locks and temporary packs.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// run waits for the command; what it said on failure is in the *gitError.
func (g *git) run(ctx context.Context, c gitCall) error {
	cmd := g.command(ctx, c)
	stderr := &tail{limit: 64 << 10}
	cmd.Stdout, cmd.Stderr = c.stdout, stderr
	g.started.Add(1)
	err := cmd.Run()
	if ctx.Err() != nil {
		killGroup(cmd)
		return fmt.Errorf("git %s: %w", c.args[0], context.Cause(ctx))
	}
	if err != nil {
		text := stderr.String()
		if c.token != "" {
			text = strings.ReplaceAll(text, c.token, "[MASKED]")
		}
		return &gitError{command: c.args[0], stderr: text, err: err}
	}
	return nil
}

// killGroup ends what is left of a command's process group.
func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}

// tail keeps the last bytes written to it.
type tail struct {
	limit int
	buf   bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if n > t.limit {
		p = p[n-t.limit:]
	}
	if over := t.buf.Len() + len(p) - t.limit; over > 0 {
		t.buf.Next(over)
	}
	t.buf.Write(p)
	return n, nil
}

func (t *tail) String() string { return t.buf.String() }
