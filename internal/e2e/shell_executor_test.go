package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// inShell is a rig whose jobs run on the machine, as that user; "" = the user of the test.
func inShell(user string) option {
	return func(r *rig) {
		r.shell = true
		if user != "" {
			if os.Geteuid() != 0 {
				r.t.Skip("only root can run jobs as another user")
			}
			r.global += "user = \"" + user + "\"\n"
		}
		// The user has to get to the builds folder.
		for _, dir := range []string{filepath.Dir(r.dir), r.dir} {
			if err := os.Chmod(dir, 0o711); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

// withHome gives Slipway, and so its jobs, a home with these files.
func withHome(files map[string]string) option {
	return func(r *rig) {
		home := r.t.TempDir()
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
				r.t.Fatal(err)
			}
		}
		command := r.command
		r.command = func(args ...string) *exec.Cmd {
			cmd := command(args...)
			cmd.Env = append(cmd.Environ(), "HOME="+home, "SLIPWAY_TEST_INHERITED=yes", "NOTIFY_SOCKET=/nowhere")
			return cmd
		}
	}
}

// nap is how long a process of a test sleeps, in words that no other process of the machine has: another run of the tests has its own.
func nap(n int) string { return fmt.Sprintf("sleep %d", 100*(1_000_000+os.Getpid())+n) }

// lives reports whether a process of this machine has these words in its command line.
func lives(words string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		text, _ := os.ReadFile(f)
		if line := strings.ReplaceAll(string(text), "\x00", " "); strings.Contains(line, words) && !strings.Contains(line, "-test.") {
			return true
		}
	}
	return false
}

func TestShellExecutor(t *testing.T) {
	t.Parallel()
	r := newRig(t, inShell(""), withHome(map[string]string{
		".bash_profile": "greet() { echo hello from the profile; }\nexport PATH=/usr/bin:/bin:/profile\n", ".bash_logout": "echo logged out; exit 9\n",
	}))
	p := r.repository("group/demo", map[string]string{"README": "hello\n", "run": "#!/bin/sh\necho it runs\n", "dir/file": "one\n"})
	t.Run("a job", func(t *testing.T) {
		r := r.in(t)
		s := p.spec("main",
			"greet; echo $PATH; echo inherited $SLIPWAY_TEST_INHERITED, $NOTIFY_SOCKET", "pwd; echo $CI_PROJECT_DIR; echo shared $CI_SHARED_ENVIRONMENT$CI_DISPOSABLE_ENVIRONMENT",
			"cat README; ./run; git status --porcelain; git log --format=%an; git describe --always --all; umask; stat -c %a README run dir",
			"stat -c '%a %n' $KEY; cat $KEY", "echo MADE=later >>$GITLAB_ENV", "printf 'cat: '; cat; exit 3")
		s.Variables = append(s.Variables, job.Variable{Key: "KEY", Value: "a secret key\n", File: true}, job.Variable{Key: "PATH", Value: "/bin:/usr/bin:/job", Public: true})
		log := r.fails(job.ScriptFailure, 3, withAfter(s, "echo status $CI_JOB_STATUS, made $MADE", "greet"))
		wants(t, log, `Preparing the "shell" executor`, "Using Shell (bash) executor...", "\nhello from the profile\n/bin:/usr/bin:/job\ninherited yes,", "\nshared true\n",
			"\nhello\nit runs\n", "\n0022\n644\n755\n755\n", "600 ", "\na secret key\n", "\ncat: ", "ERROR: Job failed: exit status 3", "status failed, made later\n$ greet\nhello from the profile\n")
		lacks(t, log, "logged out", "/nowhere", "WARNING")
		wants(t, log, "\n"+filepath.Join(r.stateDir()+"-builds"))
	})
	t.Run("what is left ends", func(t *testing.T) {
		r := r.in(t)
		log := r.must(job.Success, withAfter(spec(nap(1)+" & setsid sh -c '"+nap(2)+" & "+nap(3)+"' >/dev/null 2>&1 &", "echo begun"),
			"until pgrep -f '^"+nap(1)+"' >/dev/null; do sleep 0.1; done; echo still there"))
		wants(t, log, "\nbegun\n", "\nstill there\n")
		if lives(nap(1)) || lives(nap(2)) || lives(nap(3)) {
			t.Error("processes of the job are left")
		}
	})
	t.Run("a shell that is killed", func(t *testing.T) {
		wants(t, r.in(t).fails(job.ScriptFailure, 137, withAfter(spec("kill -9 $$"), "echo and after")), "the shell ended before the script did", "\nand after\n")
	})
	t.Run("a syntax error", func(t *testing.T) {
		wants(t, r.in(t).fails(job.ScriptFailure, 2, withAfter(spec("if true; then"), "echo and after")), "syntax error", "\nand after\n")
	})
	t.Run("sh", func(t *testing.T) {
		other := newRig(t, inShell(""), runnerKeys(`  shell = "sh"`))
		log := other.must(job.Success, withAfter(spec("echo bash ${BASH_VERSION:-none}", "false || echo on"), "echo after"))
		wants(t, log, "Using Shell (sh) executor...", "\nbash none\n", "\non\n", "\nafter\n")
	})
	t.Run("timeout", func(t *testing.T) {
		s := withAfter(withVariables(spec(nap(4)+" || true", nap(5)), "RUNNER_SCRIPT_TIMEOUT", "2s"), "echo status $CI_JOB_STATUS")
		o, log := r.in(t).run(s)
		if o.FailureReason != job.TimeoutFailure || lives(nap(4)) {
			t.Errorf("%+v", o)
		}
		wants(t, log, "status timedout")
	})
}

// TestShellCancel: a canceled job's processes are asked to end, then killed; of an aborted one all is killed at once.
func TestShellCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t, inShell(""))
	gentle := r.enqueue(withAfter(spec("trap 'echo trapped; exit 5' TERM", "sh -c 'trap \"\" TERM; "+nap(11)+"; "+nap(12)+"' &", ticking, "echo ready; while :; do sleep 0.2; done"), "echo status $CI_JOB_STATUS"))
	abort := r.enqueue(withAfter(spec(ticking, "trap '' TERM", "echo ready; "+nap(13)), "echo never"))
	r.until(gentle, "\nready\n")
	r.until(abort, "\nready\n")
	gentle.Cancel(true)
	abort.Cancel(false)
	o, log := r.end(gentle)
	if o.State != coordinator.Canceled {
		t.Errorf("%+v", o)
	}
	wants(t, log, "\ntrapped\n", "\nstatus canceled\n")
	r.eventually("all processes have ended", func() bool { return !lives(nap(11)) && !lives(nap(12)) && !lives(nap(13)) })
	lacks(t, plain(abort.Trace()), "\nnever\n")
}

// TestShellCrash: what a killed Slipway's jobs left on the machine ends when it starts again.
func TestShellCrash(t *testing.T) {
	t.Parallel()
	r := newRig(t, inShell(""))
	j := r.enqueue(spec("setsid " + nap(21) + " & echo in the middle; " + nap(22)))
	r.until(j, "\nin the middle\n")
	r.kill()
	r.eventually("the job outlives the runner", func() bool { return lives(nap(22)) })
	r.start()
	r.interrupted(j)
	r.eventually("all processes have ended", func() bool { return !lives(nap(21)) && !lives(nap(22)) })
}

// TestShellUser: jobs run as another user, who owns what they get and gets at nothing else.
func TestShellUser(t *testing.T) {
	t.Parallel()
	r := newRig(t, inShell("nobody"))
	p := r.repository("group/demo", map[string]string{"README": "hello\n", "run": "#!/bin/sh\necho it runs\n", "dir/file": "one\n"})
	state := r.stateDir()
	s := p.spec("main", "id -un; echo $HOME $USER $LOGNAME", "find . $CI_PROJECT_DIR.tmp -not -user nobody -not -path './.git/objects/pack/*'", "chmod +x README; chmod -x README; ./run",
		"git -c user.name=a -c user.email=a@b commit -q --allow-empty -m new && git log --format=%s -1; git fsck", "cat $KEY; stat -c %a $KEY",
		"ls "+state+" || echo no state", "test -w .. || echo no parent", "touch .git/objects/pack/* 2>/dev/null || echo no pack",
		"mkdir left; echo x >left/file; chmod 0 left; ln -s /etc/passwd link; echo changed >dir/file; mkdir cached; echo kept >cached/file; ln -sf file cached/link")
	s.Variables = append(s.Variables, job.Variable{Key: "KEY", Value: "a secret key\n", File: true})
	cached := func(s *job.Spec) *job.Spec {
		s.Cache = []job.Cache{{Key: "k", Paths: []string{"cached"}, Policy: "pull-push", When: "on_success"}}
		return s
	}
	log := r.must(job.Success, cached(s))
	wants(t, log, "\nnobody\n", "nobody nobody\n", "\nit runs\n", "\nnew\n", "\na secret key\n600\n", "\nno state\n", "\nno parent\n", "\nno pack\n", "Saved the cache k")
	before := strings.Count(log, "\n./")
	if before != 0 {
		t.Errorf("files of others:\n%s", log)
	}
	log = r.must(job.Success, cached(p.spec("main", "cat dir/file; ls; git status --porcelain", "find . -not -user nobody -not -path './.git/objects/pack/*'", "cat cached/link && rm cached/file")))
	wants(t, log, "\none\n", "README\ncached\ndir\nrun\n", "\nkept\n")
	if strings.Contains(log, "\n./") {
		t.Errorf("files of others:\n%s", log)
	}
	for _, dir := range []string{state + "-builds", filepath.Dir(state)} {
		if st, err := os.Stat(dir); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestShellBuildsDir: root works only where the user cannot put another folder in the place of one.
func TestShellBuildsDir(t *testing.T) {
	t.Parallel()
	open := t.TempDir()
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, inShell("nobody"), runnerKeys("  builds_dir = \""+open+"/builds\""))
	log := r.fails(job.ConfigurationError, 0, spec("echo never"))
	wants(t, log, "which others than root can change", "Hint: let builds_dir")
	unknown := newRig(t, inShell("no-such-user"))
	unknown.logged("no-such-user")
}

// TestShellLeftByContainers: what the root of a container left in the project folder is gone in the next job if Slipway is root; else
// that job fails and says what is in its way.
func TestShellLeftByContainers(t *testing.T) {
	t.Parallel()
	leave := "docker run --rm -v $CI_PROJECT_DIR:/project " + alpine + " sh -c 'mkdir -p /project/made/deep && echo x >/project/made/deep/file && chmod 0700 /project/made'"
	next := []string{"ls -A", "echo next"}
	t.Run("root", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, inShell("nobody"))
		p := r.repository("group/demo", map[string]string{"README": "hello\n"})
		log := r.must(job.Success, p.spec("main", "echo at $CI_PROJECT_DIR."))
		_, rest, _ := strings.Cut(log, "\nat ")
		dir, _, _ := strings.Cut(rest, ".\n")
		cmd := exec.Command("sh", "-c", leave) // the user of the jobs may not use the Engine
		cmd.Env = append(os.Environ(), "CI_PROJECT_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		log = r.must(job.Success, p.spec("main", next...))
		wants(t, log, "\nREADME\n", "\nnext\n")
		lacks(t, log, "\nmade\n")
	})
	t.Run("another user", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, inShell(""), ordinaryUser(t))
		p := r.repository("group/demo", map[string]string{"README": "hello\n"})
		dir := r.must(job.Success, p.spec("main", leave, "echo at $CI_PROJECT_DIR."))
		_, dir, _ = strings.Cut(dir, "\nat ")
		dir, _, _ = strings.Cut(dir, ".\n")
		for range 2 { // until somebody has removed it
			log := r.fails(job.SystemFailure, 0, p.spec("main", next...))
			wants(t, log, "ERROR: Job failed (system failure): ", "clean workspace: "+dir+"/made", "Hint: the operator must remove it; with slipway run by root")
			lacks(t, log, "\nnext\n")
		}
		if err := os.RemoveAll(filepath.Join(dir, "made")); err != nil {
			t.Fatal(err)
		}
		wants(t, r.must(job.Success, p.spec("main", next...)), "\nREADME\n", "\nnext\n")
	})
}
