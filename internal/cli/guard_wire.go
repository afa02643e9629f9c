package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/executor"
	"github.com/slipway-ci/slipway/internal/guard"
	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/state"
)

// guardOptions is what a guard by itself is made of.
type guardOptions struct {
	flags          guardFlags
	dir, inside    string // the workspace on the host and as the client sees it; "" = none
	command        []string
	stdin          io.Reader
	stdout, stderr io.Writer
	log, audit     *slog.Logger
}

// runGuard serves until a signal comes or the command ends, and removes then what was made.
func runGuard(ctx context.Context, o guardOptions) (err error) {
	ends := []os.Signal{syscall.SIGTERM, os.Interrupt}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		ends = append(ends, syscall.SIGHUP) // the terminal was closed
	}
	signals, stop := notify(ends...)
	defer stop()
	engine, err := docker.Connect(ctx, docker.Options{Host: o.flags.engine})
	if err != nil {
		return err
	}
	defer engine.Close()
	machine, err := engine.Machine(ctx)
	if err != nil {
		return err
	}
	place, err := openPlace(ctx, o, engine, machine.ID)
	if err != nil {
		return err
	}
	clean := true
	defer func() { err = errors.Join(err, place.leave(clean)) }()
	images, err := ledger.Open(ledger.Folder(state.LedgerIn(o.flags.state), machine.ID))
	if err != nil {
		return err
	}
	defer images.Close()
	defer o.expire(ctx, engine, images)()
	policy, job, err := o.policy(ctx, engine, machine, place)
	if err != nil {
		return err
	}
	g, err := guard.Open(ctx, guard.Options{
		Dial: engine.Dial, Dir: place.dir(), Socket: o.flags.listen, Policy: policy, Images: images, Log: o.audit, Report: o.reporter(),
		History: layercache.NewHistory(filepath.Join(state.BuildsIn(o.flags.state), o.projectScope())),
	})
	if err != nil {
		return err
	}
	defer func() {
		// Everything below has ended; a signal that comes now ends the process at once.
		go exitAtSecond(signals)
		closed := g.Close(context.WithoutCancel(ctx))
		clean = closed == nil
		err = errors.Join(err, closed)
	}()
	if err := o.openTo(g.Socket(), engine.Socket()); err != nil {
		return err
	}
	if job.ID != "" {
		g.JobContainer(job.ID, job.Name)
		if job.Running {
			if err := g.JobStarted(ctx); err != nil {
				return err
			}
		}
	}
	if len(o.command) > 0 {
		return o.run(g.Socket(), signals)
	}
	fmt.Fprintf(o.stderr, "slipway: serving DOCKER_HOST=unix://%s\n", g.Socket())
	<-signals
	return nil
}

// sameSignal is the time in which a second signal is the first one again: timeout and a terminal that is closed send theirs to
// the process and to its group.
const sameSignal = time.Second

// exitAtSecond ends the process when somebody does not want to wait for its end.
func exitAtSecond(signals <-chan os.Signal) {
	began := time.Now()
	for sig := range signals {
		if time.Since(began) > sameSignal {
			exitAtOnce(sig)
		}
	}
}

// expire removes, meanwhile, the names of images that none has used for a while, and old records of builds: nobody else does where
// no runner serves.
// What it returns ends that; the next guard goes on.
func (o guardOptions) expire(ctx context.Context, engine *docker.Engine, images *ledger.Ledger) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := executor.ExpireImages(ctx, engine, images, o.log); err != nil && ctx.Err() == nil {
			o.log.Warn("some unused images stay", "error", err)
		}
		if err := layercache.Expire(state.BuildsIn(o.flags.state), time.Now(), layercache.Unused); err != nil {
			o.log.Warn("some records of old builds stay", "error", err)
		}
	}()
	return func() { cancel(); <-ended }
}

// place is what one guard has in the state folder that it shares with others: a folder with a lock of its own, so that
// others can tell whether it lives.
type place struct {
	*state.Folder
}

// openPlace makes the guard's place, and removes what guards left that were killed.
func openPlace(ctx context.Context, o guardOptions, engine *docker.Engine, engineID string) (*place, error) {
	all := filepath.Join(o.flags.state, "alone")
	if err := os.MkdirAll(all, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	dead, err := deadPlaces(all, engineID)
	if err != nil {
		return nil, err
	}
	if err := executor.Sweep(ctx, engine, state.Free, o.log); err != nil {
		o.log.Warn("some leftovers of killed runners and guards stay", "error", err)
		dead = nil // nothing else tells whose the leftovers are
	}
	for _, dir := range dead {
		if err := errors.Join(executor.SweepGuards(dir), os.Remove(dir)); err != nil { // what stays mounted is somebody's files
			o.log.Warn("the folder of a killed guard stays", "folder", dir, "error", err)
		}
	}
	folder, err := state.Open(filepath.Join(all, randomToken()))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(folder.Path, engineFile), []byte(engineID), 0o600); err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	return &place{folder}, nil
}

// engineFile says on which Engine a guard made what it made.
const engineFile = "engine"

// deadPlaces are the folders of guards that were killed, and that have nothing on another Engine.
func deadPlaces(all, engineID string) (dead []string, err error) {
	entries, err := os.ReadDir(all)
	if err != nil {
		return nil, fmt.Errorf("read the state folder: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(all, e.Name())
		id, _ := os.ReadFile(filepath.Join(dir, "instance"))
		on, err := os.ReadFile(filepath.Join(dir, engineFile))
		if state.Free(dir, strings.TrimSpace(string(id))) && (string(on) == engineID || errors.Is(err, fs.ErrNotExist)) {
			dead = append(dead, dir)
		}
	}
	return dead, nil
}

// dir is the guard's own folder; the names are short, for the sake of the socket in it.
func (p *place) dir() string { return filepath.Join(p.Path, "g") }

// leave removes the place. Where something is left on the Engine it stays, so that the next guard knows whose that is.
func (p *place) leave(clean bool) error {
	if !clean {
		return p.Close()
	}
	return errors.Join(executor.SweepGuards(p.Path), p.Close(), os.Remove(p.Path))
}

// randomToken is a guard's name on the Engine.
func randomToken() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails, says its documentation
	return hex.EncodeToString(b)
}

// policy is made of the flags, and of the job's container if there is one.
func (o guardOptions) policy(ctx context.Context, engine *docker.Engine, machine docker.Machine, p *place) (guard.Policy, docker.Found, error) {
	f := o.flags
	policy := guard.Policy{
		Token: filepath.Base(p.Path), Labels: executor.OwnLabels(p.Instance, p.Path), Scope: o.scope(),
		ImagePath: strings.ToLower(f.registryImage), Sockets: []string{"/var/run/docker.sock", "/run/docker.sock"},
		PublishLocal: f.publishLocal, SwapLimit: machine.SwapLimit, Audit: f.policy == config.PolicyAudit, Root: executor.IsAdmin(),
	}
	policy.Registry, _, _ = strings.Cut(policy.ImagePath, "/")
	if f.job != "" {
		policy.Labels["slipway.job"] = f.job
	}
	for _, s := range []string{engine.Socket(), f.listen} {
		if s != "" {
			policy.Sockets = append(policy.Sockets, s)
		}
	}
	if o.dir != "" {
		if err := executor.CheckSource(o.dir, engine.Socket(), machine, f.state); err != nil {
			return policy, docker.Found{}, withHint(err, "let --workspace name the project's folder alone")
		}
		policy.Mounts = []guard.Mount{{Destination: o.inside, Source: o.dir}}
	}
	if f.container == "" {
		return policy, docker.Found{}, nil
	}
	job, err := engine.Find(ctx, f.container)
	if err != nil {
		return policy, docker.Found{}, withHint(fmt.Errorf("look for --container: %w", err), "docker ps -a lists their names and IDs")
	}
	// What the job's container lacks, it must not get by starting another one.
	policy.Network, policy.CapDrop, policy.CgroupParent = job.Network, job.CapDrop, job.Limits.CgroupParent
	policy.Limits.Memory, policy.Limits.NanoCPUs = job.Limits.Memory, job.Limits.NanoCPUs
	for _, m := range job.Mounts {
		if slices.ContainsFunc(policy.Mounts, func(known guard.Mount) bool { return known.Destination == m.Target }) {
			continue
		}
		if m.Volume == "" && (m.Source == engine.Socket() || m.Source == f.listen) {
			policy.Sockets = append(policy.Sockets, m.Target)
			continue
		}
		if m.Volume == "" {
			if err := executor.CheckSource(m.Source, engine.Socket(), machine, f.state); err != nil {
				o.log.Warn("a mount of --container cannot be shared with containers of the job", "path", m.Target, "why", err)
				continue
			}
		}
		policy.Mounts = append(policy.Mounts, guard.Mount{Destination: m.Target, Source: m.Source, Volume: m.Volume, ReadOnly: m.ReadOnly})
	}
	policy.Mounts, err = o.withoutNested(policy.Mounts)
	return policy, job, err
}

// withoutNested leaves out places that lie in others that the job may write to: it could put a link to anywhere in their
// stead. Where the other one shows them at the same path, nothing is lost.
func (o guardOptions) withoutNested(mounts []guard.Mount) (out []guard.Mount, err error) {
	for _, m := range mounts {
		i := slices.IndexFunc(mounts, func(outer guard.Mount) bool {
			return !outer.ReadOnly && strings.HasPrefix(m.Source, strings.TrimSuffix(outer.Source, "/")+"/")
		})
		switch {
		case i < 0:
			out = append(out, m)
		case !m.ReadOnly && m.Destination == path.Join(mounts[i].Destination, strings.TrimPrefix(m.Source, mounts[i].Source)):
		case m.Source == o.dir:
			return nil, withHint(fmt.Errorf("--workspace: %s lies in %s, which --container may write to", m.Source, mounts[i].Source),
				"leave --workspace out: the mounts of --container are shared")
		default:
			o.log.Warn("a mount of --container cannot be shared with containers of the job", "path", m.Destination, "why", "it lies in "+mounts[i].Source+", which the job may write to")
		}
	}
	return out, nil
}

// scope names who shares the build cache: a project; without a name, all that is done in the same folder.
func (o guardOptions) scope() string {
	if o.flags.scope == config.ScopeRunner {
		return scopeOf("guard\nrunner")
	}
	return o.projectScope()
}

// projectScope is that of one project, or folder, whoever shares its build cache: its files have names that are nobody else's business.
func (o guardOptions) projectScope() string {
	f := o.flags
	of := "guard\nproject\n" + f.project
	if f.project == "" {
		here, _ := os.Getwd()
		of = "guard\nfolder\n" + cmp.Or(o.dir, f.listen, here)
	}
	if f.scope == config.ScopeProtected && f.protected {
		of += "\nprotected"
	}
	return scopeOf(of)
}

func scopeOf(of string) string {
	sum := sha256.Sum256([]byte(of))
	return hex.EncodeToString(sum[:16])
}

// reporter prints what the guard has to say, one line at a time.
func (o guardOptions) reporter() func(string) {
	var mu sync.Mutex
	return func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(o.stderr, "slipway: %s\n", strings.TrimPrefix(line, "slipway: "))
	}
}

// openTo lets those use the socket who may use the Engine's own: they gain nothing by it.
func (o guardOptions) openTo(socket, engine string) error {
	mode, err := o.flags.socketMode()
	if err != nil || o.flags.listen == "" && mode == 0 {
		return err // in our own folder: who gets it from there may use it
	}
	group := -1
	if mode == 0 {
		mode = 0o600
		if st, err := os.Stat(engine); err == nil {
			mode = st.Mode().Perm()
			if own, ok := st.Sys().(*syscall.Stat_t); ok {
				group = int(own.Gid)
			}
		}
	}
	if group < 0 {
		return guard.Permit(socket, mode, -1)
	}
	// The group comes first: until the socket has it, nobody else is let in. An ordinary user can give a group that it is in.
	if err := guard.Permit(socket, mode&0o700, group); err != nil {
		if !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return guard.Permit(socket, mode&^0o070, -1)
	}
	return guard.Permit(socket, mode, -1)
}

// commandGrace is how long a command may take to end after a signal.
const commandGrace = 10 * time.Second

// run runs the command on the guarded socket. Signals are passed on to it.
func (o guardOptions) run(socket string, signals <-chan os.Signal) error {
	cmd := exec.Command(o.command[0], o.command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = o.stdin, o.stdout, o.stderr
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"}, key)
	}), "DOCKER_HOST=unix://"+socket)
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		code := 126
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			code = 127
		}
		return errors.Join(fmt.Errorf("run the command: %w", err), &commandError{code})
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var late <-chan time.Time
	in, ok := o.stdin.(*os.File)
	terminal := ok && term.IsTerminal(int(in.Fd()))
	for {
		select {
		case sig := <-signals:
			if sig == os.Interrupt && terminal {
				continue // Ctrl-C reaches the command too, which may do with it what it likes
			}
			_ = cmd.Process.Signal(sig)
			if late == nil {
				late = time.After(commandGrace)
			}
		case <-late:
			_ = cmd.Process.Kill()
		case err := <-ended:
			return commandEnd(err)
		}
	}
}

// commandEnd is how the command ended, as a shell counts it.
func commandEnd(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("run the command: %w", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &commandError{128 + int(status.Signal())}
	}
	return &commandError{exit.ExitCode()}
}
