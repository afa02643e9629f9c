package executor

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// ServiceSettings are what an operator decided for the services of jobs.
type ServiceSettings struct {
	Container               docker.Container    // the part of it that the configuration decides
	Always                  []job.Service       // which every job has, before its own
	Devices                 map[string][]string // of the machine, by globs of images
	Limit                   *int                // how many a job may have; nil or -1 = any number
	AllowedImages           []string            // globs; empty = all
	AllowedPrivilegedImages []string            // globs; empty = all
	Wait                    time.Duration       // for their ports to answer; 0 = not at all
}

// servicePlan is a service that is started beside the job.
type servicePlan struct {
	image     imagePlan
	aliases   []string
	container docker.Container // without image ID
	volumes   []volume
	port      string // the only one that is probed; "" = those that the image exposes
}

// linked says how a job finds its services.
type linked int

const (
	byDNS   linked = iota // they are on a network of the job's own, under their aliases
	byLinks               // they are on a network of the operator's
	byHost                // they share the job's network namespace, or have none
)

// readServices sorts the services of a job: a Docker-in-Docker, which the job's socket takes the place of, and those that are
// started.
func (s Settings) readServices(p *plan) (started []job.Service) {
	warm := s.hasWarmDind(p.volumes)
	for _, service := range slices.Concat(s.Services.Always, p.spec.Services) {
		service.Name = p.vars.Expand(service.Name)
		service.Alias = p.vars.Expand(service.Alias)
		if warm && s.isDind(service.Name) {
			s.warmDind(p, service)
			continue
		}
		started = append(started, service)
	}
	return started
}

// services plans the containers beside the job's, which has to be planned before.
func (s Settings) services(p *plan, all []job.Service, random string) error {
	if limit := s.Services.Limit; limit != nil && *limit >= 0 && len(all) > *limit {
		return configurationError("", "the job has %d services; this runner allows %d", len(all), *limit)
	}
	if len(all) == 0 {
		return nil
	}
	c := &p.container
	switch mode := c.Network; {
	case mode == s.Network:
		p.network = "slipway-" + random
		c.Network, p.linked = p.network, byDNS
		c.Env = append(c.Env, "CI_BUILD_NETWORK_NAME="+p.network)
		c.Security.CapDrop = slices.Clone(s.Container.Security.CapDrop) // nobody else is there whose addresses could be forged
	case mode == "host" || mode == "none" || strings.HasPrefix(mode, "container:"):
		p.linked = byHost
	default:
		p.linked = byLinks
	}
	taken := map[string]bool{}
	for i, service := range all {
		sp, err := s.service(p, service)
		if err != nil {
			return err
		}
		for _, alias := range serviceNames(service.Name, service.Alias) {
			if taken[alias] {
				if slices.Contains(words(service.Alias), alias) { // another service may well be of the same image
					p.warnings = append(p.warnings, fmt.Sprintf("service %s does not get the alias %s: another one has it", service.Name, alias))
				}
				continue
			}
			taken[alias] = true
			sp.aliases = append(sp.aliases, alias)
		}
		name, version := splitTag(service.Name)
		sp.container.Name = fmt.Sprintf("%s-%s-%d", strings.TrimSuffix(c.Name, "-build"), containerName(strings.ReplaceAll(name, "/", "__")), i)
		sp.container.Labels = s.serviceLabels(p, sp.container.Name, name, version)
		sp.container.Network = c.Network
		switch p.linked {
		case byDNS:
			sp.container.Aliases = sp.aliases
		case byLinks:
			for _, alias := range sp.aliases {
				c.Extras.Links = append(slices.Clip(c.Extras.Links), sp.container.Name+":"+alias)
			}
		case byHost:
			if c.Network == "host" {
				for _, alias := range sp.aliases {
					c.Extras.ExtraHosts = append(slices.Clip(c.Extras.ExtraHosts), alias+":127.0.0.1")
				}
			}
		}
		p.services = append(p.services, sp)
	}
	return nil
}

// service plans one container.
func (s Settings) service(p *plan, service job.Service) (servicePlan, error) {
	sp := servicePlan{}
	var err error
	if sp.image, err = s.serviceImage(p, service); err != nil {
		return sp, err
	}
	c := s.Services.Container
	c.Security.Devices = s.serviceDevices(service.Name)
	if s.guarded(p) && !s.Guard.TrustConfig {
		var withheld []string
		c, withheld = withhold(c)
		for _, key := range withheld {
			// That a runner is privileged is mostly for a Docker-in-Docker, and said there.
			if key = "services_" + key; key != "services_privileged" && !slices.Contains(p.withheld, key) {
				p.withheld = append(p.withheld, key)
			}
		}
	}
	if c.Security.Privileged && !allowsImage(s.Services.AllowedPrivilegedImages, service.Name) {
		c.Security.Privileged = false
	}
	if s.isDind(service.Name) && !c.Security.Privileged {
		p.warnings = append(p.warnings, fmt.Sprintf("service %s is not privileged on this runner, without which a Docker-in-Docker hardly starts", service.Name))
	}
	vars := s.serviceVariables(p, service)
	sp.port = vars.Get("HEALTHCHECK_TCP_PORT")
	c.Background, c.Init = true, s.flag("FF_USE_INIT_WITH_DOCKER_EXECUTOR", p.vars)
	c.Platform, c.Entrypoint, c.User = sp.image.platform, sp.image.entrypoint, sp.image.user
	c.Cmd = service.Command
	c.Env = environ(vars, "")
	for _, v := range p.volumes {
		// The Engine's own socket is for the job, and for its services only where nothing is guarded. A Docker-in-Docker
		// makes its own in that place.
		if !v.socket || s.Socket == socketRaw && !s.isDind(service.Name) {
			sp.volumes = append(sp.volumes, v)
		}
	}
	sp.container = c
	return sp, fitsEnvironment(c.Env)
}

// serviceDevices are those of the machine that a service's image gets.
//
// GitLab: the image has a tag in any case, and all patterns that match count.
func (s Settings) serviceDevices(image string) (out []string) {
	names := []string{image}
	if name, version := splitTag(image); image == name {
		names = append(names, name+":"+version)
	}
	for _, glob := range slices.Sorted(maps.Keys(s.Services.Devices)) {
		if slices.ContainsFunc(names, func(name string) bool { return doublestar.MatchUnvalidated(glob, name) }) {
			out = append(out, s.Services.Devices[glob]...)
		}
	}
	return out
}

// serviceImage decides on a service's image within what the operator allows.
func (s Settings) serviceImage(p *plan, service job.Service) (imagePlan, error) {
	i := imagePlan{name: service.Name, platform: p.vars.Expand(service.ExecutorOpts.Docker.Platform), user: p.vars.Expand(string(service.ExecutorOpts.Docker.User))}
	if err := docker.CheckName(i.name); err != nil {
		return i, configurationError("correct `services:`; a variable in it may be empty", "the name of a service's image is not valid: %w", err)
	}
	// GitLab: the runner's own services are always allowed.
	own := slices.ContainsFunc(s.Services.Always, func(a job.Service) bool { return p.vars.Expand(a.Name) == i.name })
	if !own && !allowsImage(s.Services.AllowedImages, i.name) {
		return i, configurationError("", "service %s is not allowed on this runner; allowed: %s", i.name, strings.Join(s.Services.AllowedImages, ", "))
	}
	if i.user != "" && len(s.AllowedUsers) > 0 && !slices.Contains(s.AllowedUsers, i.user) {
		return i, configurationError("", "services:docker:user %q is not allowed on this runner; allowed: %s", i.user, strings.Join(s.AllowedUsers, ", "))
	}
	if !s.DisableEntrypointOverwrite && len(service.Entrypoint) > 0 {
		i.entrypoint = service.Entrypoint
	}
	var err error
	i.policies, err = s.policies("services", service.PullPolicies)
	return i, err
}

// serviceVariables are those that a service gets: what anybody may know of the job, and its own.
//
// GitLab: the public variables and those of the runner, so that no masked or protected one gets into a service unasked.
func (s Settings) serviceVariables(p *plan, service job.Service) job.Variables {
	var out job.Variables
	for _, v := range p.vars {
		configured := slices.ContainsFunc(s.Environment, func(e string) bool {
			key, _, _ := strings.Cut(e, "=")
			return key == v.Key
		})
		if (v.Public || configured && !v.Masked) && !v.File { // the path of a file means nothing there
			out = append(out, v)
		}
	}
	for _, v := range service.Variables {
		if !v.Raw {
			v.Value = p.vars.Expand(v.Value)
		}
		v.File = false
		out = append(out, v)
	}
	return out.Unique()
}

// serviceLabels are those of the job's container, but for what they say of the container itself.
//
// GitLab: container_labels are there twice on a service, with its prefix and without.
func (s Settings) serviceLabels(p *plan, container, name, version string) map[string]string {
	out := maps.Clone(p.container.Labels)
	for k := range s.ContainerLabels {
		out[gitlabPrefix+k] = out[k]
	}
	out[labelName] = container
	out[gitlabPrefix+"type"] = "service"
	out[gitlabPrefix+"service"] = name
	out[gitlabPrefix+"service.version"] = version
	return out
}

// splitTag takes an image's name apart.
func splitTag(image string) (name, version string) {
	name, _, _ = strings.Cut(image, "@")
	version = "latest"
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name, version = name[:i], name[i+1:]
	}
	return name, version
}

// mostProbes is how many ports of one service are probed.
//
// GitLab: the same.
const mostProbes = 20

// probes are the ports at which a service is known to be up, of those that its image exposes: 5432/tcp, 8000-8010/tcp.
func (sp servicePlan) probes(exposed []string) []uint16 {
	if n, err := strconv.ParseUint(sp.port, 10, 16); err == nil && n > 0 {
		return []uint16{uint16(n)}
	}
	var out []uint16
	for _, port := range exposed {
		text, protocol, _ := strings.Cut(port, "/")
		if protocol != "" && protocol != "tcp" {
			continue
		}
		first, last, isRange := strings.Cut(text, "-")
		from, err := strconv.ParseUint(first, 10, 16)
		to := from
		if isRange && err == nil {
			to, err = strconv.ParseUint(last, 10, 16)
		}
		for n := from; err == nil && n <= to && len(out) < mostProbes; n++ {
			out = append(out, uint16(n))
		}
	}
	slices.Sort(out)
	return out
}

// shortName is how lines about a service begin: its first alias, or the last part of its name.
func (sp servicePlan) shortName() string {
	if len(sp.aliases) > 0 {
		return sp.aliases[0]
	}
	name, _ := splitTag(sp.image.name)
	return path.Base(name)
}
