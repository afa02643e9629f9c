package executor

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/guard"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/layercache"
)

// guardPolicy is what the job may do through its socket. It comes from the settings and from the payload's own fields:
// nothing in it comes from variables, which a pipeline can set, but for the secrets: they only restrict the job.
func (s Settings) guardPolicy(p *plan, c docker.Container, mounts []guard.Mount, token string) guard.Policy {
	registry, others := registries(p.spec)
	policy := guard.Policy{
		Token: token, Labels: s.ownLabels(),
		Scope: s.scope(p.spec), Registry: registry, AllowedRegistries: s.Guard.AllowedRegistries,
		Mounts: mounts, Sockets: s.socketPaths(p),
		Network: c.Network, NetworkMTU: s.NetworkOptions.MTU, CgroupParent: c.Limits.CgroupParent, Limits: s.Guard.Limits, SwapLimit: s.Guard.Machine.SwapLimit,
		// What the job's container lacks, it must not get by starting another one.
		CapDrop: c.Security.CapDrop,
		Audit:   s.Guard.Audit, Root: IsAdmin(),
	}
	policy.ImagePath = ownImagePath(p.spec)
	if s.Guard.Secrets != "off" {
		policy.Secrets, policy.DenySecrets = secrets(p.vars), s.Guard.Secrets == "deny"
	}
	if len(policy.AllowedRegistries) > 0 {
		policy.AllowedRegistries = slices.Concat(policy.AllowedRegistries, others)
	}
	if s.Guard.TrustConfig {
		policy.CapAdd = c.Security.CapAdd
	}
	if policy.Limits.Memory == 0 {
		policy.Limits.Memory = c.Limits.Memory
	}
	if policy.Limits.NanoCPUs == 0 {
		policy.Limits.NanoCPUs = c.Limits.NanoCPUs
	}
	return policy
}

// secrets are the masked variables. They are what the guard looks for, and give the job nothing.
func secrets(vars job.Variables) []guard.Secret {
	var out []guard.Secret
	for _, v := range vars {
		if v.Masked && v.Value != "" {
			out = append(out, guard.Secret{Name: v.Key, Value: v.Value})
		}
	}
	return out
}

// ownImagePath is the project's own place in GitLab's registry, "" if there is none.
func ownImagePath(spec *job.Spec) string {
	registry, _ := registries(spec)
	if registry == "" {
		return ""
	}
	return registry + "/" + strings.ToLower(spec.JobInfo.ProjectFullPath)
}

// registries are the hosts that the payload has credentials for: GitLab's own registry, then the others (the dependency
// proxy).
//
// GitLab: the first one is the registry; an address may have a scheme.
func registries(spec *job.Spec) (own string, others []string) {
	for _, c := range spec.Credentials {
		if c.Type != "registry" {
			continue
		}
		host := c.URL
		if _, rest, ok := strings.Cut(host, "://"); ok {
			host = rest
		}
		host, _, _ = strings.Cut(host, "/")
		switch host = strings.ToLower(host); {
		case host == "":
		case own == "":
			own = host
		default:
			others = append(others, host)
		}
	}
	return own, others
}

// scope names the jobs that share a build cache and local image names.
func (s Settings) scope(spec *job.Spec) string {
	if s.Guard.CacheScope == "runner" {
		return digest(fmt.Sprintf("runner\n%s\n%d", s.ServerURL, s.RunnerID))
	}
	return s.projectScope(spec)
}

// projectScope names a project, or a project's protected refs.
func (s Settings) projectScope(spec *job.Spec) string {
	of := fmt.Sprintf("project\n%s\n%d", s.ServerURL, spec.JobInfo.ProjectID)
	if s.Guard.CacheScope == "protected" {
		of += protectedSuffix(spec)
	}
	return digest(of)
}

func digest(of string) string {
	sum := sha256.Sum256([]byte(of))
	return hex.EncodeToString(sum[:16])
}

// buildHistory is where a project's last builds are remembered. Also where projects share a build cache each has its own: it
// names files.
func (s Settings) buildHistory(spec *job.Spec) *layercache.History {
	if s.Guard.Builds == "" {
		return nil
	}
	return layercache.NewHistory(filepath.Join(s.Guard.Builds, s.projectScope(spec)))
}

// socketPaths are the paths that mean the job's socket to those who write volumes in the job.
func (s Settings) socketPaths(p *plan) []string {
	paths := []string{"/var/run/docker.sock", "/run/docker.sock"}
	if socket := s.engineSocket(); socket != "" {
		paths = append(paths, path.Clean(socket))
	}
	for _, v := range p.volumes {
		if v.socket {
			paths = append(paths, path.Clean(v.target))
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}
