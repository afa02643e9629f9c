package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/executor"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestRunSingle: so many jobs of one runner, one after the other; or all that come until none does for a while.
func TestRunSingle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.stop()
	first, second, third := r.enqueue(spec("echo first")), r.enqueue(spec("exit 3")), r.enqueue(spec("echo third"))
	single := func(args ...string) string {
		t.Helper()
		cmd := r.command(append([]string{"run-single"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("run-single %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	single("--config", r.configPath(), "--runner", "rig", "--max-builds", "1")
	r.succeeds(first)
	if s := second.State(); s != coordinator.Pending {
		t.Errorf("the second job is %s", s)
	}
	wants(t, single("--config", r.configPath(), "--runner", "rig", "--wait-timeout", "15"), "stopped")
	o, log := r.end(second)
	r.ended(o, log, job.ScriptFailure, 3)
	r.succeeds(third)

	// Without any config.
	described := r.enqueue(spec("echo described in $CI_JOB_IMAGE"))
	cmd := r.command("run-single", "--url", r.url, "--token", r.token.Reveal(), "--executor", "docker", "--docker-image", alpine, "--docker-pull-policy", "if-not-present", "--max-builds", "1", "--state-dir", r.stateDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	r.succeeds(described)
	if out, err := r.command("run-single", "--config", r.configPath(), "--runner", "other").CombinedOutput(); err == nil || !strings.Contains(string(out), "other") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDoctor: all is well but for what this machine is like; a token that the server does not know is an error.
func TestDoctor(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket(), slipwayKeys(`socket = "raw"`))
	doctor := func() (string, error) {
		out, err := r.command("doctor", "--config", r.configPath()).CombinedOutput()
		return string(out), err
	}
	out, err := doctor()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, out, "1 of 1 runners are served", r.url+" takes its token", `GiB left; nothing is kept free (min_free = "0")`, "ok       the Engine sees "+r.stateDir(), "ok       git is there, 2.", ": the Engine makes the containers of its jobs",
		"warning  runner \"rig\"", `→ take socket = "raw" out of [runners.slipway]`)
	lacks(t, out, "error ")
	icc, err := exec.Command("docker", "network", "inspect", "bridge", "--format", `{{index .Options "com.docker.network.bridge.enable_icc"}}`).Output()
	if err != nil {
		t.Fatal(err)
	}
	const open, cure = "warning  containers on docker0 reach each other", `→ write "icc": false into daemon.json`
	if strings.TrimSpace(string(icc)) == "false" {
		lacks(t, out, open)
	} else {
		wants(t, out, open, cure)
	}
	// In a file of its own: the one of the rig is read by a slipway that would act on it.
	limited := func(limits string) string {
		path := filepath.Join(r.dir, "limited.toml")
		if err := os.WriteFile(path, []byte(strings.Replace(r.readOwn(), `min_free = "0"`, limits, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, _ := r.command("doctor", "--config", path).CombinedOutput()
		return string(out)
	}
	wants(t, limited(`build_cache = "50GB"`), "GiB free (min_free)", "ok       its build cache is kept within 50.0 GiB (build_cache)")
	wants(t, limited(`min_free = "90000GB"`), "warning  the state folder", "and slipway run removes what can be made again to keep 90000.0 GiB free (min_free)", "or lower min_free in [slipway.limits]")
	// What the Engine would not make a container of, or slipway no job.
	for keys, what := range map[string]string{
		`extra_hosts = ["nohost"]`:            `every job will fail: the Engine does not make the container of a job: `,
		`security_opt = ["seccomp=/no/such"]`: "/no/such: no such file",
		`network_mode = "no-such-network"`:    "network no-such-network not found",
		`service_memory = "1k"`:               "the Engine does not make the container of a service: ",
		`volumes = ["relative:path"]`:         `volume "relative:path" has no absolute path in the container`,
	} {
		path := filepath.Join(r.dir, "refused.toml")
		text := strings.Replace(r.readOwn(), "volumes = ", keys+"\n    volumes = ", 1)
		if strings.HasPrefix(keys, "volumes") {
			text = strings.Replace(r.readOwn(), "volumes = [", `volumes = ["relative:path", `, 1)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := r.command("doctor", "--config", path).CombinedOutput()
		if err == nil {
			t.Errorf("%s: no error", keys)
		}
		wants(t, string(out), "error    runner \"rig\"", what)
	}
	for c := range strings.FieldsSeq(r.raw("ps", "--all", "--format", "{{.Names}}", "--filter", "label="+r.instance())) {
		t.Errorf("left: %s", c)
	}
	r.RemoveRunner(r.token)
	if out, err = doctor(); err == nil {
		t.Error("no error")
	}
	wants(t, out, "error    runner \"rig\"", "does not take its token")
	if left, err := filepath.Glob(filepath.Join(r.stateDir(), "probe-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// TestDoctorTakesAnyImage: one that has no command says nothing about the configuration.
func TestDoctorTakesAnyImage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	recipe := demo.Alpine()
	recipe.Cmd = nil
	x := executor.Executor{Engine: r.engine, Settings: executor.Settings{Image: alpine, FeatureFlag: (&config.Runner{}).FeatureFlag}}
	if err := x.Try(t.Context(), r.image(recipe)); err != nil {
		t.Error(err)
	}
	x.Settings.Services.Container.Limits.Memory = 1
	if err := x.Try(t.Context(), r.image(recipe)); err == nil {
		t.Error("what the Engine does not make is not found")
	}
}

// TestDoctorAsksTheBucket: whether caches will be kept is told before a job finds out.
func TestDoctorAsksTheBucket(t *testing.T) {
	t.Parallel()
	server := newS3(t)
	for access, want := range map[string][]string{
		"known":   {": its bucket caches answers\n"},
		"unknown": {"warning  runner \"rig\" (", ": caches are kept on this machine only: the bucket caches on ", "[InvalidAccessKeyId]\n", "→ check AccessKey, SecretKey and SessionToken in [runners.cache.s3]"},
	} {
		r := newRig(t, server.runner(access, ""))
		out, err := r.command("doctor", "--config", r.configPath()).CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		wants(t, string(out), want...)
		lacks(t, string(out), "hidden-secret")
	}
	if left := server.names(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
