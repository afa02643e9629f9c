package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// withHook adds commands that the job wants to be done before or after the sources are fetched.
func withHook(s *job.Spec, when string, commands ...string) *job.Spec {
	s.Hooks = append(s.Hooks, job.Hook{Name: when + "_get_sources_script", Script: commands})
	return s
}

// inOrder fails the test if the log does not have the texts one after the other.
func inOrder(t *testing.T, log string, texts ...string) {
	t.Helper()
	rest := log
	for _, text := range texts {
		i := strings.Index(rest, text)
		if i < 0 {
			t.Fatalf("no %q after the others in the log:\n%s", text, log)
		}
		rest = rest[i+len(text)-1:] // a newline may end one and begin the next
	}
}

// nothingStandsIn fails the test if something is left of what was in the place of projects' folders.
func (r *rig) nothingStandsIn() {
	r.t.Helper()
	if left, _ := filepath.Glob(filepath.Join(r.stateDir(), "stand-ins", "*")); len(left) > 0 {
		r.t.Errorf("left are %q", left)
	}
}

// TestHooks: the job's and the operator's commands run before the sources are fetched and when they are there, and before all else of the
// job. What the first ones do in the container stays, what they do in the project's folder does not.
func TestHooks(t *testing.T) {
	t.Parallel()
	r := newRig(t, runnerKeys("  pre_get_sources_script = \"echo operator first\"\n  post_get_sources_script = \"echo operator last\""))
	p := r.repository("group/demo", sample)
	once := func() *job.Spec {
		s := p.spec("main", "cat made; echo for all: $BEFORE $AFTER; cat ~/.netrc; git config --global demo.key",
			"cat CREDENTIAL.md 2>/dev/null || echo no such file", `echo "status: $(git status --porcelain --ignored)."`, "ls $CI_PROJECT_DIR.tmp | sed 's/^/temp: /'")
		s.Variables = append(s.Variables, job.Variable{Key: "SECRET", Value: "in a file\n", File: true})
		s = withHook(s, "pre", "echo finds $(ls -A $CI_PROJECT_DIR | wc -l) files; cat $SECRET", "pwd",
			"cd $CI_PROJECT_DIR; echo x >CREDENTIAL.md; rm -rf ./*; mkdir -p dir/new; echo mine >README; chown -R 1000 .; chmod 700 .",
			"echo machine example >~/.netrc; git config --global demo.key value", `echo BEFORE=one >>$GITLAB_ENV`, "(sleep 1000 &)")
		return withHook(s, "post", "cat README >made; echo said $BEFORE", `echo AFTER=two >>$GITLAB_ENV`)
	}
	for range 2 { // the second time in a folder that was used before
		log := r.must(job.Success, once())
		inOrder(t, log, "Getting source from Git repository", "\n$ echo operator first\noperator first\n", "\nfinds 0 files\nin a file\n", "\n/\n",
			"Git settings of pre_get_sources_script hold for what the job does itself", "Fetching changes", "Checking out", "\nsaid one\n",
			"\n$ echo operator last\noperator last\n", "\nhello\nfor all: one two\nmachine example\nvalue\n", "\nno such file\n", "\nstatus: ?? made.\n")
		lacks(t, log, "WARNING")
		r.nothingStandsIn()
	}
	t.Run("an operator's alone", func(t *testing.T) {
		inOrder(t, r.in(t).must(job.Success, p.spec("main", "cat README")), "\noperator first\n", "Fetching changes", "\noperator last\n", "\nhello\n")
	})
	t.Run("failure", func(t *testing.T) {
		log := r.in(t).fails(job.ScriptFailure, 4, withAfter(withHook(p.spec("main", "echo never"), "pre", "exit 4", "echo never"), "echo never"))
		wants(t, log, "ERROR: Job failed: get sources: pre_get_sources_script: exit code 4")
		lacks(t, log, "\nnever\n", "Fetching changes", "operator last")
		log = r.in(t).fails(job.ScriptFailure, 4, withAfter(withHook(p.spec("main", "echo never"), "post", "exit 4"), "echo never"))
		lacks(t, log, "\nnever\n", "\noperator last\n")
	})
	t.Run("no sources", func(t *testing.T) {
		for _, strategy := range []string{"none", "empty"} {
			s := withHook(withHook(p.spec("main", "echo ran"), "pre", "echo never"), "post", "echo never")
			log := r.in(t).must(job.Success, withVariables(s, "GIT_STRATEGY", strategy))
			lacks(t, log, "\nnever\n", "operator")
		}
	})
	t.Run("an image without Git", func(t *testing.T) {
		s := withHook(p.spec("main", "cat README; git config --global a.b c || echo no git"), "pre", "git config --global http.proxy x", "echo went on")
		s.Image.Name = alpine
		wants(t, r.in(t).must(job.Success, s), "git: not in this image, nothing is set\n", "\nwent on\n", "\nhello\n", "\nno git\n")
		s = withHook(p.spec("main", "echo never"), "pre", "no-such-program")
		wants(t, r.in(t).fails(job.ScriptFailure, 127, s), "Hint: it runs in the job's own image")
	})
	t.Run("cancel", func(t *testing.T) {
		j := r.enqueue(withAfter(withHook(p.spec("main", "echo never"), "pre", "echo in the hook", "sleep 1000"), "echo never"))
		r.until(j, "\nin the hook\n")
		j.Cancel(true)
		o, log := r.in(t).end(j)
		if o.State != coordinator.Canceled {
			t.Errorf("%+v", o)
		}
		lacks(t, log, "\nnever\n", "Fetching changes")
	})
	t.Run("operator's time limit", func(t *testing.T) {
		r := newRig(t, runnerKeys(`  get_sources_timeout = "2s"`))
		p := r.repository("group/demo", sample)
		log := r.fails(job.SystemFailure, 0, withHook(p.spec("main", "echo never"), "pre", "sleep 1000"))
		wants(t, log, "fetching the sources took longer than 2s")
		r.nothingStandsIn()
	})
}

// TestHooksAreTriedAgain: what is done before the sources are fetched belongs to each try, in the same container.
func TestHooksAreTriedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", sample)
	hooked := func(attempts string) *job.Spec {
		s := withHook(p.spec("main", "echo in all $(cat ~/tries | wc -l)"), "pre", "echo try >>~/tries; test $(cat ~/tries | wc -l) -gt 1 || exit 3", "echo passed")
		return withVariables(s, "GET_SOURCES_ATTEMPTS", attempts, "FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", "false")
	}
	inOrder(t, r.must(job.Success, hooked("2")), "WARNING: pre_get_sources_script: exit code 3; trying again from an empty folder", "\npassed\n", "Fetching changes", "\nin all 2\n")
	lacks(t, r.fails(job.ScriptFailure, 3, hooked("1")), "\npassed\n", "trying again")
	r.Inject(coordinator.Fault{Endpoint: coordinator.Git, Status: http.StatusBadGateway})
	p.commit("main", map[string]string{"README": "to be fetched\n"})
	inOrder(t, r.must(job.Success, hooked("3")), "exit code 3", "\npassed\n", "error: 502", "trying again", "\npassed\n", "\nin all 3\n")
	r.nothingStandsIn()
}

// TestHookAndTheJobsOwnContainers: what the job makes through its socket before the sources are there has the empty folder, what it
// makes afterwards the project's; also in a container that takes the place of one that is gone.
func TestHookAndTheJobsOwnContainers(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	p := r.repository("group/demo", sample)
	s := p.spec("main", "docker run --rm -v $PWD:/app "+alpine+" cat /app/README", "docker run --rm -v $PWD/dir:/app "+alpine+" cat /app/file",
		"docker run --rm -v $PWD/dir/deep:/app "+alpine+" sh /app/run", "docker exec early sh -c 'ls -A /app /part'; docker rm -f early",
		`docker inspect -f '{{range .Mounts}}{{.Source}} {{end}}' $(docker ps -q)`, "echo of the job >made; docker run --rm -v $PWD:/app "+alpine+" cat /app/made")
	s.Image.Name = dockerClient
	s = withHook(s, "pre", "mkdir $CI_PROJECT_DIR/dir; echo early >$CI_PROJECT_DIR/dir/early",
		"docker run -d --name early -v $CI_PROJECT_DIR:/app -v $CI_PROJECT_DIR/dir:/part "+alpine+" sleep 1000")
	log := r.must(job.Success, s)
	wants(t, log, "\nhello\n", "\none\n", "\nrun\n", "/app:\ndir\n\n/part:\nearly\n", "/builds/group/demo ", "\nof the job\n")
	lacks(t, log, "stand-ins")
	r.cleanAfter()
	r.nothingStandsIn()

	t.Run("a container that is gone", func(t *testing.T) {
		r := r.in(t)
		s := withHook(p.spec("main", "cat README; docker run --rm -v $PWD:/app "+alpine+" cat /app/README"), "pre", "echo ready")
		s.Image.Name = dockerClient
		held, release := r.hold()
		p.commitFor(s, map[string]string{"README": "of another commit\n"})
		j := r.enqueue(withVariables(s, "EXECUTOR_JOB_SECTION_ATTEMPTS", "2"))
		r.eventually("the fetch", func() bool { return held.Load() > 0 })
		if err := r.engine.Remove(t.Context(), r.jobContainer(j)); err != nil {
			t.Fatal(err)
		}
		release()
		log := r.succeeds(j)
		inOrder(t, log, "\nready\n", "WARNING: the job's container is gone", "\nof another commit\nof another commit\n")
	})
	r.cleanAfter()
	r.nothingStandsIn()
}

// TestHookBesideServices: a hook runs when the services are started, and they see the project's folder when the job does; so does who
// types at a terminal.
func TestHookBesideServices(t *testing.T) {
	t.Parallel()
	needMounts(t)
	r := newRig(t, globalKeys("[session_server]\n  listen_address = \"127.0.0.1:0\"\n  session_timeout = 3600"))
	p := r.repository("group/demo", sample)
	s := withHook(p.spec("main", got("readme"), "until cat answer 2>/dev/null; do sleep 0.1; done", "echo begun", untilTold, "cat typed", "echo asked >question", got("question")),
		"pre", "until nslookup web >/dev/null 2>&1 || ping -c1 web >/dev/null 2>&1 || wget -qO- http://web:8080/ >/dev/null 2>&1 || grep -q . /etc/hosts; do sleep 0.1; done; ls -A $CI_PROJECT_DIR; echo hooked")
	j := r.enqueue(withService(s, r.image(sharingServer()), "web", "WHO", "one"))
	r.until(j, "\nbegun\n")
	in := r.enter(j)
	in.types("cat README; echo by hand >typed; echo $((6*7)).\n")
	in.expect("\n42.")
	wants(t, in.seen.String(), "\nhello\r")
	in.types("exit\n")
	r.tell(j)
	log := r.succeeds(j)
	inOrder(t, log, "\nhooked\n", "Fetching changes", "\nreadme: hello\n", "\nanswer of one\n", "\nby hand\n", "\nquestion: asked\n")
	lacks(t, log, "WARNING")
	r.nothingIsMounted()
	r.nothingStandsIn()
	// A Docker-in-Docker that is not started answers in both containers.
	dind := p.spec("main", "docker -H tcp://docker:2375 run --rm -v $PWD:/app "+alpine+" cat /app/README")
	dind.Image.Name = dockerClient
	log = r.must(job.Success, withHook(withDind(dind, ""), "pre", "docker -H tcp://docker:2375 run --rm "+alpine+" echo in the hook"))
	inOrder(t, log, "\nin the hook\n", "Fetching changes", "\nhello\n")
}

// TestHookOfAnOrdinaryUser: a runner that is not root gets rid of what root of the container has left in the empty folder.
func TestHookOfAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	r := newRig(t, ordinaryUser(t))
	made := r.watchContainers()
	p := r.repository("group/demo", sample)
	c := newCanary(t)
	clean := r.must(job.Success, p.spec("main", listing))
	hostile := "set +e\n" + strings.ReplaceAll(plant+plantGit[0].script, "CANARY", c.dir) + "\nchown 0:0 $CI_PROJECT_DIR; chmod 700 $CI_PROJECT_DIR"
	sameListing(t, clean, r.must(job.Success, withHook(p.spec("main", listing), "pre", hostile)), false)
	r.nothingStandsIn()
	r.fails(job.ScriptFailure, 3, withHook(p.spec("main", "echo never"), "pre", hostile, "exit 3"))
	r.nothingStandsIn()
	made(3, "3 jobs")
	sameListing(t, clean, r.must(job.Success, p.spec("main", listing)), false)
	r.must(job.Success, withHook(p.spec("main", "true"), "pre", "cd $CI_PROJECT_DIR", `(while :; do n=$((n+1)); mkdir d$n; chmod 700 d$n; echo >d$n/f; sleep 0.01; done) &`))
	r.nothingStandsIn()
}

// TestHookWithoutRights: a container that may not give its root's files away fails no job for that.
func TestHookWithoutRights(t *testing.T) {
	t.Parallel()
	r := newRig(t, ordinaryUser(t), dockerKeys(`cap_drop = ["CHOWN"]`))
	p := r.repository("group/demo", sample)
	wants(t, r.must(job.Success, withHook(p.spec("main", "cat README"), "pre", "mkdir $CI_PROJECT_DIR/folder", "echo >$CI_PROJECT_DIR/folder/file")), "\nhello\n")
	r.nothingStandsIn()
}

// TestKilledInAHook: the next start removes what was in the place of projects' folders.
func TestKilledInAHook(t *testing.T) {
	t.Parallel()
	t.Run("container", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		p := r.repository("group/demo", sample)
		r.must(job.Success, p.spec("main", "true"))
		j := r.enqueue(withHook(p.spec("main", "true"), "pre", "mkdir -p $CI_PROJECT_DIR/a/b", "echo in the middle", "sleep 1000"))
		r.until(j, "\nin the middle\n")
		r.kill()
		r.start()
		r.interrupted(j)
		r.nothingStandsIn()
		wants(t, r.must(job.Success, p.spec("main", "cat README; ls")), "\nhello\n")
	})
	t.Run("shell", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, inShell("nobody"))
		p := r.repository("group/demo", map[string]string{"README": "hello\n"})
		log := r.must(job.Success, p.spec("main", "stat -c 'is %Y %i' README"))
		j := r.enqueue(withHook(p.spec("main", "true"), "pre", "mkdir -p -m 0 $CI_PROJECT_DIR/a/b", "echo in the middle", "sleep 1000"))
		r.until(j, "\nin the middle\n")
		if left, _ := filepath.Glob(r.stateDir() + "-builds/*/*/group/*:hidden/project/README"); len(left) != 1 {
			t.Errorf("hidden are %q", left)
		}
		r.kill()
		r.start()
		r.interrupted(j)
		again := r.must(job.Success, p.spec("main", "stat -c 'is %Y %i' README", "ls"))
		_, is, _ := strings.Cut(log, "\nis ")
		is, _, _ = strings.Cut(is, "\n")
		wants(t, again, "\nis "+is+"\n") // the same file
		if left, _ := filepath.Glob(r.stateDir() + "-builds/*/*/group/*:*"); len(left) > 0 {
			t.Errorf("left are %q", left)
		}
	})
}

// TestHostileHook: nothing that runs before the sources are complete can change what the host's Git works in while it does, nor lead
// it, or what the host does in the folder after that, out of it; and nothing of it is there when they are.
func TestHostileHook(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	c := newCanary(t)
	p := r.repository("group/demo", sample)
	look := func() *job.Spec {
		return p.spec("main", listing, `echo "status: $(git status --porcelain --ignored)."`, "test ! -e /planted")
	}
	r.must(job.Success, withImage(p.spec("main", "mkdir kept; echo x >kept/file"), dockerClient))
	clean := r.must(job.Success, look())
	r.must(job.Success, withImage(p.spec("main", "mkdir kept; echo x >kept/file"), dockerClient))
	before := c.seen(t)

	// As soon as it can it plants what TestHostileWorkspace does.
	attack := strings.ReplaceAll(`
tries=0
while :; do
	if test -e $CI_PROJECT_DIR/kept -o -e $CI_PROJECT_DIR/new; then echo seen; touch $CI_PROJECT_DIR/planted; fi
	(`+plant+`rm -rf .git; repository .git; mkfifo .git/index) 2>/dev/null
	(cd $CI_PROJECT_DIR/..; mv demo elsewhere; rmdir demo; ln -s CANARY demo; umount demo; mount -o remount,rw demo) 2>/dev/null
	tries=$((tries+1)); echo "try $tries."
done
`, "CANARY", c.dir)
	s := withImage(p.spec("main", "sed 's/^/hook: /' ~/tries; ls -A | sed 's/^/now: /'; cat README new", "pgrep -fl 'cwd|ATTACK' || echo alone", "docker logs spy | grep seen || echo blind",
		"docker start -a later", "test ! -e /planted"), dockerClient)
	s.Variables = append(s.Variables, job.Variable{Key: "ATTACK", Value: attack, File: true, Raw: true})
	s = withHook(s, "pre",
		"docker run -d --name spy -e CI_PROJECT_DIR=/p/demo -v $CI_PROJECT_DIR:/p/demo -v $ATTACK:/attack "+alpine+" sh /attack",
		"docker create --name later -v $CI_PROJECT_DIR:/p "+alpine+" sh -c 'cat /p/README /p/new'",
		"(setsid sh $ATTACK >~/tries 2>&1 &)",
		"cd $CI_PROJECT_DIR; (exec 9<.; setsid sh -c 'while :; do mkdir -p /proc/self/fd/9/.git .git; ln -s / root; done # cwd' >/dev/null 2>&1 &)",
		"until grep -q 'try 2' ~/tries; do sleep 0.1; done; echo under attack")
	held, release := r.hold()
	p.commitFor(s, map[string]string{"new": "in the fetch\n"})
	j := r.enqueue(s)
	r.until(j, "\nunder attack\n")
	r.eventually("the host's Git is at work", func() bool { return held.Load() > 0 })
	spy := strings.TrimSpace(r.raw("ps", "-q", "--filter", "status=running", "--filter", "label=slipway.guard", "--filter", "label="+r.instance()))
	spied := ""
	r.eventually("the attack goes on", func() bool {
		spied = r.raw("logs", spy)
		return strings.Contains(spied, "try 4.")
	})
	lacks(t, spied, "seen")
	files, err := os.ReadDir(r.workspace(0))
	names := []string{}
	for _, f := range files {
		names = append(names, f.Name())
	}
	wants(t, strings.Join(names, " ")+" ", "README ", "kept ")
	if err != nil || strings.Contains(strings.Join(names, " "), "passwd") {
		t.Errorf("the folder is not as the last job left it: %v (%v)", names, err)
	}
	release()
	o, log := r.end(j)
	if o.State != job.Success {
		t.Errorf("%+v", o)
	}
	wants(t, log, "\nnow: README\n", "\nhello\nin the fetch\n", "\nalone\n", "\nblind\n")
	lacks(t, log, "canary", "\nnow: planted", "\nnow: kept", "\nnow: etc", "\nseen\n")
	if diff := cmp.Diff(before, c.seen(t)); diff != "" {
		t.Fatalf("the host was touched:\n%s", diff)
	}
	r.cleanAfter()
	r.nothingStandsIn()
	p.git(p.work, "reset", "-q", "--hard", "HEAD~1")
	p.git(p.work, "push", "-q", "--force", p.RepoDir, "main")
	log = r.must(job.Success, look())
	wants(t, log, "\nstatus: .\n")
	sameListing(t, clean, log, false)
	p.git("/", "--git-dir", r.mirror(), "fsck", "--full", "--strict")
}

// TestShellHooks: the hooks of jobs on the machine. What the first one has left running is gone before the sources are fetched.
func TestShellHooks(t *testing.T) {
	t.Parallel()
	for name, user := range map[string]string{"own user": "", "another user": "nobody"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, inShell(user), runnerKeys("  pre_get_sources_script = \"echo operator first\""))
			p := r.repository("group/demo", map[string]string{"README": "hello\n", "dir/file": "one\n"})
			hooked := func() *job.Spec {
				s := p.spec("main", "cat README dir/file; git status --porcelain --ignored; echo for all: $BEFORE; cat $RUNNER_TEMP_PROJECT_DIR/note", "ls -d $CI_PROJECT_DIR*; id -un; echo left >left")
				s = withHook(s, "pre", "cat $SECRET", "cd $CI_PROJECT_DIR; echo mine >new; rm -rf ./*; mkdir -m 0 closed; echo mine >README", "echo noted >$RUNNER_TEMP_PROJECT_DIR/note",
					"echo BEFORE=one >>$GITLAB_ENV", nap(31)+" & (setsid "+nap(32)+" &) >/dev/null 2>&1")
				s.Variables = append(s.Variables, job.Variable{Key: "SECRET", Value: "in a file\n", File: true})
				return withHook(s, "post", "pgrep -f '^"+nap(31)+"|^"+nap(32)+"' || echo alone")
			}
			for range 2 {
				log := r.must(job.Success, hooked())
				inOrder(t, log, "Getting source from Git repository", "\n$ echo operator first\noperator first\n", "\nin a file\n", "Fetching changes", "\nalone\n", "\nhello\none\nfor all: one\nnoted\n", "/demo\n")
				lacks(t, log, "WARNING", ":hidden")
			}
			wants(t, r.must(job.Success, p.spec("main", "ls -A")), "\noperator first\n", "\n.git\nREADME\ndir\n")
			s := withHook(p.spec("main", "echo in all $(cat $RUNNER_TEMP_PROJECT_DIR/tries | wc -l)"), "pre",
				"echo try >>$RUNNER_TEMP_PROJECT_DIR/tries; test $(cat $RUNNER_TEMP_PROJECT_DIR/tries | wc -l) -gt 1 || exit 3")
			s = withVariables(s, "FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", "false")
			wants(t, r.fails(job.ScriptFailure, 3, withAfter(s, "echo never")), "ERROR: Job failed: get sources: pre_get_sources_script: exit status 3")
			inOrder(t, r.must(job.Success, withVariables(s, "GET_SOURCES_ATTEMPTS", "2")), "exit status 3; trying again", "Fetching changes", "\nin all 2\n")
			lacks(t, r.must(job.Success, withVariables(withHook(p.spec("main", "ls"), "pre", "echo never"), "GIT_STRATEGY", "none")), "operator first", "\nnever\n")
			if left, _ := filepath.Glob(r.stateDir() + "-builds/*/*/group/*"); len(left) != 2 {
				t.Errorf("left are %q", left)
			}
		})
	}
}

// TestHostileShellHook: a process of another user that was started before the sources are fetched, and got rid of all that it is known by,
// does not get at the folder in which the host's Git works.
func TestHostileShellHook(t *testing.T) {
	t.Parallel()
	r := newRig(t, inShell("nobody"))
	c := newCanary(t)
	shared := t.TempDir()
	for dir, mode := range map[string]os.FileMode{filepath.Dir(shared): 0o711, shared: 0o777} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	p := r.repository("group/demo", map[string]string{"README": "hello\n", ".gitignore": "x\n", "dir/file": "one\n", "dir/deep/run": "run\n"})
	log := r.must(job.Success, p.spec("main", "mkdir kept; echo x >kept/file; echo at $CI_PROJECT_DIR."))
	_, dir, _ := strings.Cut(log, "\nat ")
	dir, _, _ = strings.Cut(dir, ".\n")
	before := c.seen(t)
	// Where it has got to does not change any more when the folder is shown.
	plant := strings.ReplaceAll(plant, "cd $CI_PROJECT_DIR\n", "cd $CI_PROJECT_DIR; test ! -e new || exit\n")
	attack := strings.ReplaceAll(`
cd $CI_PROJECT_DIR; tries=0
until test -e $CI_PROJECT_DIR/new -o -e SHARED/stop; do
	if ls $CI_PROJECT_DIR/kept $CI_PROJECT_DIR:hidden/project; then echo seen >>SHARED/tries; fi
	(`+plant+`rm -rf .git; repository .git; mkfifo .git/index)
	(cd $CI_PROJECT_DIR/..; mv demo elsewhere; rmdir demo; ln -sT CANARY demo; chmod 777 demo:hidden)
	tries=$((tries+1)); echo "try $tries." >>SHARED/tries
done 2>/dev/null
echo gone >>SHARED/tries
`, "SHARED", shared)
	attack = strings.ReplaceAll(attack, "CANARY", c.dir)
	t.Cleanup(func() { _ = os.WriteFile(filepath.Join(shared, "stop"), nil, 0o644) })
	s := p.spec("main", "ls -A | sed 's/^/now: /'; cat README new", "git status --porcelain --ignored | sed 's/^/status: /'")
	s.Variables = append(s.Variables, job.Variable{Key: "ATTACK", Value: attack, File: true, Raw: true})
	s = withHook(s, "pre", "cp $ATTACK "+shared+"/attack; env -i PATH=$PATH CI_PROJECT_DIR=$CI_PROJECT_DIR setsid -f sh "+shared+"/attack >/dev/null 2>&1 </dev/null",
		"until grep -qs 'try 2' "+shared+"/tries; do sleep 0.1; done; echo under attack")
	held, release := r.hold()
	p.commitFor(s, map[string]string{"new": "in the fetch\n"})
	j := r.enqueue(s)
	r.until(j, "\nunder attack\n")
	r.eventually("the host's Git is at work", func() bool { return held.Load() > 0 })
	tries := func() string {
		text, _ := os.ReadFile(filepath.Join(shared, "tries"))
		return string(text)
	}
	n := strings.Count(tries(), "try ")
	r.eventually("the attack goes on", func() bool { return strings.Count(tries(), "try ") > n+1 })
	lacks(t, tries(), "seen", "gone")
	if b, err := os.ReadFile(filepath.Join(dir+":hidden", "project", "kept", "file")); err != nil || string(b) != "x\n" {
		t.Errorf("the folder is not as the last job left it: %q (%v)", b, err)
	}
	release()
	o, log := r.end(j)
	if o.State != job.Success {
		t.Errorf("%+v", o)
	}
	wants(t, log, "\nnow: README\n", "\nhello\nin the fetch\n")
	lacks(t, log, "canary", "\nnow: kept", "\nnow: etc", "\nstatus: ")
	r.eventually("the attack ends", func() bool { return strings.Contains(tries(), "gone") })
	lacks(t, tries(), "seen")
	if diff := cmp.Diff(before, c.seen(t)); diff != "" {
		t.Fatalf("the host was touched:\n%s", diff)
	}
	log = r.must(job.Success, p.spec("main", "ls -A; git status --porcelain --ignored | sed 's/^/status: /'"))
	wants(t, log, "\n.git\n.gitignore\nREADME\ndir\nnew\n")
	lacks(t, log, "\nstatus: ")
	if left, _ := filepath.Glob(dir + ":*"); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}
