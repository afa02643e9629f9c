package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/job"
)

// flags of docs/container.md, but for the two folders, which are the rig's, and AppArmor, which a machine may not have.
var containerFlags = []string{
	"--network", "host", "--pid", "host", "--cgroupns", "host", "--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE",
	"--volume", "/var/run/docker.sock:/var/run/docker.sock", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup",
}

// ownImage builds the image of the Dockerfile, on a base that is there.
func ownImage(t *testing.T) string {
	t.Helper()
	e := engine(t)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "bin/slipway"), "github.com/slipway-ci/slipway/cmd/slipway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	name := fmt.Sprintf("slipway.test/slipway:%d", os.Getpid())
	out, err := exec.Command("docker", "build", "--quiet", "--file", "../../Dockerfile", "--build-arg", "BASE="+gitImage, "--tag", name, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { _ = e.RemoveImage(context.Background(), name) })
	return name
}

// mountedDir is a folder that lies on a mount of its own, unix.MS_SHARED or MS_PRIVATE, with a path short enough for sockets in it.
func mountedDir(t *testing.T, propagation uintptr) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir, err := os.MkdirTemp("/tmp", "slipway-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", propagation, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestInContainer: Slipway in a container, as docs/container.md says, with all that a guarded socket is for.
func TestInContainer(t *testing.T) {
	t.Parallel()
	image, dir := ownImage(t), mountedDir(t, unix.MS_SHARED)
	name := filepath.Base(dir)
	shared := "type=bind,source=" + dir + ",target=" + dir
	r := newRig(t, withSocket(), dockerKeys(`memory = "256m"`), func(r *rig) {
		r.dir = dir
		r.command = func(args ...string) *exec.Cmd {
			flags := append([]string{"run", "--rm", "--name", name, "--mount", shared + ",bind-propagation=rshared"}, containerFlags...)
			return exec.Command("docker", append(append(flags, image), args...)...)
		}
	})
	doctor, err := exec.Command("docker", "exec", name, "slipway", "doctor", "--config", r.configPath()).CombinedOutput()
	if err != nil {
		t.Errorf("doctor: %v", err)
	}
	wants(t, string(doctor), "the Engine sees "+r.stateDir(), "the Engine sees what slipway mounts below "+r.stateDir(), "slipway sees the Engine's processes")
	log := r.must(job.Success, withDocker(
		"printf 'FROM "+alpine+"\\nCOPY file /\\n' >Dockerfile; echo text >file",
		"docker build -t app .", "docker run --rm app cat /file",
		"docker run --rm -v $PWD:/app "+alpine+" cat /app/file",
		"docker run --detach --publish 8080:80 -v $PWD:/www:ro "+alpine+" httpd -f -h /www", "until wget -qO- http://localhost:8080/file; do sleep 0.1; done",
	))
	if n := strings.Count(log, "\ntext\n"); n != 3 {
		t.Errorf("%d times the file's text:\n%s", n, log)
	}
	lacks(t, r.log.String(), "not for all together")
	wants(t, r.must(job.Success, withService(spec("wget -qO- http://web:8080/index"), r.image(webServer()), "web", "WHO", "beside")), "I am beside")
	wants(t, r.must(job.Success, withService(spec("echo shown >README", got("readme")), r.image(sharingServer()), "web")), "\nreadme: shown\n")
	r.cleanAfter()

	// What is missing has a name, and so has the flag.
	for flag, c := range map[string]struct{ mount, cure, what string }{
		"":         {shared, "bind-propagation=rshared", "the Engine does not see what slipway mounts below"},
		"--pid":    {shared + ",bind-propagation=rshared", "--pid=host", "slipway does not see the Engine's processes"},
		"--mount":  {"", "at the path that it has on the host", "the Engine does not see " + r.stateDir()},
		"SYS_ADM*": {shared + ",bind-propagation=rshared", "--cap-add SYS_ADMIN", "slipway may not mount anything"},
	} {
		args := []string{"run", "--rm", "--volume", r.configPath() + ":/config.toml:ro"}
		if c.mount != "" {
			args = append(args, "--mount", c.mount)
		}
		for i := 0; i < len(containerFlags); i += 2 {
			if containerFlags[i] != flag && (flag != "SYS_ADM*" || containerFlags[i+1] != "SYS_ADMIN") {
				args = append(args, containerFlags[i:i+2]...)
			}
		}
		out, _ := exec.Command("docker", append(args, image, "doctor", "--config", "/config.toml")...).CombinedOutput()
		wants(t, string(out), c.what, c.cure)
	}
}
