package e2e

import (
	"context"
	"crypto/rand"
	"maps"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// TestSameCommitSameBytes: two pipelines of one commit find the same bytes in their workspace, .git included, whatever
// the first did with Git and beside the commit's files.
func TestSameCommitSameBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t, hostNetwork)
	files := map[string]string{".gitlab-ci.yml": `
same:
  tags: [dockerd]
  image: ` + gitImage + `
  script:
    - |
      ` + strings.ReplaceAll(listing, "\n", "\n      ") + `
    - git status; git fetch -q; git tag mine; git gc -q; git config user.name x; git config user.email x
    - git commit -q --allow-empty -m x; git checkout -q -b mine; git stash -q || true
    - echo >untracked; mkdir -p new/folder; echo >new/folder/file; echo >ignored.o
`}
	maps.Copy(files, sample)
	p := r.repository("group/demo", files)
	p.tag("v1")
	run := func() string {
		t.Helper()
		jobs, err := r.StartPipeline(t.Context(), p.Path, "main")
		if err != nil || len(jobs) != 1 {
			t.Fatalf("%d jobs: %v", len(jobs), err)
		}
		o, log := r.end(jobs[0])
		if o.State != job.Success {
			t.Fatalf("job ended as %+v:\n%s", o, log)
		}
		return log
	}
	first := run()
	wants(t, first, " ./.git/index ", " ./.git/HEAD ", " ./link dir/file\n")
	for range 2 {
		sameListing(t, first, run(), true)
	}
	// With another commit in between, only the times of its files differ.
	p.commit("main", map[string]string{"README": "other\n"})
	run()
	p.git(p.RepoDir, "update-ref", "refs/heads/main", "main~")
	sameListing(t, first, run(), false)
}

// TestDockerBuildStaysCached builds an image of the whole workspace with and without .git in the context, between jobs
// that leave all sorts of things behind.
func TestDockerBuildStaysCached(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	nonce := strings.ToLower(rand.Text())[:10]
	p := r.repository("group/demo", sample)
	p.commit("main", map[string]string{"Dockerfile": "FROM " + alpine + "\nCOPY . .\n", "nonce": nonce})
	type cached struct{ With, Without bool } // .git
	build := func() cached {
		t.Helper()
		log := r.must(job.Success, withImage(p.spec("main",
			"export DOCKER_BUILDKIT=0",
			`build() { docker build -t slipway.test/built-`+nonce+`:$1-$CI_JOB_ID . 2>&1 | sed "s/^/$1 /"; }`,
			"build with", "echo .git >.dockerignore", "build without",
		), dockerClient))
		wants(t, log, "with Successfully built", "without Successfully built")
		return cached{strings.Contains(log, "\nwith  ---> Using cache\n"), strings.Contains(log, "\nwithout  ---> Using cache\n")}
	}
	t.Cleanup(func() {
		all, err := r.engine.Images(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, name := range all {
			if strings.Contains(name, "built-"+nonce) {
				_ = r.engine.RemoveImage(context.Background(), name)
			}
		}
	})
	for _, step := range []struct {
		what string
		do   func()
		want cached
	}{
		{"first", func() {}, cached{false, false}},
		{"second pipeline", func() {}, cached{true, true}},
		{"untracked files", func() {
			r.must(job.Success, p.spec("main", "echo >x; mkdir -p dir/new .git/hooks; echo >dir/new/x; echo >.git/hooks/x; git status; git tag x; chmod 700 dir . .git"))
		}, cached{true, true}},
		{"another user", func() {
			s := p.spec("main", "echo >x; mkdir dir/new; git add .; git -c user.name=x -c user.email=x commit -qm x")
			s.Image.ExecutorOpts.Docker.User = "1000"
			r.must(job.Success, s)
		}, cached{true, true}},
		{"owner and mode that are there already", func() {
			r.must(job.Success, p.spec("main", "chown -R 0:0 .; chmod -R a+rwX ."))
		}, cached{true, true}},
		// The file is written anew, and with its new times Git's index, which is in the context, is another one.
		{"tracked file is changed", func() { r.must(job.Success, p.spec("main", "echo changed >README; rm dir/file")) }, cached{false, true}},
		{"and settled", func() {}, cached{true, true}},
		{"new commit", func() { p.commit("main", map[string]string{"README": "new\n"}) }, cached{false, false}},
	} {
		step.do()
		if got := build(); got != step.want {
			t.Errorf("%s: %+v, want %+v", step.what, got, step.want)
		}
	}
}

// TestWhyNotCached: the next job is told which file broke the build cache, and nobody else is, whoever shares the cache.
func TestWhyNotCached(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket(), slipwayKeys(`cache_scope = "runner"`))
	files := map[string]string{"Dockerfile": "FROM " + alpine + "\nCOPY src /src\nRUN cat /src/secret-plan\n", "src/secret-plan": rand.Text(), "src/other": rand.Text()}
	ours, theirs := r.repository("group/ours", sample), r.repository("group/theirs", sample)
	build := func(p *repository) string {
		t.Helper()
		return r.must(job.Success, withImage(p.spec("main", "export DOCKER_BUILDKIT=0", "docker build -t app:$CI_JOB_ID ."), dockerClient))
	}
	ours.commit("main", files)
	wants(t, build(ours), ": 0 of 2 steps cached; it is the first one here\n")
	files["src/secret-plan"] = rand.Text()
	ours.commit("main", files)
	wants(t, build(ours), ": 0 of 2 steps cached; the last one here was ", "slipway: not cached: line 2, COPY src /src: changed: src/secret-plan\n")
	theirs.commit("main", map[string]string{"Dockerfile": files["Dockerfile"], "src/secret-plan": rand.Text()})
	log := build(theirs)
	wants(t, log, ": 0 of 2 steps cached; it is the first one here\n")
	lacks(t, log, "not cached: ", "other")
}

// TestGitDirOutside: with git_dir = "outside" an image of the whole workspace stays cached for a new commit with the same files.
func TestGitDirOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket(), slipwayKeys(`git_dir = "outside"`))
	p := r.repository("group/demo", sample)
	p.commit("main", map[string]string{"Dockerfile": "FROM " + alpine + "\nCOPY . .\n", "nonce": rand.Text()})
	build := func() string {
		return r.must(job.Success, withImage(p.spec("main", "cat .git", "ls "+"/.slipway/git/HEAD", "export DOCKER_BUILDKIT=0", "docker build ."), dockerClient))
	}
	log := build()
	wants(t, log, "\ngitdir: /.slipway/git\n", "\n/.slipway/git/HEAD\n", "Successfully built")
	lacks(t, log, "Using cache")
	p.commit("main", nil)
	wants(t, build(), "Using cache")
	// Git works in the job, whoever it is.
	for _, image := range []string{gitImage, gitUserImage} {
		log = r.must(job.Success, withImage(p.spec("main", "git status --short --branch; git log --oneline; git tag x; git stash list; test $(git rev-parse --show-toplevel) = $CI_PROJECT_DIR"), image))
		wants(t, log, "## HEAD (no branch)\n", " on main\n")
	}
	hooked := withHook(p.spec("main", "git status --porcelain; git log --format=%s; ls -A /.slipway/git | sed 's/^/has: /'"), "pre", "cd /.slipway/git; ls -A; mkdir hooks; echo mine >HEAD; ln -s / objects")
	log = r.must(job.Success, hooked)
	wants(t, log, "\n$ cd /.slipway/git", "\non main\n", "\nhas: HEAD\n", "\nhas: config\n")
	lacks(t, log, "\nhas: hooks\n")
	r.nothingStandsIn()
}
