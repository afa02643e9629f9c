package executor

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/distribution/reference"

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
	if i.name != own && !allowsImage(s.AllowedImages, i.name) {
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
//
// GitLab: allowed_pull_policies hold for the operator's own, too.
func (s Settings) policies(of string, asked []string) ([]string, error) {
	configured := s.PullPolicies
	if len(configured) == 0 {
		configured = []string{pullAlways}
	}
	allowed := s.AllowedPullPolicies
	if len(allowed) == 0 {
		allowed = configured
	}
	wanted := asked
	if len(asked) == 0 {
		wanted = configured
	}
	var out []string
	for _, w := range wanted {
		if slices.Contains(allowed, w) {
			out = append(out, w)
		}
	}
	switch {
	case len(out) == 0 && len(asked) == 0:
		return nil, configurationError("", "the runner's pull_policy %v is not among its allowed_pull_policies %v", configured, allowed)
	case len(out) == 0:
		return nil, configurationError("", "%s:pull_policy %v is not allowed on this runner; allowed: %v", of, asked, allowed)
	}
	return out, nil
}

// matchesAny reports whether a list of globs lets a name in: one of them matches, and none of those that begin with "!".
// Without any that lets names in, all are in that are not kept out. What keeps out is held against all spellings.
//
// GitLab: doublestar's globs; * does not cross a slash. Its documentation has "!", but the runner takes no notice of it.
func matchesAny(globs []string, name string, spellings ...string) bool {
	in, open := false, true
	for _, g := range globs {
		if out, ok := strings.CutPrefix(g, "!"); ok {
			if slices.ContainsFunc(append(spellings, name), func(s string) bool { return doublestar.MatchUnvalidated(out, s) }) {
				return false
			}
			continue
		}
		open = false
		in = in || doublestar.MatchUnvalidated(g, name)
	}
	return in || open
}

// imageID is what may name an image by its ID, or by the beginning of it, and so by none of its names.
var imageID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{4,64}$`)

// allowsImage is matchesAny for images: who keeps out alpine means docker.io/library/alpine:latest, too.
func allowsImage(globs []string, name string) bool {
	keepsOut := slices.ContainsFunc(globs, func(g string) bool { return strings.HasPrefix(g, "!") })
	if !keepsOut {
		return matchesAny(globs, name)
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil || imageID.MatchString(name) {
		return false // whose names nobody can tell
	}
	domain, path := registryOf(reference.Domain(named)), reference.Path(named)
	repositories := []string{domain + "/" + path, reference.Domain(named) + "/" + path, reference.FamiliarName(named)}
	if domain == "docker.io" {
		repositories = append(repositories, path)
		if short, ok := strings.CutPrefix(path, "library/"); ok {
			repositories = append(repositories, short, domain+"/"+short)
		}
	}
	spellings := slices.Clone(repositories)
	if tagged, ok := reference.TagNameOnly(named).(reference.Tagged); ok {
		for _, r := range repositories {
			spellings = append(spellings, r+":"+tagged.Tag())
		}
	}
	return matchesAny(globs, name, spellings...)
}

// registryOf is the name of a registry without what can be written in several ways.
func registryOf(domain string) string {
	domain = strings.ToLower(domain)
	for _, port := range []string{":443", ":80"} {
		domain = strings.TrimSuffix(domain, port)
	}
	if domain == "index.docker.io" || domain == "registry-1.docker.io" {
		return "docker.io"
	}
	return domain
}

func configurationError(hint, format string, args ...any) error {
	return &job.Error{Reason: job.ConfigurationError, Err: fmt.Errorf(format, args...), Hint: hint}
}
