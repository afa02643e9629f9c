package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/executor"
)

// place finds out whether slipway is where the Engine can work with it: it may be in a container. guarded says that jobs have
// sockets of their own, which takes more.
func (d *doctor) place(ctx context.Context, e *docker.Engine, stateDir string, guarded bool) {
	image, err := probeImage(ctx, e)
	if err != nil {
		d.bad(broken, "is it a Docker Engine?", "%v", err)
		return
	}
	if image == "" {
		d.bad(warning, "docker pull docker:cli, and run doctor again", "whether the Engine sees %s cannot be told without any image", stateDir)
		return
	}
	if !d.visible(ctx, e, stateDir) || !guarded {
		return
	}
	if !executor.IsAdmin() {
		d.bad(warning, "run slipway as root; in a container, with --cap-add SYS_ADMIN",
			"slipway may not mount anything (CAP_SYS_ADMIN): jobs with a guarded socket cannot share folders with their containers (-v) or publish ports")
		return
	}
	d.mounts(ctx, e, guardPath(filepath.Join(stateDir, "guard"), "probe"))
	if e.Socket() != "" {
		d.processes(e)
	}
}

// probeImage is the ID of any image, "" if the Engine has none.
func probeImage(ctx context.Context, e *docker.Engine) (string, error) {
	names, err := e.Images(ctx)
	for _, name := range names {
		if image, err := e.InspectImage(ctx, name); err == nil { // else it went just now
			return image.ID, nil
		}
	}
	return "", err
}

// imageTries is how often another image is taken because a job has removed the one that was.
const imageTries = 5

// withImage lets do use any image.
func withImage(ctx context.Context, e *docker.Engine, do func(image string) error) error {
	for try := 1; ; try++ {
		image, err := probeImage(ctx, e)
		if err != nil {
			return err
		}
		if err = do(image); !docker.IsNotFound(err) || try == imageTries {
			return err
		}
	}
}

// sees asks the Engine to mount a folder of this process into a container, which is not started.
func sees(ctx context.Context, e *docker.Engine, dir string) error {
	return withImage(ctx, e, func(image string) error {
		return errors.Join(e.Probe(ctx, docker.Container{
			Name: "slipway-probe-" + strings.ToLower(rand.Text()), Image: image, Entrypoint: []string{"/probe"}, Network: "none",
			Mounts: []docker.Mount{{Source: dir, Target: "/probe"}},
		}))
	})
}

// visible finds out whether the Engine sees the state folder where slipway does.
func (d *doctor) visible(ctx context.Context, e *docker.Engine, stateDir string) bool {
	probe, err := os.MkdirTemp(stateDir, "probe-")
	if err != nil {
		d.bad(broken, "run doctor as the user who runs slipway", "%v", err)
		return false
	}
	defer os.RemoveAll(probe)
	dir := filepath.Join(probe, "seen")
	if err = os.Mkdir(dir, 0o700); err == nil {
		err = sees(ctx, e, dir)
	}
	if err != nil {
		d.bad(broken, "mount the folder into slipway's container at the path that it has on the host, or set state_dir", "the Engine does not see %s: %v", stateDir, err)
		return false
	}
	d.fine("the Engine sees %s", stateDir)
	return true
}

// mounts finds out whether the Engine sees what slipway mounts where the sockets of jobs will be.
func (d *doctor) mounts(ctx context.Context, e *docker.Engine, guards string) {
	below := filepath.Dir(guards)
	err := os.MkdirAll(below, 0o711)
	var probe string
	if err == nil {
		probe, err = os.MkdirTemp(below, "probe-")
	}
	if err != nil {
		d.bad(broken, "run doctor as the user who runs slipway", "%v", err)
		return
	}
	defer os.RemoveAll(probe)
	from, at := filepath.Join(probe, "from"), filepath.Join(probe, "at")
	if err := errors.Join(os.MkdirAll(filepath.Join(from, "seen"), 0o700), os.Mkdir(at, 0o700)); err != nil {
		d.bad(broken, "see the message", "%v", err)
		return
	}
	if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
		d.bad(broken, "in a container, let AppArmor allow it: --security-opt apparmor=unconfined", "slipway cannot mount a folder below %s: %v", below, err)
		return
	}
	err = sees(ctx, e, filepath.Join(at, "seen"))
	if uerr := unix.Unmount(at, unix.MNT_DETACH); uerr != nil {
		err = errors.Join(err, fmt.Errorf("unmount %s: %w", at, uerr))
	}
	if err != nil {
		d.bad(broken, fmt.Sprintf("mount the folder into slipway's container with bind-propagation=rshared; on the host, what it lies on must be shared: "+
			"findmnt -o PROPAGATION --target %s, mount --make-rshared /", shellWord(below)),
			"the Engine does not see what slipway mounts below %s, so that jobs' containers would find their folders empty: %v", below, err)
		return
	}
	d.fine("the Engine sees what slipway mounts below %s", below)
}

// processes finds out whether this process sees those of the Engine: published ports are opened in the networks of jobs, which
// are found by their processes.
func (d *doctor) processes(e *docker.Engine) {
	conn, err := net.Dial("unix", e.Socket())
	if err != nil {
		d.bad(broken, "is the Engine running?", "%v", err)
		return
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	var peer *unix.Ucred
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
		err = errors.Join(err, cerr)
	}
	switch {
	case err != nil:
		d.bad(warning, "see the message", "whether slipway sees the Engine's processes cannot be told: %v", err)
	case peer.Pid == 0: // Linux: it has no number in this namespace
		d.bad(broken, "run slipway's container with --pid=host", "slipway does not see the Engine's processes, so that jobs cannot publish ports")
	default:
		d.fine("slipway sees the Engine's processes")
	}
}
