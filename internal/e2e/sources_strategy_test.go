package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// leaveAll is a script that leaves something of every kind, showTree one that tells what is there.
const (
	leaveAll = "echo changed >README; rm -f dir/file; mkdir -p node_modules/a other; echo 1 | tee new x.o node_modules/a/b other/x >/dev/null"
	showTree = `echo "README: $(cat README 2>/dev/null)"; echo "tree: $(find . -path ./.git -prune -o -type f -print | sort | tr '\n' ' ')"; test ! -d .git || git log -1 --format='at %s'`
)

const (
	cleanTree = "\ntree: ./.gitignore ./README ./dir/deep/run ./dir/file \n"
	leftTree  = "\ntree: ./.gitignore ./README ./dir/deep/run ./new ./node_modules/a/b ./other/x ./x.o \n"
)

// treeAnd is the clean tree with further files.
func treeAnd(files string) string { return strings.Replace(cleanTree, " \n", " "+files+" \n", 1) }

func TestGitStrategies(t *testing.T) {
	t.Parallel()
	r := newRig(t, concurrent(1)) // one slot: each job finds what the one before left
	p := r.repository("group/demo", sample)
	r.must(job.Success, p.spec("main", showTree, leaveAll))
	noFetch := func(s *job.Spec) *job.Spec {
		s.AllowGitFetch = false
		return s
	}
	with := func(script string, variables ...string) *job.Spec {
		return withVariables(p.spec("main", showTree, script), variables...)
	}
	for _, c := range []struct {
		spec *job.Spec
		want []string
	}{
		{with(leaveAll, "GIT_STRATEGY", "none"), []string{"Skipping Git repository setup", "\nREADME: changed\n", leftTree, "\nat on main\n"}},
		{with("echo >left", "GIT_STRATEGY", "empty"), []string{"creating an empty build directory", "\nREADME: \n", "\ntree: \n"}},
		{with("echo >left", "GIT_STRATEGY", "empty"), []string{"\nREADME: \n", "\ntree: \n"}},
		{with(leaveAll, "GIT_CHECKOUT", "false"), []string{"Skipping Git checkout", "\nREADME: changed\n", leftTree, "\nat on main\n"}},
		{with(leaveAll, "GIT_CLEAN_FLAGS", "-ffdx -e node_modules"), []string{"\nREADME: hello\n", treeAnd("./node_modules/a/b"), "\nRemoving other/\n"}},
		{with(leaveAll, "GIT_CLEAN_FLAGS", "-ffd"), []string{"\nREADME: hello\n", treeAnd("./node_modules/a/b ./x.o")}},
		{with(leaveAll, "GIT_CLEAN_FLAGS", "none"), []string{"\nREADME: hello\n", treeAnd("./new ./node_modules/a/b ./other/x ./x.o")}},
		{with(leaveAll), []string{"\nREADME: hello\n", cleanTree, "\nRemoving new\n"}},
		{with(leaveAll, "GIT_STRATEGY", "clone", "GIT_CLEAN_FLAGS", "none"), []string{"\nREADME: hello\n", cleanTree}},
		{noFetch(with(leaveAll, "GIT_CLEAN_FLAGS", "none")), []string{"\nREADME: hello\n", cleanTree}},
		{with(leaveAll, "GIT_STRATEGY", "fetsch"), []string{`WARNING: GIT_STRATEGY is "fetsch"`, cleanTree}},
	} {
		wants(t, r.must(job.Success, c.spec), c.want...)
		if t.Failed() {
			t.Fatalf("with %v", c.spec.Variables)
		}
	}
	log := r.fails(job.ScriptFailure, 1, with("true", "GIT_CLEAN_FLAGS", "--exec=x"))
	wants(t, log, `ERROR: Job failed: get sources: GIT_CLEAN_FLAGS: "--exec=x"`, "Hint: GIT_CLEAN_FLAGS takes -f")
	lacks(t, log, "README: ")
}

// TestNoCheckoutOfNewCommit: the work tree stays, the new commit is there for the script to check out.
func TestNoCheckoutOfNewCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", sample)
	r.must(job.Success, p.spec("main", "true"))
	p.commit("main", map[string]string{"README": "new\n"})
	s := withVariables(p.spec("main", "cat README; git checkout -q -B main $CI_COMMIT_SHA; cat README; git status --porcelain"), "GIT_CHECKOUT", "false")
	wants(t, r.must(job.Success, s), "\nhello\nnew\n")
}

// TestWholeRepository: with GIT_DEPTH = 0 a pipeline sees all branches and tags, and new ones each time.
func TestWholeRepository(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", map[string]string{".gitlab-ci.yml": `
variables: { GIT_DEPTH: "0" }
all:
  tags: [dockerd]
  image: ` + gitImage + `
  script:
    - git branch -r; git tag; git log --format='commit of %an'; git describe --tags
    - test ! -e .git/shallow
    - test "$(git rev-parse HEAD)" = $CI_COMMIT_SHA
    - case $CI_COMMIT_TAG in ?*) git describe --tags --exact-match --dirty=-changed;; esac
`})
	p.tag("v1")
	p.commit("feature/one", map[string]string{"a": "a"})
	p.commit("main", map[string]string{"b": "b"})
	run := func(ref string) string {
		t.Helper()
		jobs, err := r.StartPipeline(t.Context(), p.Path, ref)
		if err != nil {
			t.Fatal(err)
		}
		o, log := r.end(jobs[0])
		if o.State != job.Success {
			t.Fatalf("job ended as %+v:\n%s", o, log)
		}
		return log
	}
	shallow := p.spec("main", "test -e .git/shallow")
	shallow.GitInfo.Depth = 1
	r.must(job.Success, shallow) // the mirror is cut at first
	log := run("main")
	wants(t, log, "\n  origin/feature/one\n", "\n  origin/main\n", "\nv1\n", "\nv1-1-g")
	if n := strings.Count(log, "commit of a\n"); n != 2 {
		t.Errorf("%d commits, want 2:\n%s", n, log)
	}
	p.commit("feature/two", map[string]string{"c": "c"})
	p.tag("v2")
	log = run("main")
	wants(t, log, "\n  origin/feature/two\n", "\nv2\n", "\nv1-1-g")
	p.git(p.RepoDir, "branch", "-D", "feature/one")
	log = run("v2")
	wants(t, log, "(ref is v2)", "\n  origin/feature/two\n", "\nv2\n$ test")
	lacks(t, log, "feature/one")
}

// TestTagPipeline: of a tag that is not on a branch that the job sees.
func TestTagPipeline(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", sample)
	p.commit("release", map[string]string{"README": "released\n"})
	p.tag("v1.2.3")
	s := p.spec("tags/v1.2.3", "cat README; git describe --tags --exact-match; git cat-file -t v1.2.3; git branch -r | wc -l")
	s.GitInfo.Depth = 1
	wants(t, r.must(job.Success, s), "\nreleased\nv1.2.3\ntag\n0\n")
}

func TestGetSourcesAttempts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", sample)
	broken := coordinator.Fault{Endpoint: coordinator.Git, Status: http.StatusBadGateway}
	at := func(attempts string) *job.Spec {
		return withVariables(p.spec("main", "cat README"), "GET_SOURCES_ATTEMPTS", attempts)
	}
	r.Inject(broken)
	log := r.must(job.Success, at("2"))
	wants(t, log, "error: 502", "trying again in 5s", "\nhello\n")
	once(t, log, "trying again")

	broken.Times = -1
	mend := r.Inject(broken)
	p.commit("main", map[string]string{"README": "new\n"})
	// The reason is runner_external_dependency_failure; this GitLab does not list it.
	log = r.fails(job.SystemFailure, 0, withVariables(at("2"), "FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", "false"))
	wants(t, log, "ERROR: Job failed: get sources: fetch ", "the Git server cannot be reached", "error: 502", "Hint: ", "GET_SOURCES_ATTEMPTS: 3")
	lacks(t, log, "\nnew\n", "trying again in")
	once(t, log, "trying again")

	// A job that waits for its next attempt is canceled at once.
	j := r.enqueue(at("10"))
	r.until(j, "trying again in 5s")
	j.Cancel(true)
	if o, log := r.end(j); o.State != coordinator.Canceled {
		t.Errorf("job ended as %+v:\n%s", o, log)
	}
	// No attempt makes a bad flag better.
	mend()
	log = r.fails(job.ScriptFailure, 1, withVariables(at("3"), "GIT_CLEAN_FLAGS", "-i"))
	lacks(t, log, "trying again")
}

// TestSourcesThatAreNotThere: each in GitLab's words where it has some, and with what to do.
func TestSourcesThatAreNotThere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	project := func(t *testing.T, name string) *repository {
		p := r.in(t).repository("group/"+name, sample)
		p.t = t
		return p
	}
	hit := func(t *testing.T, p *repository, status int, body string) {
		t.Cleanup(r.Inject(coordinator.Fault{
			Endpoint: coordinator.Git, Status: status, Body: body, Times: -1,
			Match: func(q *http.Request) bool { return strings.HasPrefix(q.URL.Path, "/"+p.Path+".git/") },
		}))
	}
	t.Run("force-pushed", func(t *testing.T) {
		t.Parallel()
		p := project(t, "pushed")
		s := p.spec("main", "echo never")
		p.git(p.work, "commit", "-q", "--amend", "-m", "another")
		p.git(p.work, "push", "-q", "--force", p.RepoDir, "main")
		p.git(p.RepoDir, "update-ref", "-d", pipelineRef(s))
		p.git(p.RepoDir, "reflog", "expire", "--expire=now", "--all")
		p.git(p.RepoDir, "gc", "-q", "--prune=now")
		log := r.in(t).fails(job.ScriptFailure, 1, s)
		wants(t, log, "fatal: reference is not a tree: "+s.GitInfo.SHA, "Hint: the branch was probably force-pushed or deleted", "run a new pipeline")
		lacks(t, log, "\nnever\n")
	})
	t.Run("force-pushed, but kept by the server", func(t *testing.T) {
		t.Parallel()
		p := project(t, "kept")
		s := p.spec("main", "cat README")
		p.git(p.work, "commit", "-q", "--amend", "-m", "another")
		p.git(p.work, "push", "-q", "--force", p.RepoDir, "main")
		p.git(p.RepoDir, "update-ref", "-d", pipelineRef(s))
		wants(t, r.in(t).must(job.Success, s), "\nhello\n")
	})
	t.Run("revoked token", func(t *testing.T) {
		t.Parallel()
		p := project(t, "revoked")
		hit(t, p, http.StatusUnauthorized, "HTTP Basic: Access denied")
		log := r.in(t).fails(job.ScriptFailure, 1, p.spec("main", "echo never"))
		wants(t, log, "ERROR: Job failed: get sources: fetch "+r.url+"/group/revoked.git: the repository is not there for this job", "Hint: the job token may not read this repository")
		lacks(t, log, "\nnever\n", "gitlab-ci-token:")
	})
	t.Run("forbidden", func(t *testing.T) {
		t.Parallel()
		p := project(t, "forbidden")
		hit(t, p, http.StatusForbidden, "")
		log := r.in(t).fails(job.ScriptFailure, 1, p.spec("main", "echo never"))
		wants(t, log, "The requested URL returned error: 403", "Hint: the job token may not read this repository")
	})
	t.Run("moved", func(t *testing.T) {
		t.Parallel()
		p := project(t, "moved")
		hit(t, p, http.StatusNotFound, "")
		log := r.in(t).fails(job.ScriptFailure, 1, p.spec("main", "echo never"))
		wants(t, log, "Hint: the server has no such repository, or does not show it to this job")
	})
}

// TestGitServerDown: GitLab itself answers, its Git server at clone_url does not.
func TestGitServerDown(t *testing.T) {
	t.Parallel()
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	defer hold(t, down.Listener.Addr().String())()
	r := newRig(t, runnerKeys(`  clone_url = "`+down.URL+`"`))
	p := r.repository("group/demo", sample)
	log := r.fails(job.SystemFailure, 0, p.spec("main", "echo never"))
	wants(t, log, "ERROR: Job failed: get sources: fetch "+down.URL+"/group/demo.git: the Git server cannot be reached", "Failed to connect to 127.0.0.1",
		"Hint: the runner's machine could not talk to the Git server")
	lacks(t, log, "\nnever\n")
}

// TestClonePath: two jobs at once have their project at one path, each its own.
func TestClonePath(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", sample)
	at := func(n string) *job.Spec {
		return withVariables(p.spec("main", "pwd; cat README", "echo "+n+" >mine; sleep 1; cat mine; git status --porcelain", "ls -d $CI_PROJECT_DIR.tmp"), "GIT_CLONE_PATH", "$CI_BUILDS_DIR/go/src/demo")
	}
	_, _, logs := r.batch(map[string]*job.Spec{"one": at("one"), "two": at("two")})
	for n, log := range logs {
		wants(t, log, "\n/builds/go/src/demo\nhello\n", "\n"+n+"\n?? mine\n", "\n/builds/go/src/demo.tmp\n", "Job succeeded")
	}
	wants(t, r.fails(job.ConfigurationError, 0, withVariables(spec("echo never"), "GIT_CLONE_PATH", "/etc")), "not below /builds", "Hint: begin it with $CI_BUILDS_DIR")
}
