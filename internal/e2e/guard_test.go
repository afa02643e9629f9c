package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// slipwayKeys adds lines to [runners.slipway].
func slipwayKeys(lines string) option { return runnerKeys("  [runners.slipway]\n    " + lines) }

// inProject makes a job one of another project of the same GitLab.
func inProject(s *job.Spec, id int64, path string) *job.Spec {
	s.JobInfo.ProjectID, s.JobInfo.ProjectFullPath, s.JobInfo.ProjectName = id, path, filepath.Base(path)
	return s
}

// withDocker is a job in an image with a docker client.
func withDocker(script ...string) *job.Spec { return withImage(spec(script...), dockerClient) }

// untilTold keeps a job in its place until tell lets it go on.
const untilTold = "until test -e go-on; do sleep 0.1; done; rm go-on"

// tell lets a job go on that waits in untilTold.
func (r *rig) tell(j *coordinator.Job) {
	r.t.Helper()
	c := r.jobContainer(j)
	code, out, err := r.engine.Exec(context.Background(), c, "0", "sh", "-c", "for d in /builds/group/*; do touch $d/go-on; done")
	if err != nil || code != 0 {
		r.t.Fatalf("exec in the job's container: %v, exit code %d: %s", err, code, out)
	}
}

// jobContainer is the ID of the container that a job runs in.
func (r *rig) jobContainer(j *coordinator.Job) string {
	r.t.Helper()
	return r.containerOf(j, "build")
}

// containerOf is the ID of a job's only container of that type.
func (r *rig) containerOf(j *coordinator.Job, kind string) string {
	r.t.Helper()
	var ids []string
	for _, c := range r.containers(j) {
		if c.Labels["com.gitlab.gitlab-runner.type"] == kind {
			ids = append(ids, c.ID)
		}
	}
	if len(ids) != 1 {
		r.t.Fatalf("job %d has %d containers of type %s:\n%s", j.ID(), len(ids), kind, plain(j.Trace()))
	}
	return ids[0]
}

// raw runs the docker client on the Engine's own socket.
func (r *rig) raw(args ...string) string {
	r.t.Helper()
	out, err := r.tryRaw(args...)
	if err != nil {
		r.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (r *rig) tryRaw(args ...string) (string, error) {
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix:///var/run/docker.sock")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// leftOnEngine is what jobs of the rig made through their sockets and what is still there.
func (r *rig) leftOnEngine() string {
	r.t.Helper()
	var left []string
	for _, kind := range [][]string{{"ps", "-aq"}, {"network", "ls", "-q"}, {"volume", "ls", "-q"}} {
		if out := r.raw(append(kind, "--filter", "label=slipway.guard", "--filter", "label="+r.instance())...); strings.TrimSpace(out) != "" {
			left = append(left, kind[0]+": "+strings.Join(strings.Fields(out), " "))
		}
	}
	return strings.Join(left, "; ")
}

// cleanAfter fails the test if something of the rig's jobs is still on the Engine or among the mounts.
func (r *rig) cleanAfter() {
	r.t.Helper()
	if left := r.leftOnEngine(); left != "" {
		r.t.Errorf("left on the Engine: %s", left)
	}
	if entries, err := os.ReadDir(filepath.Join(r.stateDir(), "guard")); err != nil || len(entries) > 0 {
		r.t.Errorf("folders of guards are left: %v (%v)", entries, err)
	}
	r.nothingIsMounted()
}

// nothingIsMounted fails the test if something is mounted in the state folder.
func (r *rig) nothingIsMounted() {
	r.t.Helper()
	dir, linkErr := filepath.EvalSymlinks(r.stateDir())
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err := errors.Join(linkErr, err); err != nil {
		r.t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(dir)) {
		r.t.Errorf("mounts are left below %s:\n%s", dir, mounts)
	}
}

// companySecret is a file of the host that no job has to do with.
func companySecret(t *testing.T) (dir, secret string) {
	t.Helper()
	dir, secret = t.TempDir(), "company-secret-of-this-host"
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, secret
}

// TestGuardedPipeline is the article's pipeline, twice: cold and warm.
func TestGuardedPipeline(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	registry, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	project := coordinator.Project{ID: 7, Path: "group/demo", Registry: registry.Host, RegistryUser: registry.User, RegistryPassword: job.Secret(registry.Password)}
	r.AddProject(project)
	image := registry.Host + "/group/demo:main"
	t.Cleanup(func() { _ = r.engine.RemoveImage(context.Background(), image) })
	run := func() string {
		t.Helper()
		return r.must(job.Success, withVariables(withDocker(
			"printf 'FROM "+alpine+"\\nRUN echo "+r.token.Short()+" >/long\\nCOPY file /\\n' >Dockerfile; echo text >file; touch -d @0 file",
			`docker login -u "$USER_NAME" -p "$PASSWORD" `+registry.Host,
			"docker build -t "+image+" .", "docker push "+image, "docker run --rm "+image+" cat /file",
		), "USER_NAME", registry.User, "PASSWORD", registry.Password))
	}
	first := run()
	wants(t, first, "Login Succeeded", "Successfully built", "Successfully tagged "+image, "\ntext\n", "main: digest: sha256:")
	lacks(t, first, "WARNING: the Engine's socket is mounted raw")
	wants(t, run(), "Using cache")
	r.cleanAfter()
}

// TestAttacks are the two of the article, and their relatives, by a job of another project at the same time.
func TestAttacks(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	host, secret := companySecret(t)
	const password = "hunter2-of-the-victim"
	victim := r.enqueue(withVariables(inProject(withDocker(
		"docker run -d --name db "+alpine+" sleep 300", "echo begun", untilTold, "docker exec db echo still there",
	), 8, "group/victim"), "SECRET_PASSWORD", password))
	r.until(victim, "\nbegun\n")
	theirs := strings.Fields(r.raw("ps", "--filter", "label="+r.instance(), "--format", "{{.ID}} {{.Names}}"))
	if len(theirs) != 4 {
		t.Fatalf("the victim has %q", theirs)
	}
	var script []string
	for _, ref := range theirs {
		script = append(script,
			"! docker exec "+ref+` sh -c 'echo $SECRET_PASSWORD'`, "! docker inspect "+ref, "! docker kill "+ref, "! docker rm -f "+ref+" | grep "+ref,
			"! docker logs "+ref, "! docker cp "+ref+":/etc/passwd -", "! docker run --rm --pid container:"+ref+" "+alpine+" ps",
			"! docker run --rm --volumes-from "+ref+" "+alpine+" ls",
		)
	}
	script = append(script,
		"! docker run --rm -v "+host+":/tmp "+alpine+" cat /tmp/secret",
		"! docker run --rm --mount type=bind,source="+host+",target=/tmp "+alpine+" cat /tmp/secret",
		"! docker run --rm --privileged "+alpine+" true", "! docker run --rm --pid host "+alpine+" true",
		"! docker run --rm -v /var/run:/r "+alpine+" true", "! docker run --rm -v /:/r "+alpine+" true",
		"docker ps -a --no-trunc", "docker volume ls", "docker network ls", "echo attacked",
	)
	log := r.must(job.Success, inProject(withDocker(script...), 9, "group/attacker"))
	wants(t, log, "denied by slipway [", "No such container: "+theirs[0], "WARNING: denied by slipway [", "\nattacked\n")
	lacks(t, log, password, secret)
	listed := log[strings.Index(log, "$ docker ps -a --no-trunc"):]
	for _, ref := range theirs {
		lacks(t, listed, ref)
	}
	r.tell(victim)
	o, victimLog := r.end(victim)
	if o.State != job.Success {
		t.Errorf("the victim ended as %+v:\n%s", o, victimLog)
	}
	wants(t, victimLog, "\nstill there\n")
	r.cleanAfter()
}

// TestForgedVariables: a pipeline that says that it is another project's gains nothing.
func TestForgedVariables(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	registry, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	for id, path := range map[int64]string{7: "group/demo", 8: "group/victim"} {
		r.AddProject(coordinator.Project{ID: id, Path: path, Registry: registry.Host, RegistryUser: registry.User, RegistryPassword: job.Secret(registry.Password)})
	}
	theirs := registry.Host + "/group/victim"
	t.Cleanup(func() { _ = r.engine.RemoveImage(context.Background(), theirs+":latest") })
	r.must(job.Success, inProject(withDocker("docker tag "+alpine+" "+theirs), 8, "group/victim"))
	before := r.raw("image", "inspect", "--format", "{{.Id}}", theirs)
	log := r.must(job.Success, withVariables(withDocker(
		"echo $CI_REGISTRY_IMAGE", "! docker run --rm $CI_REGISTRY_IMAGE true", "! docker image inspect $CI_REGISTRY_IMAGE",
		"printf 'FROM "+alpine+"\\nLABEL evil=yes\\n' | docker build -t $CI_REGISTRY_IMAGE - || echo refused",
		"docker rmi $CI_REGISTRY_IMAGE || echo gone anyway",
	), "CI_REGISTRY", registry.Host, "CI_REGISTRY_IMAGE", theirs, "CI_PROJECT_ID", "8", "CI_PROJECT_PATH", "group/victim", "CI_COMMIT_REF_PROTECTED", "true"))
	wants(t, log, "\n"+theirs+"\n")
	if after := r.raw("image", "inspect", "--format", "{{.Id}}", theirs); after != before {
		t.Errorf("the victim's image is %s, was %s:\n%s", after, before, log)
	}
}

// TestLeftovers: what a job leaves is gone when the job is, and its log says what that was.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	leave := []string{
		"docker network create net", "docker volume create vol", "docker run -d --name left --network net -v vol:/v " + alpine + " sleep 300",
		"docker create --restart always " + alpine + " true",
	}
	t.Run("after success", func(t *testing.T) {
		r := r.in(t)
		log := r.must(job.Success, withDocker(leave...))
		wants(t, log, "2 containers", "1 volume")
		r.cleanAfter()
	})
	t.Run("after a failure", func(t *testing.T) {
		r := r.in(t)
		r.fails(job.ScriptFailure, 3, withDocker(append(leave, "exit 3")...))
		r.cleanAfter()
	})
	t.Run("after a forced cancel", func(t *testing.T) {
		r := r.in(t)
		j := r.enqueue(withDocker(append(leave, "echo made", "sleep 300")...))
		r.until(j, "\nmade\n")
		j.Cancel(true)
		// The guard's folder goes before the job's container does.
		r.eventually("all is gone", func() bool { return r.leftOnEngine() == "" && len(r.containers(j)) == 0 })
		r.cleanAfter()
	})
	t.Run("when the container cannot be made", func(t *testing.T) {
		r := r.in(t)
		r.fails(job.ConfigurationError, 0, withImage(spec("true"), dockerClient, "/nowhere"))
		r.cleanAfter()
	})
}

// TestJobOutlivesItsOwnPrune: the usual first lines of a script for a machine of one's own.
func TestJobOutlivesItsOwnPrune(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	log := r.must(job.Success, withDocker(
		"docker run -d --name xx "+alpine+" sleep 300", "docker rm -f $(docker ps -aq)", "docker system prune -af --volumes", "docker ps -a",
		"docker run --rm "+alpine+" echo it lives", "docker exec $(hostname) echo and is entered",
	))
	wants(t, log, "\nit lives\n", "\nand is entered\n")
	r.cleanAfter()
}

// TestSocketModes: what a volume that is the Engine's socket gives.
func TestSocketModes(t *testing.T) {
	t.Parallel()
	other := newRig(t, withSocket())
	victim := other.enqueue(withDocker("echo begun", untilTold))
	other.until(victim, "\nbegun\n")
	seen := other.jobContainer(victim)[:12]
	t.Run("modes", func(t *testing.T) { // ends when all of them have
		for _, c := range []struct {
			mode, check     string
			sees            bool
			warns, warnsNot string
		}{
			{"", "docker ps", false, "", "mounted raw"},
			{`socket = "guarded"`, "docker ps", false, "", "mounted raw"},
			{`socket = "raw"`, "docker ps", true, "WARNING: the Engine's socket is mounted raw", ""},
			{`socket = "off"`, "ls /var/run/docker.sock || echo no socket", false, "", "mounted raw"},
		} {
			t.Run(c.mode, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, withSocket(), slipwayKeys(c.mode))
				log := r.must(job.Success, withDocker(c.check))
				if strings.Contains(log, seen) != c.sees {
					t.Errorf("the other Slipway's job is seen: %t\n%s", !c.sees, log)
				}
				if c.warnsNot != "" {
					lacks(t, log, c.warnsNot)
				}
				wants(t, log, c.warns)
				if strings.Contains(c.mode, "off") {
					wants(t, log, "\nno socket\n")
				}
			})
		}
	})
	other.tell(victim)
	other.end(victim)
}

// TestAudit: what would be refused is done, and noted.
func TestAudit(t *testing.T) {
	t.Parallel()
	host, secret := companySecret(t)
	r := newRig(t, withSocket(), slipwayKeys(`socket_policy = "audit"`))
	log := r.must(job.Success, withDocker("docker run --rm -v "+host+":/tmp "+alpine+" cat /tmp/secret"))
	wants(t, log, "\n"+secret+"\n", `socket_policy = "audit"`, "audit: would be denied by slipway [bind-outside]")
	r.cleanAfter()
}

// TestTrustConfig: keys that undo the guard are given only with it, and the log says so.
func TestTrustConfig(t *testing.T) {
	t.Parallel()
	keys := dockerKeys("cap_add = [\"SYS_PTRACE\"]\n    devices = [\"/dev/null:/dev/given\"]\n    volumes = [\"/var/run/docker.sock:/var/run/docker.sock\"]")
	script := "grep CapEff /proc/self/status; ls /dev/given || echo not given"
	t.Run("without", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, keys)
		log := r.must(job.Success, withDocker(script, "docker version"))
		wants(t, log, "WARNING: cap_add in [runners.docker] is not given to this job", "WARNING: devices in [runners.docker] is not given", "CapEff:\t00000000a80405fb", "\nnot given\n")
		r.logged("would undo the guard of its socket")
	})
	t.Run("with", func(t *testing.T) {
		t.Parallel()
		log := newRig(t, keys, slipwayKeys("trust_config = true")).must(job.Success, withDocker(script, "docker version"))
		wants(t, log, "WARNING: trust_config = true in [runners.slipway]: the guard of the Engine's socket does not hold")
		lacks(t, log, "CapEff:\t00000000a80405fb", "\nnot given\n")
	})
}

// TestVolumesAroundTheGuard: a job does not run where a volume leads to the Engine by another way.
func TestVolumesAroundTheGuard(t *testing.T) {
	t.Parallel()
	for _, volume := range []string{"/var/run:/host/run", "/:/host:ro", "/var/lib/docker:/d", "/run/docker:/x"} {
		t.Run(volume, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, dockerKeys(fmt.Sprintf("volumes = [%q]", volume)))
			log := r.fails(job.ConfigurationError, 0, spec("echo never"))
			wants(t, log, fmt.Sprintf("volume %q of `volumes` in [runners.docker] gives jobs", volume), "trust_config = true")
			lacks(t, log, "\nnever")
			wants(t, r.log.String(), "every job of this runner will fail", "trust_config = true")
		})
	}
	// A volume of the Engine's that is a folder of the machine.
	t.Run("by a volume's name", func(t *testing.T) {
		t.Parallel()
		name := fmt.Sprintf("slipway-test-%d", os.Getpid())
		r := newRig(t, dockerKeys(fmt.Sprintf(`volumes = ["%s:/host/run"]`, name)))
		r.raw("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", "device=/var/run", name)
		t.Cleanup(func() { r.raw("volume", "rm", name) })
		wants(t, r.fails(job.ConfigurationError, 0, spec("echo never")), "the Engine's own socket")
	})
	t.Run("the socket at another place", func(t *testing.T) {
		t.Parallel()
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink("/var/run/docker.sock", link); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, dockerKeys(fmt.Sprintf(`volumes = ["%s:/my.sock:ro"]`, link)))
		host, secret := companySecret(t)
		log := r.must(job.Success, withDocker("export DOCKER_HOST=unix:///my.sock", "docker version", "! docker run --rm -v "+host+":/tmp "+alpine+" cat /tmp/secret"))
		wants(t, log, "denied by slipway [")
		lacks(t, log, secret)
	})
}

// TestBindOfTheWorkspace: the job's folder is mounted as the job sees it, and both see one another's files.
func TestBindOfTheWorkspace(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	log := r.must(job.Success, withDocker(
		"echo of the job >file; mkdir sub; echo below >sub/file",
		"docker run --rm -v $PWD:/app "+alpine+" sh -c 'cat /app/file; echo of the container >/app/new'", "cat new",
		"docker run --rm -v $PWD/sub:/s:ro "+alpine+" cat /s/file", "docker run --rm --volumes-from $(hostname) "+alpine+" cat $PWD/file",
		"docker run --rm -v /var/run/docker.sock:/var/run/docker.sock "+dockerClient+" docker version --format '{{.Server.Os}}'",
	))
	wants(t, log, "\nof the job\n", "\nof the container\n", "\nbelow\n", "\nlinux\n")
	lacks(t, log, "removed what the job left") // its default network is the guard's own affair
	r.cleanAfter()
}

// TestSameNamesAndPorts: two jobs at once have a container of the same name with the same port, each its own.
func TestSameNamesAndPorts(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	script := func(who string) *job.Spec {
		return withDocker(
			"docker run -d --name db -p 8080:80 "+alpine+" sh -c 'mkdir /www; echo I am "+who+" >/www/index.html; exec httpd -f -p 80 -h /www'",
			"until wget -qO- http://localhost:8080/; do sleep 0.2; done",
			"echo by name: $(wget -qO- http://db/)", "docker ps --format '{{.Names}} {{.Ports}}'", "echo begun", untilTold,
		)
	}
	a, b := r.enqueue(inProject(script("A"), 8, "group/a")), r.enqueue(inProject(script("B"), 9, "group/b"))
	r.until(a, "\nbegun\n")
	r.until(b, "\nbegun\n")
	for j, who := range map[*coordinator.Job]string{a: "A", b: "B"} {
		r.tell(j)
		o, log := r.end(j)
		if o.State != job.Success {
			t.Errorf("%s ended as %+v:\n%s", who, o, log)
		}
		wants(t, log, "\nI am "+who+"\n", "\nby name: I am "+who+"\n", "\ndb ", ":8080->80/tcp")
	}
	r.cleanAfter()
}

// TestLimitsOfAllTogether: what the operator lets a job use holds for all its containers together.
func TestLimitsOfAllTogether(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root makes cgroups")
	}
	if driver := strings.TrimSpace(newRig(t).raw("info", "--format", "{{.CgroupDriver}}")); driver != "cgroupfs" {
		t.Skip("the Engine has systemd make its cgroups")
	}
	r := newRig(t, withSocket(), dockerKeys("memory = \"96m\"\n    cpus = \"1.5\""))
	j := r.enqueue(withDocker("cat /proc/self/cgroup", "docker run --rm --memory 1g "+alpine+" cat /proc/self/cgroup", "echo begun", untilTold))
	r.until(j, "\nbegun\n")
	glob := func(file string) []string {
		found, _ := filepath.Glob("/sys/fs/cgroup/*/slipway/" + r.instanceID() + "-*/" + file)
		more, _ := filepath.Glob("/sys/fs/cgroup/slipway/" + r.instanceID() + "-*/" + file)
		return append(found, more...)
	}
	for want, files := range map[string][]string{
		"100663296": {"memory.limit_in_bytes", "memory.max"}, "150000": {"cpu.cfs_quota_us", "cpu.max"},
	} {
		found := append(glob(files[0]), glob(files[1])...)
		if len(found) == 0 {
			t.Errorf("there is no %q", files)
		}
		for _, file := range found {
			if text, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(text), want) {
				t.Errorf("%s is %q (%v)", file, text, err)
			}
		}
	}
	r.tell(j)
	o, log := r.end(j)
	if o.State != job.Success {
		t.Errorf("job ended as %+v:\n%s", o, log)
	}
	if n := strings.Count(log, "memory:/slipway/"+r.instanceID()+"-") + strings.Count(log, "0::/slipway/"+r.instanceID()+"-"); n < 2 {
		t.Errorf("both containers are not in the job's cgroup:\n%s", log)
	}
	r.eventually("the cgroups are gone", func() bool { return len(glob("")) == 0 })
}

// TestKilledRunner: what the jobs of a killed runner made is gone after the next start.
func TestKilledRunner(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	j := r.enqueue(withDocker(
		"docker network create net", "docker volume create vol", "docker run -d --name left --network net -v vol:/v -v $PWD:/app "+alpine+" sleep 300",
		"echo in the middle", "sleep 300",
	))
	r.until(j, "\nin the middle\n")
	if r.leftOnEngine() == "" {
		t.Fatal("nothing was made")
	}
	r.kill()
	r.start()
	r.end(j)
	r.eventually("all is gone", func() bool { return r.leftOnEngine() == "" })
	r.cleanAfter()
}

// TestGuardOfOrdinaryUser: without root the guard holds too; what needs root is refused with the cure.
func TestGuardOfOrdinaryUser(t *testing.T) {
	t.Parallel()
	host, secret := companySecret(t)
	r := newRig(t, withSocket(), ordinaryUser(t))
	part, answer := "! docker run --rm -v $PWD/sub:/app "+alpine+" true", "denied by slipway [needs-root]"
	if r.apiAtLeast(45) { // it mounts parts of a folder safely by itself
		part, answer = "docker run --rm -v $PWD/sub:/app "+alpine+" cat /app/file", "\nbelow\n"
	}
	log := r.must(job.Success, withDocker(
		"docker run --rm --name xx "+alpine+" echo it runs", "echo of the job >file; mkdir sub; echo below >sub/file",
		"docker run --rm -v $PWD:/app "+alpine+" cat /app/file", part,
		"! docker run --rm -v "+host+":/tmp "+alpine+" cat /tmp/secret",
	))
	wants(t, log, "\nit runs\n", "\nof the job\n", answer, "denied by slipway [")
	lacks(t, log, secret)
	r.cleanAfter()
}

// TestGuardAlone is `slipway guard` with a command, and by signal.
func TestGuardAlone(t *testing.T) {
	t.Parallel()
	e := engine(t)
	dir := t.TempDir()
	work, stateDir := filepath.Join(dir, "work"), filepath.Join(dir, "state")
	// The state folder lies on another disk, say.
	if err := errors.Join(os.MkdirAll(filepath.Join(work, "part"), 0o755), os.Mkdir(filepath.Join(dir, "disk"), 0o700), os.Symlink("disk", stateDir)); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"file", "part/file"} {
		if err := os.WriteFile(filepath.Join(work, file), []byte("of the workspace\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	host, secret := companySecret(t)
	guarded := func(args ...string) *exec.Cmd {
		return slipway(append([]string{"guard", "--state", stateDir}, args...)...)
	}
	count := func() int {
		list, err := e.Containers(t.Context(), "slipway.guard")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, c := range list {
			if strings.HasPrefix(c.Labels["slipway.state"], stateDir+"/") {
				n++
			}
		}
		return n
	}

	out, err := guarded("--workspace", work+":/builds/app", "--", "sh", "-c",
		"docker run --rm -v /builds/app:/app "+alpine+" cat /app/file; docker run --rm -v "+host+":/tmp "+alpine+" cat /tmp/secret; docker run -d "+alpine+" sleep 300; exit 7").CombinedOutput()
	if exitCode(err) != 7 {
		t.Errorf("%v, want exit code 7", err)
	}
	wants(t, string(out), "of the workspace\n", "slipway: denied by slipway [")
	lacks(t, string(out), secret)
	if n := count(); n != 0 {
		t.Errorf("%d containers are left", n)
	}

	// Two at once, each in its own world, until a signal.
	start := func(name string) (*exec.Cmd, *lockedBuffer, func(args ...string) (string, error)) {
		socket, log := filepath.Join(dir, name), &lockedBuffer{}
		cmd := guarded("--listen", socket, "--workspace", work+":/builds/app")
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the guard listens", func() bool { return strings.Contains(log.String(), "slipway: serving DOCKER_HOST=unix://"+socket) })
		return cmd, log, func(args ...string) (string, error) {
			docker := exec.Command("docker", args...)
			docker.Env = append(os.Environ(), "DOCKER_HOST=unix://"+socket)
			out, err := docker.CombinedOutput()
			return string(out), err
		}
	}
	a, logA, dockerA := start("a")
	b, _, dockerB := start("b")
	for _, docker := range []func(...string) (string, error){dockerA, dockerB} {
		if out, err := docker("run", "-d", "--name", "db", "-v", "/builds/app/part:/app", alpine, "sleep", "300"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	if out, err := dockerA("ps", "--format", "{{.Names}}"); err != nil || out != "db\n" {
		t.Errorf("A sees %q (%v)", out, err)
	}
	if out, err := guarded("--listen", filepath.Join(dir, "a")).CombinedOutput(); exitCode(err) != 2 || !strings.Contains(string(out), "somebody else serves") {
		t.Errorf("a second guard on one socket: %v: %s", err, out)
	}
	_ = a.Process.Signal(syscall.SIGTERM)
	if err := a.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, logA)
	}
	wants(t, logA.String(), "1 container")
	if n := count(); n != 1 {
		t.Errorf("%d containers are left, want B's", n)
	}
	// One that is killed: the next one removes what it left, and nothing of the folder that a container has.
	_ = b.Process.Kill()
	_ = b.Wait()
	if out, err := guarded("--", "true").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	eventually(t, "no container of the killed guard is left", func() bool { return count() == 0 })
	if left, err := os.ReadDir(filepath.Join(stateDir, "alone")); err != nil || len(left) > 0 {
		t.Errorf("folders are left: %v (%v)", left, err)
	}
	if b, err := os.ReadFile(filepath.Join(work, "part", "file")); err != nil || string(b) != "of the workspace\n" {
		t.Errorf("in the workspace is %q (%v)", b, err)
	}
}

// TestImageNamedByAnotherProject: what a job names is no image for the jobs of other projects, and runs in none of them.
func TestImageNamedByAnotherProject(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket(), dockerKeys(`pull_policy = "never"`))
	name := fmt.Sprintf("alpine:3.99-%d", os.Getpid())
	r.must(job.Success, withDocker("docker tag "+alpine+" "+name+" && docker image inspect "+name))
	if out := r.raw("images", "--quiet", name); out != "" {
		t.Errorf("the Engine's name is %s", out)
	}
	t.Cleanup(func() {
		for stored := range strings.Lines(r.raw("images", "--format", "{{.Repository}}:{{.Tag}}")) {
			if strings.HasSuffix(strings.TrimSpace(stored), "/"+name) {
				r.raw("rmi", strings.TrimSpace(stored))
			}
		}
	})
	log := r.must(job.Success, withImage(spec("echo ran"), name))
	wants(t, log, "Using the image that a job of this project named "+name, "\nran\n")
	log = r.fails(job.ConfigurationError, 0, inProject(withImage(spec("echo ran"), name), 8, "group/other"))
	wants(t, log, "image "+name+" is not on this machine")
	lacks(t, log, "\nran\n")
}

// TestGuardOfAContainer is `slipway guard` for another runner's job: its container's mounts, names and limits are the job's.
func TestGuardOfAContainer(t *testing.T) {
	t.Parallel()
	e := engine(t)
	dir, host := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("of the job\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, engine: e}
	job := strings.TrimSpace(r.raw("run", "-d", "--memory", "64m", "--cap-drop", "NET_RAW", "-v", host+":/builds/app", "-v", "/var/run:/host/run", alpine, "sleep", "300"))
	t.Cleanup(func() { r.raw("rm", "-f", job) })
	script := `set -ex
docker ps --no-trunc -q
docker run --rm -v /builds/app:/a ALPINE cat /a/file
docker run -d --name web -p 8080:80 ALPINE sh -c 'echo the page >/index.html; exec httpd -f -p 80 -h /'
docker exec JOB sh -c 'until wget -qO- http://localhost:8080/index.html; do sleep 0.3; done'
docker exec JOB wget -qO- http://web/index.html
docker inspect -f 'memory {{.HostConfig.Memory}} drops {{.HostConfig.CapDrop}}' web
docker run --rm -v /host/run:/r ALPINE ls /r && echo reached || echo refused
`
	script = strings.NewReplacer("ALPINE", alpine, "JOB", job).Replace(script)
	out, err := slipway("guard", "--state", filepath.Join(dir, "state"), "--container", job[:12], "--", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, string(out), "\n"+job+"\n", "\nof the job\n", "\nthe page\n", "\nmemory 67108864 drops [NET_RAW]\n", "\nrefused\n", "a mount of --container cannot be shared")
	if n := strings.Count(string(out), "\nthe page\n"); n != 2 {
		t.Errorf("the page was read %d times, want 2:\n%s", n, out)
	}
	if running := strings.TrimSpace(r.raw("inspect", "-f", "{{.State.Running}}", job)); running != "true" {
		t.Error("the job's container has ended with the guard")
	}
}

// TestKeptToItsPurpose: jobs that the runner is not for fail at once, and nothing of them is done.
func TestKeptToItsPurpose(t *testing.T) {
	t.Parallel()
	r := newRig(t, slipwayKeys("allowed_projects = [\"group/**\"]\n    protected_only = true"))
	protected := func(s *job.Spec) *job.Spec {
		yes := true
		s.GitInfo.Protected = &yes
		return s
	}
	wants(t, r.must(job.Success, protected(spec("echo mine"))), "\nmine\n")
	log := r.fails(job.ConfigurationError, 0, protected(inProject(spec("echo never"), 8, "else/where")))
	wants(t, log, "this runner does not run jobs of the project else/where (allowed_projects", "Hint: give the job tags of another runner")
	lacks(t, log, "Preparing", "\nnever")
	log = r.fails(job.ConfigurationError, 0, withVariables(spec("echo never"), "CI_COMMIT_REF_PROTECTED", "true"))
	wants(t, log, "protected branches and tags only")
	lacks(t, log, "Preparing", "\nnever")
}
