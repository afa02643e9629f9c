package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// TestConcurrentJobsOfOneProject: each has a workspace of its own and the mirror in common.
func TestConcurrentJobsOfOneProject(t *testing.T) {
	t.Parallel()
	r := newRig(t, concurrent(2))
	p := r.repository("group/demo", sample)
	script := []string{
		"echo slot $CI_CONCURRENT_PROJECT_ID in $CI_PROJECT_DIR", "test ! -e mine; echo $CI_JOB_ID >mine; echo $CI_JOB_ID >README",
		"git add .; git -c user.name=x -c user.email=x commit -qm $CI_JOB_ID", "echo ready", "until test -e wake; do sleep 0.1; done",
		`test "$(cat mine README)" = "$(echo $CI_JOB_ID; echo $CI_JOB_ID)"; test "$(git log -1 --format=%s)" = $CI_JOB_ID; git status --porcelain; git fsck`,
	}
	first := r.enqueue(p.spec("main", script...))
	r.until(first, "\nready\n")
	p.commit("main", map[string]string{"new": "1\n"}) // the mirror grows under the first
	second := r.enqueue(p.spec("main", script...))
	r.until(second, "\nready\n")
	for slot := range 2 {
		if err := os.WriteFile(filepath.Join(r.workspace(slot), "wake"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	logs := [2]string{r.succeeds(first), r.succeeds(second)}
	wants(t, logs[0], "\nslot 0 in /builds/group/demo\n")
	wants(t, logs[1], "\nslot 1 in /builds/group/demo\n")
}

// TestNextJobGetsTheSameWorkspace: one job right after another finds the warm workspace, not another one.
func TestNextJobGetsTheSameWorkspace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", sample)
	keep := func() *job.Spec {
		s := p.spec("main", "echo slot $CI_CONCURRENT_PROJECT_ID, kept $(cat kept)", "echo $CI_JOB_ID >>kept")
		return withVariables(s, "GIT_CLEAN_FLAGS", "-ffdx -e kept")
	}
	r.must(job.Success, keep())
	want := "1"
	for i := 2; i < 6; i++ {
		wants(t, r.must(job.Success, keep()), "\nslot 0, kept "+want+"\n")
		want += " " + itoa(int64(i))
	}
}

// TestProjectsAreApart: a project that takes the path of another gets nothing of it.
func TestProjectsAreApart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := r.repository("group/one", sample), r.repository("group/two", sample)
	s := one.spec("main", "echo secret >kept; git rev-parse HEAD")
	r.must(job.Success, s)
	other := withVariables(two.spec("main", "test ! -e kept", "git cat-file -e "+s.GitInfo.SHA+" || echo not there"),
		"GIT_CLEAN_FLAGS", "none", "GIT_STRATEGY", "none", "CI_PROJECT_ID", itoa(one.ID), "CI_PROJECT_PATH", "group/one", "CI_REPOSITORY_URL", "x")
	wants(t, r.must(job.Success, other), "\nnot there\n")
	// GitLab: a project can be renamed, and keeps its mirror and its ID then.
	renamed := withVariables(one.spec("main", "cat kept"), "GIT_CLEAN_FLAGS", "none")
	wants(t, r.must(job.Success, renamed), "\nsecret\n")
}

// TestCloneURL: Git takes the operator's way to the server, on the host and in jobs.
func TestCloneURL(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	var r *rig
	inside := httptest.NewServer(http.StripPrefix("/inside", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		requests.Add(1)
		r.ServeHTTP(w, q)
	})))
	t.Cleanup(inside.Close)
	r = newRig(t, hostNetwork, runnerKeys(`  clone_url = "`+inside.URL+`/inside/"`))
	p := r.repository("group/demo", sample)
	s := p.spec("main", "cat README; git config remote.origin.url; git fetch -q origin; git log -1 --format='at %s' origin/main")
	// GitLab: it may live below a path, which clone_url replaces too.
	s.GitInfo.RepoURL = "http://gitlab-ci-token:x@gitlab.invalid/relative/root/group/demo.git"
	wants(t, r.must(job.Success, s), "\nhello\n"+inside.URL+"/inside/group/demo.git\nat on main\n")
	if requests.Load() < 4 {
		t.Errorf("%d requests went to clone_url", requests.Load())
	}
}

// TestBuildsDirOfTheOperator: a folder of the host that is mounted as builds_dir holds the workspaces.
func TestBuildsDirOfTheOperator(t *testing.T) {
	t.Parallel()
	builds := t.TempDir()
	r := newRig(t, dockerKeys(`volumes = ["`+builds+`:/builds", "/cache"]`))
	p := r.repository("group/demo", sample)
	canary := t.TempDir()
	dir := filepath.Join(builds, r.token.Short(), "0", "group", "demo")
	for range 2 {
		log := r.must(job.Success, p.spec("main",
			"pwd; cat README; ls -A $CI_PROJECT_DIR | tr '\\n' ' '; ls -A /builds",
			"echo made >made; rm -rf dir; ln -s "+canary+" dir; echo x >/builds/elsewhere; mkdir /builds/0",
		))
		wants(t, log, "\n/builds/"+r.token.Short()+"/0/group/demo\nhello\n", "\n.git .gitignore README dir link "+r.token.Short()+"\n")
		text, err := os.ReadFile(filepath.Join(dir, "made"))
		if err != nil || string(text) != "made\n" {
			t.Errorf("on the host: %q, %v", text, err)
		}
	}
	list, err := os.ReadDir(builds)
	if err != nil || len(list) != 1 {
		t.Errorf("jobs reach more than their workspace: %v, %v", list, err)
	}
	if list, err = os.ReadDir(canary); err != nil || len(list) != 0 {
		t.Errorf("a job reached another folder: %v, %v", list, err)
	}
}

// TestUmaskOfSources: GitLab's helper works with umask 0000, so that jobs of any user may write; a flag changes that.
func TestUmaskOfSources(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", sample)
	const modes = "echo $(stat -c '%a %n' README .git/HEAD .git/index dir/deep/run dir . .git $RUNNER_TEMP_PROJECT_DIR)"
	for _, c := range []struct{ flag, want string }{
		{"false", "666 README 666 .git/HEAD 666 .git/index 777 dir/deep/run 777 dir 777 . 777 .git 777 /builds/group/demo.tmp"},
		{"true", "644 README 644 .git/HEAD 644 .git/index 755 dir/deep/run 755 dir 755 . 755 .git 755 /builds/group/demo.tmp"},
		{"false", "666 README 666 .git/HEAD 666 .git/index 777 dir/deep/run 777 dir 777 . 777 .git 777 /builds/group/demo.tmp"},
	} {
		s := withVariables(p.spec("main", modes, `echo "status: $(git status --porcelain)."`), "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", c.flag)
		wants(t, r.must(job.Success, s), "\n"+c.want+"\n", "\nstatus: .\n")
	}
}

// TestImageUserOwnsTheSources: under a umask of 0022 the user of the container could change nothing that is not his own.
func TestImageUserOwnsTheSources(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	r := newRig(t)
	p := r.repository("group/demo", sample)
	for _, c := range []struct{ image, user, want string }{
		{gitUserImage, "", "1000:0"},
		{gitImage, "nobody", "65534:65534"},
		{gitImage, "1000:nogroup", "1000:65534"},
		{gitImage, "", "0:0"},
	} {
		s := withVariables(p.spec("main",
			"test ! -e node_modules/file || echo restored for $(stat -c %u:%g node_modules/file)",
			"echo owners: $(stat -c %u:%g . README dir/deep/run .git .git/index $RUNNER_TEMP_PROJECT_DIR | sort -u).",
			`echo "status: $(git status --porcelain)."`,
			"umask; echo more >>README; echo new >dir/new; mkdir -p node_modules; echo x >node_modules/file", "git add dir; git -c user.name=x -c user.email=x commit -qm mine",
			`echo KEPT=yes >"$GITLAB_ENV"`,
		), "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", "true")
		s.Image.Name, s.Image.ExecutorOpts.Docker.User = c.image, job.User(c.user)
		s.Cache = []job.Cache{{Key: "x", Paths: []string{"node_modules"}}}
		for round, again := range []string{"", "\nrestored for " + c.want + "\n"} {
			log := r.must(job.Success, withAfter(s, "echo kept: $KEPT"))
			wants(t, log, "\n  feature flags: FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR:true\n", "\nowners: "+c.want+".\n", "\nstatus: .\n", "\nkept: yes\n")
			if round > 0 {
				wants(t, log, again)
			}
			lacks(t, log, "Permission denied")
		}
	}
	s := p.spec("main", `echo "status: $(git status --porcelain). $(stat -c '%u:%g %a' README)"`)
	log := r.must(job.Success, s)
	wants(t, log, "\nstatus: . 0:0 666\n")
	lacks(t, log, "feature flags:")
	// Nobody of that name is in the image.
	s = withVariables(p.spec("main", "true"), "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", "true")
	s.Image.ExecutorOpts.Docker.User = "stranger"
	o, log := r.run(s)
	if o.State != job.Failed || !strings.Contains(log, "stranger") || !strings.Contains(log, "check image: docker: user:") {
		t.Errorf("%+v\n%s", o, log)
	}
}
