package executor

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/trace"
)

// Pulls from a registry that does not answer are tried this often, with this pause.
//
// GitLab: the same.
const (
	pullTries = 3
	pullPause = 3 * time.Second
)

// ensureImage makes sure of an image of the job and returns what the Engine knows of it.
func (e *Executor) ensureImage(ctx context.Context, tr *trace.Trace, p *plan, im imagePlan) (docker.Image, error) {
	tr.Printf("Using effective pull policy of %v for container %s", im.policies, im.name)
	for try := 1; ; try++ {
		img, err := e.imageByPolicies(ctx, tr, p, im)
		var pull *docker.PullError
		switch {
		case err == nil:
			tr.Printf("Using docker image %s for %s%s ...", img.ID, im.name, digestOf(img, im.name))
			return img, nil
		case ctx.Err() != nil:
			return docker.Image{}, context.Cause(ctx)
		case try == pullTries || !errors.As(err, &pull) || pull.Kind != docker.PullUnreachable:
			return docker.Image{}, pullFailure(err)
		}
		tr.Warnf("%v; trying again in %s", err, pullPause)
		select {
		case <-time.After(pullPause):
		case <-ctx.Done():
			return docker.Image{}, context.Cause(ctx)
		}
	}
}

// imageByPolicies tries one pull policy after the other. The error is the last one's.
func (e *Executor) imageByPolicies(ctx context.Context, tr *trace.Trace, p *plan, im imagePlan) (img docker.Image, err error) {
	for i, policy := range im.policies {
		if i > 0 {
			tr.Warnf("%v; trying pull policy %s", err, policy)
		}
		if img, err = e.imageBy(ctx, tr, p, im, policy); err == nil || ctx.Err() != nil {
			return img, err
		}
	}
	return docker.Image{}, err
}

func (e *Executor) imageBy(ctx context.Context, tr *trace.Trace, p *plan, im imagePlan, policy string) (docker.Image, error) {
	name := im.name
	if policy != pullAlways {
		img, ok, err := e.localImage(ctx, tr, p, im)
		switch {
		case err != nil:
			return docker.Image{}, err
		case ok:
			tr.Printf("Using locally found image version due to %q pull policy", policy)
			return img, nil
		case policy == pullNever:
			return docker.Image{}, configurationError("pull it on the runner's machine, or allow another pull policy", "image %s is not on this machine, and the pull policy is never", name)
		}
	}
	auth, from := e.auth(ctx, tr, p, name)
	if from != "" {
		tr.Printf("Authenticating with credentials from %s", from)
	}
	tr.Printf("Pulling docker image %s ...", name)
	return e.pullImage(ctx, p, im, auth)
}

// auth finds the credentials for an image. A source that cannot be read is a warning: another may serve.
func (e *Executor) auth(ctx context.Context, tr *trace.Trace, p *plan, name string) (docker.Credentials, string) {
	var sources []docker.AuthSource
	add := func(s docker.AuthSource, err error) {
		if err != nil {
			tr.Warnf("%v", err)
			return
		}
		sources = append(sources, s)
	}
	home, homeErr := docker.AuthFromHome("")
	if text := p.vars.Get("DOCKER_AUTH_CONFIG"); text != "" {
		s, err := docker.AuthFromJSON("DOCKER_AUTH_CONFIG", text)
		add(s.HelpersOf(home), err)
	}
	add(home, homeErr)
	var payload []docker.Credentials
	for _, c := range p.spec.Credentials {
		if c.Type == "registry" {
			payload = append(payload, docker.Credentials{Server: c.URL, Username: c.Username, Password: c.Password.Reveal()})
		}
	}
	add(docker.AuthFromList("job payload (GitLab Registry)", payload), nil)
	auth, from, err := docker.FindAuth(ctx, name, sources...)
	if err != nil {
		tr.Warnf("%v", err)
	}
	return auth, from
}

func digestOf(img docker.Image, name string) string {
	repo := name
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		repo = name[:i]
	}
	for _, d := range img.RepoDigests {
		if strings.HasPrefix(d, repo+"@") {
			return " with digest " + d
		}
	}
	return ""
}

// pullFailure says whose fault it is that there is no image.
func pullFailure(err error) error {
	var pull *docker.PullError
	if !errors.As(err, &pull) {
		return err
	}
	e := &job.Error{Reason: job.ImagePullFailure, Err: err}
	switch pull.Kind {
	case docker.PullMisconfigured:
		if ledger.IsLost(err) {
			break // what is not found is in the Engine's own store
		}
		e.Reason, e.Hint = job.ConfigurationError, "check the image's name and tag; a private registry needs credentials in DOCKER_AUTH_CONFIG"
	case docker.PullUnreachable:
		e.Reason, e.Hint = job.ExternalDependencyFailure, "the registry does not answer; try again later"
		if strings.Contains(err.Error(), "no such host") {
			e.Hint = "the runner's machine does not find the registry by its name: check the image's name; if it is right, try again later"
		}
	case docker.PullLimited:
		e.Hint = "the registry limits pulls: log in through DOCKER_AUTH_CONFIG, use a mirror, or let the runner's pull_policy include if-not-present"
	}
	return e
}
