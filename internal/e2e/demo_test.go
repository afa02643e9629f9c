package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestDemo runs the demo as a newcomer does, beside a running job of another Slipway.
func TestDemo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	beside := r.Enqueue(spec("sleep 3; echo undisturbed"), "dockerd")
	if err := beside.Started(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := runDemo(t, slipway("demo", "--offline", "--sleep", "1s"))
	wants(t, out, "image: $CI_REGISTRY/docker:20.10.7", "Running with slipway", "Login Succeeded", "Using cache", "Job succeeded",
		"0 of 2 steps cached", "2 of 2 steps cached", "first run", "second run", "plain docker build", "overhead", "next: slipway register ")
	lacks(t, out, "section_start", "section_end")
	if o, log := r.end(beside); o.State != job.Success {
		t.Errorf("the job beside the demo ended as %+v:\n%s", o, log)
	}
	leavesNothing(t, r.engine, out)
}

// TestDemoInterrupted: Ctrl-C in mid-job leaves nothing either.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	e := engine(t)
	cmd := slipway("demo", "--offline", "--sleep", "60s")
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the build's long step", func() bool { return strings.Contains(out.String(), "Step 2/3") })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	leavesNothing(t, e, out.String())
}

// TestDemoAsOrdinaryUser: a member of the group that may use the socket needs no root.
func TestDemoAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	socket, err := os.Stat(e.Socket())
	if err != nil {
		t.Fatal(err)
	}
	group := socket.Sys().(*syscall.Stat_t).Gid
	if group == 0 || socket.Mode().Perm()&0o060 != 0o060 {
		t.Skip("the Engine's socket is for root alone")
	}
	// The test's own folder is closed to others.
	dir, err := os.MkdirTemp("/tmp", "slipway-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o1777); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "slipway")
	// By another process: what this one has open to write, a process that it starts for another test may hold, and then it does not run.
	if out, err := exec.Command("cp", os.Args[0], binary).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(binary, "demo", "--offline", "--sleep", "1s")
	cmd.Dir = dir
	cmd.Env = []string{asSlipway + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{group}}}
	wants(t, runDemo(t, cmd), "2 of 2 steps cached")
	left, err := filepath.Glob(filepath.Join(dir, "slipway-demo-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func runDemo(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("demo: %v\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "DATA RACE") {
		t.Errorf("data race:\n%s", out.String())
	}
	return out.String()
}

var demoRegistry = regexp.MustCompile(`registry on (127\.0\.0\.1:\d+),`)

// leavesNothing looks for what the demo made that printed this: images of its registry, and containers. Others may run at the same time.
func leavesNothing(t *testing.T, e *docker.Engine, out string) {
	t.Helper()
	found := demoRegistry.FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("the demo does not tell of its registry:\n%s", out)
	}
	images, err := e.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range images {
		if strings.HasPrefix(name, found[1]+"/") {
			t.Errorf("left behind: %s", name)
		}
	}
	containers, err := e.Containers(t.Context(), "slipway.demo="+found[1])
	if err != nil || len(containers) > 0 {
		t.Errorf("left behind: %+v (%v)", containers, err)
	}
}
