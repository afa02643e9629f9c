package e2e

import (
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

func asUser(s *job.Spec, user job.User) *job.Spec {
	s.Image.ExecutorOpts.Docker.User = user
	return s
}

// writes is a job that writes wherever a job may.
func writes() *job.Spec {
	return withVariables(withAfter(spec(
		"echo I am $(id -u):$(id -g)",
		"mkdir dir $RUNNER_TEMP_PROJECT_DIR/dir /cache/$CI_JOB_ID",
		"echo x >dir/file; echo x >$RUNNER_TEMP_PROJECT_DIR/dir/file; echo x >/cache/$CI_JOB_ID/file; echo all written",
	), "echo y >>dir/file; echo after as $(id -u)"), "GIT_STRATEGY", "empty")
}

// TestUsers: whoever a job runs as can write, and leaves nothing that the next one stumbles over.
func TestUsers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	recipe := demo.Alpine()
	recipe.User = "1000"
	image := r.image(recipe)
	ids := map[string]string{
		"root": "0:0", "image:docker:user": "1000:0", "with a group": "1000:100", "a name": "65534:65534",
		"the image's": "1000:0", "root in such an image": "0:0", "from a variable": "1000:0",
	}
	_, _, logs := r.batch(map[string]*job.Spec{
		"root":                  writes(),
		"image:docker:user":     asUser(writes(), "1000"),
		"with a group":          asUser(writes(), "1000:100"),
		"a name":                asUser(writes(), "nobody"),
		"the image's":           withImage(writes(), image),
		"root in such an image": asUser(withImage(writes(), image), "0"),
		"from a variable":       withVariables(asUser(writes(), "$WHO"), "WHO", "1000"),
	})
	for name, id := range ids {
		uid, _, _ := strings.Cut(id, ":")
		wants(t, logs[name], "\nI am "+id+"\n", "\nall written\n", "\nafter as "+uid+"\n", "Job succeeded")
	}
	t.Run("unknown", func(t *testing.T) {
		log := r.in(t).fails(job.ConfigurationError, 0, asUser(spec("echo never"), "no-such-user"))
		wants(t, log, "no-such-user", "Hint: check image: docker: user: in .gitlab-ci.yml, or user in [runners.docker]")
	})
}

func TestAllowedUsers(t *testing.T) {
	t.Parallel()
	const id = "echo I am $(id -u)"
	t.Run("listed", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, dockerKeys(`user = "1000"
    allowed_users = ["1001", "nobody"]`))
		wants(t, r.must(job.Success, spec(id)), "\nI am 1000\n")
		wants(t, r.must(job.Success, asUser(spec(id), "1001")), "\nI am 1001\n")
		log := r.fails(job.ConfigurationError, 0, asUser(spec(id), "0"))
		wants(t, log, `image:docker:user "0" is not allowed on this runner; allowed: 1001, nobody`)
		lacks(t, log, "\nI am")
	})
	t.Run("only the configured", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, dockerKeys(`user = "1000"`))
		wants(t, r.must(job.Success, asUser(spec(id), "1000")), "\nI am 1000\n")
		wants(t, r.fails(job.ConfigurationError, 0, asUser(spec(id), "root")), "is not allowed on this runner; allowed: 1000")
	})
}
