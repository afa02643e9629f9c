package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/netns"
)

// dindImage is a Docker-in-Docker made of this machine's Engine.
const dindImage = imagePrefix + "dind:1"

// startedDind measures the pipeline for a Docker-in-Docker by hand: with one that is really started, as cold as each job's.
func (r *rig) startedDind(ctx context.Context, runs int, registry *demo.Registry, image string, t *table) error {
	recipe, err := dindRecipe()
	if err == nil {
		err = r.load(ctx, dindImage, recipe)
	}
	if err != nil {
		return err
	}
	var times []time.Duration
	for range runs {
		began := time.Now()
		if err := r.byHand(ctx, registry, image); err != nil {
			return fmt.Errorf("by hand: %w", err)
		}
		times = append(times, time.Since(began))
	}
	t.row("by hand, with a Docker-in-Docker really started", "", spread(times), "", "")
	return nil
}

// dindRecipe is the machine's own dockerd with what it starts.
func dindRecipe() (demo.Recipe, error) {
	recipe := demo.DockerClient()
	for _, program := range []string{"dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-init", "docker-proxy"} {
		recipe.Programs["/usr/bin/"+program] = program
	}
	for _, name := range []string{"iptables", "ip6tables", "iptables-save"} {
		recipe.Programs["/usr/sbin/"+name] = name
	}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so") // of iptables, which it loads itself
	for _, file := range extensions {
		content, readErr := os.ReadFile(file)
		err = errors.Join(err, readErr)
		recipe.Files[file] = demo.File{Mode: 0o755, Content: content}
	}
	recipe.Files["/tmp/"] = demo.File{Mode: 0o1777}
	recipe.Entrypoint, recipe.Cmd = nil, []string{"dockerd", "--host=unix:///var/run/docker.sock", "--host=tcp://127.0.0.1:2375", "--tls=false"}
	return recipe, err
}

// byHand is one job: a Docker-in-Docker, a client beside it that builds and pushes, and the removal of both.
func (r *rig) byHand(ctx context.Context, registry *demo.Registry, image string) (err error) {
	daemon, err := r.startDind(ctx)
	defer func() { err = errors.Join(err, r.engine.Remove(context.WithoutCancel(ctx), daemon)) }()
	if err != nil {
		return err
	}
	found, err := r.engine.Find(ctx, daemon)
	if err != nil {
		return err
	}
	forwarded, err := forward(ctx, found.PID, registry.Host)
	if err != nil {
		return err
	}
	defer forwarded.Close()
	script := strings.Join([]string{
		"until docker info >/dev/null 2>&1; do sleep 0.1; done",
		"docker login -u " + registry.User + " -p " + registry.Password + " " + registry.Host + " && cd /app && docker build -t " + image + " . && docker push " + image,
	}, "\n")
	return r.runToEnd(ctx, docker.Container{
		Image: clientImage, Cmd: []string{"sh", "-c", script}, Network: "container:" + daemon,
		Env: []string{"DOCKER_HOST=tcp://127.0.0.1:2375", "DOCKER_BUILDKIT=0"}, Binds: []string{filepath.Join(r.dir, "dind") + ":/app"},
	})
}

// startDind starts a Docker-in-Docker: privileged, or with all that this machine can give.
func (r *rig) startDind(ctx context.Context) (id string, err error) {
	privileges := [][]string{{"--privileged"}, {"--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined", "--security-opt=systempaths=unconfined", "--volume=/sys/fs/cgroup:/sys/fs/cgroup"}}
	for _, c := range almostAll {
		privileges[1] = append(privileges[1], "--cap-add="+c)
	}
	for _, p := range privileges {
		cmd := exec.CommandContext(ctx, "docker", append(append([]string{"run", "--detach", "--volume=/var/lib/docker"}, p...), dindImage)...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+r.engine.Host())
		var said strings.Builder
		cmd.Stderr = &said
		out, runErr := cmd.Output()
		id = strings.TrimSpace(string(out)) // there is one also where it does not start
		if runErr == nil {
			return id, nil
		}
		err = fmt.Errorf("%w: %s", runErr, said.String())
		if id == "" || !strings.Contains(said.String(), "unable to apply caps") {
			break
		}
		if err := r.engine.Remove(ctx, id); err != nil {
			return id, err
		}
	}
	return id, err
}

// almostAll are the capabilities without SYS_RESOURCE, which machines within others may lack.
var almostAll = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
	NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE
	SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND`)

// forward lets a process reach an address on this machine's loopback as on its own.
func forward(ctx context.Context, pid int, address string) (io.Closer, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	ns, err := netns.Open(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	l, err := ns.Listen(ctx, "tcp", at.String())
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", address)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); _ = out.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return l, nil
}

func (r *rig) load(ctx context.Context, name string, recipe demo.Recipe) error {
	var archive bytes.Buffer
	if err := recipe.WriteArchive(&archive, name); err != nil {
		return err
	}
	return r.engine.Load(ctx, &archive)
}
