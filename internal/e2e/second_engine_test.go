package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/docker"
)

// dockerd is an Engine of a test's own, that may be stopped. It has a network namespace of its own: it would take the
// bridge and the firewall rules of the machine's Engine away otherwise. Its containerd is a process beside it, as in
// production: containers outlive a dockerd that is killed.
type dockerd struct {
	t                   *testing.T
	dir                 string
	log                 lockedBuffer
	process, containerd *exec.Cmd
	netns               *exec.Cmd // holds the namespace, which outlives dockerd as the machine does
	wrap, args          []string  // a command around dockerd, and what it is told beside the usual
}

const containerdConfig = `version = 2
root = "DIR/containerd/root"
state = "DIR/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "DIR/containerd.sock"
`

// remapped makes the users of containers other ones of the machine, from firstUser on. Who has which numbers dockerd looks up in /etc, so
// it gets one of its own.
func remapped(d *dockerd) {
	d.t.Helper()
	// What dockerd and slipway mount there, containerd and dockerd see.
	err := errors.Join(syscall.Mount(d.dir, d.dir, "", syscall.MS_BIND, ""), syscall.Mount("", d.dir, "", syscall.MS_SHARED, ""))
	if err = errors.Join(err, os.Chmod(d.dir, 0o711)); err != nil { // the users of containers are nobody there
		d.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "--archive", "/etc", d.path("etc")).CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	for name, line := range map[string]string{
		"passwd": fmt.Sprintf("slipway-test:x:%d:%[1]d::/:/bin/false\n", firstUser), "group": fmt.Sprintf("slipway-test:x:%d:\n", firstUser),
		"subuid": fmt.Sprintf("slipway-test:%d:65536\n", firstUser), "subgid": fmt.Sprintf("slipway-test:%d:65536\n", firstUser),
	} {
		f, err := os.OpenFile(d.path("etc/"+name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = f.WriteString(line)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
	d.wrap = []string{"unshare", "--mount", "--propagation", "unchanged", "sh", "-c", `mount --bind "$0" /etc && exec "$@"`, d.path("etc")}
	d.args = []string{"--userns-remap", "slipway-test"}
}

const firstUser = 3_000_000

// newDockerd starts an Engine without images.
func newDockerd(t *testing.T, change ...func(*dockerd)) *dockerd {
	t.Helper()
	missing := ""
	for _, program := range []string{"dockerd", "containerd", "unshare", "ip", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = err.Error()
		}
	}
	if os.Geteuid() != 0 {
		missing = "root is needed"
	}
	if missing != "" {
		if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" {
			t.Fatalf("a second Engine cannot be started: %s", missing)
		}
		t.Skipf("a second Engine cannot be started: %s", missing)
	}
	// Short, for the sake of the sockets below it.
	dir, err := os.MkdirTemp("", "engine-")
	if err != nil {
		t.Fatal(err)
	}
	d := &dockerd{t: t, dir: dir}
	t.Cleanup(d.remove)
	for name, text := range map[string]string{"dockerd.json": "{}", "containerd.toml": strings.ReplaceAll(containerdConfig, "DIR", dir)} {
		if err := os.WriteFile(d.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range change {
		c(d)
	}
	d.start()
	return d
}

func (d *dockerd) path(name string) string { return filepath.Join(d.dir, name) }
func (d *dockerd) host() string            { return "unix://" + d.path("docker.sock") }

func (d *dockerd) run(program string, args ...string) *exec.Cmd {
	d.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &d.log, &d.log
	cmd.WaitDelay = time.Second // what a container holds open
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	return cmd
}

// start returns when the Engine answers.
func (d *dockerd) start() {
	d.t.Helper()
	d.launch()
	deadline := time.Now().Add(patience)
	for {
		e, err := docker.Connect(d.t.Context(), docker.Options{Host: d.host()})
		if err == nil {
			e.Close()
			return
		}
		if !d.lives() {
			// An Engine of 2020 that was killed while it made a network panics at each start over what it knows of networks.
			if err := os.Remove(d.path("data/network/files/local-kv.db")); err != nil {
				d.t.Fatalf("the second Engine does not start: %v\n%s", err, &d.log)
			}
			d.launch()
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the second Engine does not start: %v\n%s", err, &d.log)
		}
		await(d.t, 100*time.Millisecond)
	}
}

func (d *dockerd) launch() {
	d.t.Helper()
	_ = os.Remove(d.path("pid")) // of one that was killed, whose number may be another process's now
	if d.netns == nil {
		d.netns = d.run("unshare", "--net", "sh", "-c", "ip link set lo up && exec sleep infinity")
		own, _ := os.Readlink("/proc/self/ns/net")
		eventually(d.t, "the second Engine has a network namespace", func() bool {
			its, err := os.Readlink(d.namespace())
			return err == nil && its != own
		})
	}
	if d.containerd == nil {
		d.containerd = d.run("containerd", "--config", d.path("containerd.toml"))
	}
	d.process = d.run("nsenter", slices.Concat([]string{"--net=" + d.namespace()}, d.wrap, []string{
		"dockerd", "--config-file", d.path("dockerd.json"), "--containerd", d.path("containerd.sock"), "--pidfile", d.path("pid"),
		"--data-root", d.path("data"), "--exec-root", d.path("exec"), "--host", d.host(),
	}, d.args)...)
}

func (d *dockerd) namespace() string { return fmt.Sprintf("/proc/%d/ns/net", d.netns.Process.Pid) }

// lives reports whether dockerd has not ended by itself.
func (d *dockerd) lives() bool {
	var st syscall.WaitStatus
	pid, _ := syscall.Wait4(d.process.Process.Pid, &st, syscall.WNOHANG, nil)
	return pid == 0
}

// engine connects to the Engine and brings the test images there.
func (d *dockerd) engine() *docker.Engine {
	d.t.Helper()
	e, err := docker.Connect(d.t.Context(), docker.Options{Host: d.host()})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { e.Close() })
	if err := load(e, alpine, demo.Alpine()); err != nil {
		d.t.Fatal(err)
	}
	// The shell of a job pays no heed to TERM: an Engine that ends would give each container ten seconds.
	build := exec.Command("docker", "--host", d.host(), "build", "--tag", alpine, "-")
	build.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	build.Stdin = strings.NewReader("FROM " + alpine + "\nSTOPSIGNAL KILL\n")
	if out, err := build.CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	return e
}

// stop ends dockerd. After a KILL its containers live on.
func (d *dockerd) stop(sig syscall.Signal) {
	if d.process != nil {
		_ = d.process.Process.Signal(sig)
		_ = d.process.Wait()
		d.process = nil
	}
}

// stopContainerd ends what the next start starts again.
func (d *dockerd) stopContainerd() {
	if d.containerd != nil {
		_ = d.containerd.Process.Kill()
		_ = d.containerd.Wait()
		d.containerd = nil
	}
}

// remove ends all processes of the Engine and removes its folder.
func (d *dockerd) remove() {
	d.stop(syscall.SIGTERM)
	d.stopContainerd()
	d.endShims()
	if d.netns != nil {
		_ = d.netns.Process.Kill()
		_ = d.netns.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		unmountBelow(d.dir)
		err := os.RemoveAll(d.dir)
		if err == nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			d.t.Errorf("remove the second Engine: %v\n%s", err, &d.log)
			return
		}
	}
}

// endShims ends what is left of containers when no dockerd was there to do so.
func (d *dockerd) endShims() {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		text, _ := os.ReadFile(file)
		if !strings.Contains(string(text), "containerd-shim") || !strings.Contains(string(text), d.dir+"/") {
			continue
		}
		shim := filepath.Base(filepath.Dir(file))
		children, _ := os.ReadFile(filepath.Join("/proc", shim, "task", shim, "children"))
		for _, pid := range append(strings.Fields(string(children)), shim) {
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
}

// unmountBelow takes mounts away that a killed Engine left.
func unmountBelow(dir string) {
	b, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && (f[1] == dir || strings.HasPrefix(f[1], dir+"/")) {
			_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
}

// onEngine makes the rig use that Engine.
func onEngine(d *dockerd, e *docker.Engine) option {
	return func(r *rig) {
		r.engine = e
		r.docker += fmt.Sprintf("host = %q\n", d.host())
	}
}
