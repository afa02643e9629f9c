package e2e

import (
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// TestGitInJob uses Git in jobs of every kind of user, as scripts do.
func TestGitInJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, hostNetwork)
	p := r.repository("group/demo", sample)
	p.commit("main", map[string]string{"n": "1"})
	p.tag("v1.0")
	for _, n := range []string{"2", "3", "4"} {
		p.commit("main", map[string]string{"n": n})
	}
	p.commit("other", map[string]string{"other": "1"})
	// The mirror knows more of the past than the next jobs want to see.
	r.must(job.Success, p.spec("main", "true"))

	use := func(image, user string) *job.Spec {
		s := p.spec("main",
			"id -u",
			`echo "status: $(git status --porcelain --ignored)."`,
			"git diff-index --quiet HEAD",
			"git describe --tags",
			"git log --format='commit of %an'",
			"git rev-parse --abbrev-ref HEAD",
			"git remote get-url --push origin >/dev/null",
			"echo new >new; mkdir made; echo new >made/file; echo more >>dir/deep/run; rm README; rm -r dir/file",
			`echo "now: $(git status --porcelain | tr '\n' ' ')"`,
			"git add --all; git commit -q -m mine",
			"git log -1 --format='committed by %an <%ae>'",
			"git tag mine; git describe --tags",
			"git fetch -q origin other; git log -1 --format='fetched: %s' FETCH_HEAD",
			`echo KEPT=yes >"$GITLAB_ENV"`,
		)
		s.GitInfo.Depth = 4
		s.Image.Name, s.Image.ExecutorOpts.Docker.User = image, job.User(user)
		return withVariables(withAfter(s, "echo kept: $KEPT"),
			"GIT_CONFIG_COUNT", "2", "GIT_CONFIG_KEY_0", "user.name", "GIT_CONFIG_VALUE_0", "Some One",
			"GIT_CONFIG_KEY_1", "user.email", "GIT_CONFIG_VALUE_1", "some@one")
	}
	for name, c := range map[string]struct{ image, user, id string }{
		"root":                {gitImage, "", "0"},
		"image:docker:user":   {gitImage, "1000", "1000"},
		"USER of the image":   {gitUserImage, "", "1000"},
		"group, but no owner": {gitImage, "1000:0", "1000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := r.in(t).must(job.Success, use(c.image, c.user))
			wants(t, log, "\n"+c.id+"\n", "\nstatus: .\n", "\nv1.0-3-g", "\nHEAD\n",
				"\nnow:  D README  M dir/deep/run  D dir/file ?? made/ ?? new \n", "\ncommitted by Some One <some@one>\n", "\nmine\n",
				"\nfetched: on other\n", "\nkept: yes\n")
			if n := strings.Count(log, "commit of a\n"); n != 4 {
				t.Errorf("%d commits are there, want GIT_DEPTH = 4:\n%s", n, log)
			}
			lacks(t, log, "dubious ownership", "Permission denied")
		})
	}
}
