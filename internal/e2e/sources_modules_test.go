package e2e

import (
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// TestSubmodules: a job sees its submodules as Git would have cloned them, on a mirror that no job can write to, and only
// those that GitLab lets this job read.
func TestSubmodules(t *testing.T) {
	t.Parallel()
	r := newRig(t, hostNetwork)
	lib := r.repository("other/lib", map[string]string{"lib": "the lib\n"})
	lib.tag("v1")
	p := r.repository("group/demo", map[string]string{
		"README": "hello\n", ".gitmodules": "[submodule \"libs/lib\"]\n\tpath = libs/lib\n\turl = ../../other/lib.git\n",
	})
	p.git(p.work, "update-index", "--add", "--cacheinfo", "160000,"+lib.git(lib.work, "rev-parse", "HEAD")+",libs/lib")
	p.git(p.work, "commit", "-q", "-m", "submodule")
	p.git(p.work, "push", "-q", p.RepoDir, "main")
	with := func(script ...string) *job.Spec {
		return withVariables(p.spec("main", script...), "GIT_SUBMODULE_STRATEGY", "recursive")
	}

	log := r.fails(job.ScriptFailure, 1, with("echo never"))
	wants(t, log, "submodule libs/lib: fetch "+r.url+"/other/lib.git: the repository is not there for this job", "Hint: the job token may not read this repository")
	lacks(t, log, "\nnever\n")

	allowed := lib.Project
	allowed.ReadableBy = []string{p.Path}
	r.AddProject(allowed)
	for range 2 {
		wants(t, r.must(job.Success, with(
			"cat libs/lib/lib; test -z \"$(git status --porcelain)\"",
			"cd libs/lib; git describe --tags; git fetch -q; git log -1 --format='at %s'; test -z \"$(git status --porcelain)\"",
			"touch /.slipway/modules/x 2>&1 || echo read-only",
			"echo changed >lib; git config core.fsmonitor 'touch /tmp/x'; echo left >new",
		)), "Updating/initializing submodules recursively", "Submodule path 'libs/lib': checked out", "\nthe lib\n", "\nv1\nat on main\n", "\nread-only\n")
	}

	// That it was fetched once does not help a job that may not read it any more.
	r.AddProject(lib.Project)
	lacks(t, r.fails(job.ScriptFailure, 1, with("echo never")), "\nnever\n")
	wants(t, r.must(job.Success, p.spec("main", "ls libs/lib | wc -l; test -e /.slipway/modules || echo none")), "Skipping Git submodules setup", "\n0\nnone\n")
}
