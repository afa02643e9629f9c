package executor

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// Try says what every job would fail for: it plans one, and has the Engine create the containers of such a job and of a service,
// out of that image. They are not started, and nothing is mounted. What is wrong with the configuration is a *job.Error, maybe with a hint.
func (e *Executor) Try(ctx context.Context, image string) error {
	s := e.Settings
	s.AllowedProjects, s.ProtectedOnly = nil, false // there is no project
	spec := &job.Spec{JobInfo: job.Info{Name: "doctor", ProjectFullPath: "slipway/doctor"}, Variables: job.Variables{{Key: "GIT_STRATEGY", Value: "none"}}}
	p := (&Executor{Settings: s}).plan(Slot{}, spec, strings.ToLower(rand.Text()))
	if p.err != nil {
		return p.err
	}
	c := p.container
	if c.Network == s.Network || p.network != "" {
		c.Network = "bridge" // it is there in any case
	}
	if err := e.Engine.FindNetwork(ctx, c.Network); docker.IsNotFound(err) { // which it says when it starts a container only
		return configurationError("correct network_mode in [runners.docker], or make the network (docker network create)", "%w", err)
	}
	if err := e.try(ctx, "a job", c, image); err != nil {
		return err
	}
	if c = s.Services.Container; s.guarded(p) && s.strict() {
		c, _ = withhold(c)
	}
	return e.try(ctx, "a service", c, image)
}

func (e *Executor) try(ctx context.Context, whose string, c docker.Container, image string) error {
	c.Name, c.Image, c.Platform = "slipway-probe-"+strings.ToLower(rand.Text()), image, ""
	if len(c.Entrypoint)+len(c.Cmd) == 0 {
		c.Cmd = []string{"/probe"} // the image, which is any, may have none
	}
	c.Labels = e.Settings.ownLabels()
	c.Labels[labelName] = c.Name
	refused, left := e.Engine.Probe(ctx, c)
	if refused != nil {
		refused = configurationError("correct it in [runners.docker]", "the Engine does not make the container of %s: %w", whose, refused)
	}
	return errors.Join(refused, left)
}
