package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
)

// guardFlags are the flags of guard.
type guardFlags struct {
	listen, mode, engine, workspace, container string
	project, job, registryImage, scope         string
	state, policy                              string
	protected, publishLocal                    bool
}

func (a *app) guardCommand() *cobra.Command {
	var f guardFlags
	cmd := &cobra.Command{
		Use:   "guard [--listen PATH] [flags] [-- command…]",
		Short: "Serve a guarded Docker socket: for other runners, and to try it",
		Long: `Guard serves one job's Docker socket in front of the machine's Engine: who uses it sees and touches only what was made
through it. It serves until it gets SIGTERM, SIGINT or SIGHUP, or until the command ends, which finds the socket in DOCKER_HOST;
then it removes what was made through it.`,
		Example: `  slipway guard --workspace . -- docker run --rm -v $PWD:/app alpine ls /app
  slipway guard --listen /run/ci/job-5.sock --workspace /srv/builds/5:/builds/group/app --project group/app`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if at := cmd.ArgsLenAtDash(); at != 0 && len(args) > 0 {
				return usagef("write the command after --: slipway guard … -- "+args[0], "slipway guard takes no argument, but got %q", args[0])
			}
			return a.guard(cmd.Context(), f, args)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.listen, "listen", "", "where the socket is made; with a command it may be left out")
	fs.StringVar(&f.mode, "listen-mode", "", "the socket's permissions; those of the Engine's socket by default, 0666 lets every user of a container in")
	fs.StringVar(&f.engine, "engine", "", "the Engine's address (DOCKER_HOST, else unix:///var/run/docker.sock)")
	fs.StringVar(&f.workspace, "workspace", "", "the folder that may be mounted, and where the client sees it: DIR[:CONTAINER_PATH]; nothing without it")
	fs.StringVar(&f.container, "container", "", "the container whose mounts, network and names are the job's")
	fs.StringVar(&f.project, "project", "", "group/name: who shares the build cache and local image names; by default all that is done in the same folder")
	fs.StringVar(&f.job, "job", "", "the job's ID, for labels and the log")
	fs.StringVar(&f.registryImage, "registry-image", "", "REGISTRY/group/name: the project's own place in its registry")
	fs.StringVar(&f.scope, "cache-scope", config.ScopeProject, "who shares a build cache: project, protected or runner")
	fs.BoolVar(&f.protected, "protected", false, "the job is one of a protected ref")
	fs.StringVar(&f.state, "state", "", "the folder of state, which several guards may share; slipway's own by default")
	fs.StringVar(&f.policy, "policy", config.PolicyEnforce, "enforce, or audit: say what would be refused and let it pass")
	fs.BoolVar(&f.publishLocal, "publish-local", false, "open published ports on this machine's 127.0.0.1")
	complete(cmd, "cache-scope", config.ScopeProject, config.ScopeProtected, config.ScopeRunner)
	complete(cmd, "policy", config.PolicyEnforce, config.PolicyAudit)
	return cmd
}

var (
	projectForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)
	registryForm = regexp.MustCompile(`^([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]+)?/[A-Za-z0-9_./-]+$`)
	jobForm      = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
)

// check finds what is wrong with the flags, and makes paths absolute.
func (f *guardFlags) check(command bool) error {
	if f.listen == "" && !command {
		return usagef("name the socket to make, or a command to run on one: slipway guard -- docker ps", "--listen is missing")
	}
	if err := oneOf("cache-scope", f.scope, []string{config.ScopeProject, config.ScopeProtected, config.ScopeRunner}); err != nil {
		return err
	}
	if err := oneOf("policy", f.policy, []string{config.PolicyEnforce, config.PolicyAudit}); err != nil {
		return err
	}
	for _, v := range []struct {
		flag, value, example string
		form                 *regexp.Regexp
	}{
		{"project", f.project, "group/name", projectForm},
		{"registry-image", f.registryImage, "registry.example.com:5050/group/name", registryForm},
		{"job", f.job, "4711", jobForm},
	} {
		if v.value != "" && !v.form.MatchString(v.value) {
			return usagef(fmt.Sprintf("write it as --%s %s", v.flag, v.example), "--%s: %q is not of that form", v.flag, v.value)
		}
	}
	if strings.HasPrefix(f.engine, "/") {
		return usagef("write it as --engine unix://"+f.engine, "--engine: %q is a path, not an address", f.engine)
	}
	if _, err := f.socketMode(); err != nil {
		return err
	}
	for _, p := range []*string{&f.listen, &f.state} {
		if *p == "" {
			continue
		}
		var err error
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	return f.checkListen()
}

// socketMode is 0 for that of the Engine's socket.
func (f *guardFlags) socketMode() (fs.FileMode, error) {
	if f.mode == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(f.mode, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return 0, usagef("write it as --listen-mode 0660", "--listen-mode: %q is not a file's permissions", f.mode)
	}
	return fs.FileMode(n), nil
}

// checkListen refuses to replace anything but a socket that nobody serves.
func (f *guardFlags) checkListen() error {
	if f.listen == "" {
		return nil
	}
	if most := len(syscall.RawSockaddrUnix{}.Path) - 1; len(f.listen) > most {
		return usagef("name a file in a folder with a shorter path", "--listen: %s has %d bytes, a socket's path has at most %d", f.listen, len(f.listen), most)
	}
	st, err := os.Stat(f.listen)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Dir(f.listen)); errors.Is(err, fs.ErrNotExist) {
			return usagef("make it first", "--listen: there is no folder %s", filepath.Dir(f.listen))
		}
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != fs.ModeSocket:
		return usagef("name a file that is not there yet", "--listen: %s exists and is no socket", f.listen)
	}
	conn, err := net.DialTimeout("unix", f.listen, time.Second)
	if err == nil {
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		return usagef("name a file that is not there yet", "--listen: somebody else serves %s", f.listen)
	}
	return nil
}

// workspaceOf splits DIR[:CONTAINER_PATH].
func (f *guardFlags) workspaceOf() (dir, inside string, err error) {
	if f.workspace == "" {
		return "", "", nil
	}
	const form = "write it as --workspace DIR, or --workspace DIR:/path/in/the/container"
	dir, inside, two := strings.Cut(f.workspace, ":")
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	if !two {
		inside = dir
	}
	if !path.IsAbs(inside) || path.Clean(inside) == "/" {
		return "", "", usagef(form, "--workspace: %q is not an absolute path below /", inside)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return "", "", withHint(fmt.Errorf("look at the workspace: %w", err), "let --workspace name a folder that is there")
	}
	if !st.IsDir() {
		return "", "", usagef(form, "--workspace: %s is not a folder", dir)
	}
	return dir, path.Clean(inside), nil
}

// commandError carries the exit code of the command that slipway ran; the command itself said what is wrong.
type commandError struct{ code int }

func (e *commandError) Error() string {
	return fmt.Sprintf("the command ended with exit code %d", e.code)
}

// withoutCommand leaves out of what is printed what the command has said already.
func withoutCommand(err error) error {
	var rest []error
	for _, e := range flatten(err) {
		if _, ok := e.(*commandError); !ok {
			rest = append(rest, e)
		}
	}
	return errors.Join(rest...)
}

func (a *app) guard(ctx context.Context, f guardFlags, command []string) error {
	if err := f.check(len(command) > 0); err != nil {
		return err
	}
	dir, inside, err := f.workspaceOf()
	if err != nil {
		return err
	}
	log, _, err := a.logger("warn", "")
	if err != nil {
		return err
	}
	// Refusals are told in words; who wants the audit as well asks for a level.
	audit, _, err := a.logger("error", "")
	if err != nil {
		return err
	}
	if f.state == "" {
		if f.state, err = a.stateDir(nil); err != nil {
			return err
		}
	}
	return runGuard(ctx, guardOptions{
		flags: f, dir: dir, inside: inside, command: command, stdin: a.stdin, stdout: a.stdout, stderr: a.stderr, log: log, audit: audit,
	})
}
