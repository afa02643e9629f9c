package executor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// The pull policies.
const (
	pullAlways       = "always"
	pullIfNotPresent = "if-not-present"
	pullNever        = "never"
)

// imagePlan is which image a job runs in and how it is fetched.
type imagePlan struct {
	name       string
	policies   []string
	platform   string
	user       string
	entrypoint []string // nil = the image's
}

// image decides on the job's image within what the operator allows.
func (s Settings) image(p *plan) (imagePlan, error) {
	im := p.spec.Image
	own := p.vars.Expand(s.Image)
	i := imagePlan{name: p.vars.Expand(im.Name), platform: p.vars.Expand(im.ExecutorOpts.Docker.Platform)}
	if i.name == "" {
		i.name = own
	}
	if i.name == "" {
		return i, configurationError("give the job an `image:` in .gitlab-ci.yml", "the job names no image, and the runner has none by default")
	}
	if err := docker.CheckName(i.name); err != nil {
		return i, configurationError("correct `image:`; a variable in it may be empty", "the image name is not valid: %w", err)
	}
	// GitLab: the runner's own image is always allowed.
	if i.name != own && !matchesAny(s.AllowedImages, i.name) {
		return i, configurationError("", "image %s is not allowed on this runner; allowed: %s", i.name, strings.Join(s.AllowedImages, ", "))
	}
	if !s.DisableEntrypointOverwrite && len(im.Entrypoint) > 0 {
		i.entrypoint = im.Entrypoint
	}
	var err error
	if i.user, err = s.user(p.vars.Expand(string(im.ExecutorOpts.Docker.User))); err != nil {
		return i, err
	}
	i.policies, err = s.policies("image", im.PullPolicies)
	return i, err
}

// user is whom the container runs as.
//
// GitLab: image:docker:user wins; where the configuration names a user, only that one and allowed_users may be asked for.
func (s Settings) user(asked string) (string, error) {
	if asked == "" || asked == s.User {
		return s.User, nil
	}
	allowed := s.AllowedUsers
	if len(allowed) == 0 && s.User != "" {
		allowed = []string{s.User}
	}
	if len(allowed) > 0 && !slices.Contains(allowed, asked) {
		return "", configurationError("", "image:docker:user %q is not allowed on this runner; allowed: %s", asked, strings.Join(allowed, ", "))
	}
	return asked, nil
}

// policies are tried one after the other. of is the keyword that asks for some.
func (s Settings) policies(of string, asked []string) ([]string, error) {
	configured := s.PullPolicies
	if len(configured) == 0 {
		configured = []string{pullAlways}
	}
	if len(asked) == 0 {
		return configured, nil
	}
	allowed := s.AllowedPullPolicies
	if len(allowed) == 0 {
		allowed = configured
	}
	var out []string
	for _, a := range asked {
		if slices.Contains(allowed, a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, configurationError("", "%s:pull_policy %v is not allowed on this runner; allowed: %v", of, asked, allowed)
	}
	return out, nil
}

// matchesAny reports whether a glob matches; no globs match everything.
//
// GitLab: doublestar's globs; * does not cross a slash, and there is no negation.
func matchesAny(globs []string, name string) bool {
	if len(globs) == 0 {
		return true
	}
	for _, g := range globs {
		if ok, err := doublestar.Match(g, name); err == nil && ok {
			return true
		}
	}
	return false
}

func configurationError(hint, format string, args ...any) error {
	return &job.Error{Reason: job.ConfigurationError, Err: fmt.Errorf(format, args...), Hint: hint}
}
