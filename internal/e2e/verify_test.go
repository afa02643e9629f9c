package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// verified lets a rig's runner run a job of its own before it asks for others.
func verified(r *rig) {
	r.global += "listen_address = \"127.0.0.1:0\"\n"
	r.runner += "  [runners.experimental.boot_verify]\n    enabled = true\n    timeout = \"2s\"\n    acquire_max_backoff = \"2s\"\n"
}

// address is where slipway serves metrics and health.
func (r *rig) address() string {
	r.t.Helper()
	all := regexp.MustCompile(`serving metrics and health.*address=(\S+)`).FindAllStringSubmatch(r.log.String(), -1)
	if all == nil {
		r.t.Fatalf("no address in the log:\n%s", r.log)
	}
	return "http://" + all[len(all)-1][1]
}

func (r *rig) health() string { return fetch(r.t, r.address()+"/health/ready") }

// isReady waits until slipway is, or is not.
func (r *rig) isReady(ready bool) {
	r.t.Helper()
	want := map[bool]string{true: "200 ready\n", false: "503 not ready\n"}[ready]
	r.eventually("/health/ready says "+want, func() bool { return r.health() == want })
}

// process is what /debug/process/state says.
func (r *rig) processState() (s struct {
	State   string
	Ready   bool
	Config  struct{ File string }
	Slots   struct{ Concurrent, Running int }
	Runners []struct {
		Name, URL, Executor string
		Verified            bool
	}
	Jobs        []struct{ State, Stage string }
	Undelivered []struct{ Job int64 }
},
) {
	r.t.Helper()
	page := fetch(r.t, r.address()+"/debug/process/state")
	lacks(r.t, page, r.token.Reveal())
	if err := json.Unmarshal([]byte(strings.TrimPrefix(page, "200 ")), &s); err != nil {
		r.t.Fatalf("%v: %s", err, page)
	}
	return s
}

// trialsGone fails the test unless nothing is left of the jobs of its own.
func (r *rig) trialsGone() {
	r.t.Helper()
	r.leavesNothing()
	if left, _ := filepath.Glob(filepath.Join(r.stateDir(), "trials", "*")); len(left) > 0 {
		r.t.Errorf("left are %q", left)
	}
	volumes, err := r.engine.Volumes(r.t.Context(), r.instance())
	if err != nil || len(volumes) > 0 {
		r.t.Errorf("volumes %v, %v", volumes, err)
	}
}

// TestBootVerify: no job is asked for, and slipway is not ready, before the image is there, also when it is another one after a reload.
func TestBootVerify(t *testing.T) {
	t.Parallel()
	missing := func(n int) string { return fmt.Sprintf("slipway.test/verify-%d-%d:1", os.Getpid(), n) }
	r := newRig(t, verified, withSocket(), dockerKeys("pull_policy = \"never\""), func(r *rig) { r.byDefault = missing(1) })
	j := r.enqueue(spec("echo at last"))
	r.logged("a job of our own fails", "image "+missing(1)+" is not on this machine, and the pull policy is never (pull it on the runner's machine, or allow another pull policy)",
		"no job of our own succeeded within the timeout of boot_verify")
	r.isReady(false)
	if s := r.processState(); s.State != "running" || s.Ready || s.Config.File != r.configPath() || s.Slots.Concurrent != 4 || len(s.Runners) != 1 || s.Runners[0].Verified || s.Runners[0].Name != "rig" {
		t.Errorf("%+v", s)
	}
	if j.State() != coordinator.Pending {
		t.Errorf("the job is %s", j.State())
	}
	lacks(t, r.log.String(), "got a job")
	r.imageNamed(missing(1), demo.Alpine())
	r.isReady(true)
	r.succeeds(j)
	r.logged("boot-verify-42", "asking for others now")
	if s := r.processState(); !s.Ready || !s.Runners[0].Verified {
		t.Errorf("%+v", s)
	}
	lacks(t, r.log.String(), "job started job=0") // but for details
	r.trialsGone()

	// An image of another name, in which nothing can run.
	r.byDefault = missing(2)
	r.imageNamed(missing(2), demo.Recipe{Programs: map[string]string{"/bin/other": "true"}})
	r.writeConfig()
	r.signal(syscall.SIGHUP)
	r.logged("the image has no sh, which runs the script")
	r.isReady(false)
	r.byDefault = missing(1)
	r.writeConfig()
	r.signal(syscall.SIGHUP)
	r.isReady(true)
	r.must(job.Success, spec("true"))
	r.trialsGone()
}

// TestBootVerifyOfShell: the profile of the jobs' user ends the shell. Slipway can be told to end meanwhile, and leaves nothing.
func TestBootVerifyOfShell(t *testing.T) {
	t.Parallel()
	mark := filepath.Join(t.TempDir(), "fixed")
	r := newRig(t, inShell(""), verified, withHome(map[string]string{".bash_profile": "[ -e " + mark + " ] || exit 7\n[ ! -e " + mark + ".slow ] || " + nap(9) + "\n"}))
	j := r.enqueue(spec("echo at last"))
	r.logged("the shell ended before the script did", "look at /etc/profile and the profile of the user")
	r.isReady(false)
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r.isReady(true)
	r.succeeds(j)
	if err := os.WriteFile(mark+".slow", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGTERM} {
		r.stop()
		r.runner = strings.Replace(r.runner, `timeout = "2s"`, `timeout = "1h"`, 1)
		r.writeConfig()
		r.start()
		r.eventually("the profile is read", func() bool { return lives(nap(9)) })
		r.isReady(false)
		r.signal(sig)
		if code := r.exit(); code != 0 {
			t.Errorf("exit code %d after %s", code, sig)
		}
		if lives(nap(9)) {
			t.Errorf("the job of its own lives on after %s", sig)
		}
	}
}

// TestBootVerifyAsAnotherUser: the script really runs as the jobs' user.
func TestBootVerifyAsAnotherUser(t *testing.T) {
	t.Parallel()
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, inShell("nobody"), verified, runnerKeys(""), func(r *rig) {
		r.runner = "  builds_dir = \"" + filepath.Join(closed, "builds") + "\"\n" + r.runner
	})
	r.logged("a job of our own fails")
	r.isReady(false)
	if err := os.Chmod(closed, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(closed), 0o711); err != nil {
		t.Fatal(err)
	}
	r.isReady(true)
	r.must(job.Success, spec("true"))
}

// TestProcessState: a job at work, and one whose end the server cannot be told.
func TestProcessState(t *testing.T) {
	t.Parallel()
	r := newRig(t, globalKeys(`listen_address = "127.0.0.1:0"`), runnerKeys("  job_status_final_update_retry_limit = 1"))
	r.isReady(true)
	away := r.enqueue(spec("echo begun", "until rm go-on 2>/dev/null; do sleep 0.1; done"))
	r.until(away, "\nbegun\n")
	mend := r.Inject(coordinator.Fault{Match: about(away), Status: http.StatusBadGateway, Times: -1})
	r.tell(away)
	r.eventually("its end cannot be told", func() bool {
		s := r.processState()
		return len(s.Jobs) == 0 && len(s.Undelivered) == 1 && s.Undelivered[0].Job == away.ID()
	})
	mend()
	r.succeeds(away)
	r.eventually("its end was told", func() bool { return len(r.processState().Undelivered) == 0 })
	j, release := r.waiting()
	r.eventually("the job is at its script", func() bool {
		s := r.processState()
		return len(s.Jobs) == 1 && s.Jobs[0].Stage == "step_script" && s.Slots.Running == 1
	})
	r.signal(syscall.SIGQUIT)
	r.eventually("it stops gracefully", func() bool { return r.processState().State == "stopping gracefully" })
	release()
	r.succeeds(j)
	if code := r.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestBootVerifyEnds: slipway is told to end, or killed, while the container of a job of its own runs: it goes, by the next start at the latest.
func TestBootVerifyEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, verified, func(r *rig) {
		r.byDefault = r.image(withEntrypoint("sleep 100000\nexec \"$@\"\n"))
		r.runner = strings.Replace(r.runner, `timeout = "2s"`, `timeout = "1h"`, 1)
	})
	running := func() bool {
		list, err := r.engine.Containers(t.Context(), r.instance())
		return err == nil && len(list) == 1 && list[0].Running
	}
	r.eventually("a container runs", running)
	r.kill()
	r.start()
	r.logged("removing a container that a killed runner left")
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGTERM} {
		r.eventually("a container runs", running)
		r.isReady(false)
		r.signal(sig)
		if code := r.exit(); code != 0 {
			t.Errorf("exit code %d after %s", code, sig)
		}
		r.trialsGone()
		r.start()
	}
	lacks(t, r.log.String(), "a job of our own fails")
}
