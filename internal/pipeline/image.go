package pipeline

import (
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// image reads image:, a string or a mapping.
func (r *reader) image(v *value, where string) job.Image {
	where += "image: "
	switch v.kind {
	case kindString:
		return r.imageFields(v, v, imageKeywords, where)
	case kindMap:
		return r.imageFields(v, v.get("name"), imageKeywords, where)
	}
	r.errorf(v.position, quoteHint(v), "%smust be a string or a mapping, not %v", where, v.kind)
	return job.Image{}
}

// imageFields reads what images and services share.
func (r *reader) imageFields(v, name *value, known keywords, where string) job.Image {
	r.check(v, known, where)
	var img job.Image
	if name != nil {
		img.Name = r.string(name, where+"name: ")
	}
	if strings.TrimSpace(img.Name) == "" {
		r.errorf(v.position, "", "%sthere is no name", where)
	}
	if e := v.get("entrypoint"); e != nil {
		img.Entrypoint = r.stringList(e, where+"entrypoint: ")
	}
	if p := v.get("pull_policy"); p != nil {
		img.PullPolicies = r.pullPolicies(p, where)
	}
	if d := v.get("docker"); d != nil {
		img.ExecutorOpts.Docker = r.dockerOpts(d, where+"docker: ")
	}
	return img
}

func (r *reader) pullPolicies(v *value, where string) []string {
	list := []*value{v}
	if v.kind == kindList {
		list = v.items
	}
	var out []string
	for _, item := range list {
		policy := r.string(item, where+"pull_policy: ")
		if known := []string{"always", "if-not-present", "never"}; !slices.Contains(known, policy) {
			r.errorf(item.position, "it is one of "+strings.Join(known, ", "), "%sthere is no pull_policy %q", where, policy)
		}
		out = append(out, policy)
	}
	return out
}

func (r *reader) dockerOpts(v *value, where string) job.DockerOpts {
	if v.kind != kindMap {
		r.errorf(v.position, "", "%smust be a mapping, not %v", where, v.kind)
		return job.DockerOpts{}
	}
	r.check(v, dockerKeywords, where)
	var opts job.DockerOpts
	if p := v.get("platform"); p != nil {
		opts.Platform = r.string(p, where+"platform: ")
	}
	if u := v.get("user"); u != nil {
		opts.User = job.User(r.scalar(u, where+"user: "))
	}
	return opts
}

// services reads services:, a list of strings and mappings.
func (r *reader) services(v *value, where string) []job.Service {
	if v.kind != kindList {
		r.errorf(v.position, "write it as a list, with a dash", "%sservices must be a list, not %v", where, v.kind)
		return nil
	}
	out := make([]job.Service, 0, len(v.items))
	for _, item := range v.items {
		out = append(out, r.service(item, where+"service: "))
	}
	return out
}

func (r *reader) service(v *value, where string) job.Service {
	switch v.kind {
	case kindString:
		return job.Service{Image: r.imageFields(v, v, serviceKeywords, where)}
	case kindMap:
	default:
		r.errorf(v.position, quoteHint(v), "%smust be a string or a mapping, not %v", where, v.kind)
		return job.Service{}
	}
	s := job.Service{
		Image:     r.imageFields(v, v.get("name"), serviceKeywords, where),
		Variables: r.variables(v.get("variables"), variableKeywords, where),
	}
	if a := v.get("alias"); a != nil {
		s.Alias = r.string(a, where+"alias: ")
	}
	if c := v.get("command"); c != nil {
		s.Command = r.stringList(c, where+"command: ")
	}
	return s
}
