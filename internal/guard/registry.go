package guard

import (
	"context"
	"net"
	"regexp"
	"strings"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/address"
)

// dockerHub is how images of Docker Hub are named. Clients log in to it by other names.
func dockerHub(host string) string {
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}

// registryHost is the host of a registry as a client writes it for a login: a host, or a URL.
func registryHost(address string) string {
	if address == "" {
		return "docker.io"
	}
	for _, scheme := range []string{"https://", "http://"} {
		address = strings.TrimPrefix(address, scheme)
	}
	host, _, _ := strings.Cut(address, "/")
	return dockerHub(host)
}

// hostAndPort is what image names have for a registry.
var hostAndPort = regexp.MustCompile("^" + reference.DomainRegexp.String() + "$")

// allowHost refuses a registry that the Engine must not be sent to for a job: the Engine reaches what the job cannot.
func (c *call) allowHost(ctx context.Context, host string) error {
	if !hostAndPort.MatchString(host) { // a URL made of it could lead elsewhere: u:p@127.0.0.1, 127.0.0.1#.example.com
		return deny("registry-host", "write a host, and a port if it needs one", "%s is no registry's host", printable(host))
	}
	if c.policy.Registry != "" && host == c.policy.Registry {
		return nil
	}
	name := hostName(host)
	if name == "slipway.local" || strings.HasSuffix(name, ".slipway.local") {
		// Not for audit mode to let pass: it would overwrite the names of scopes.
		return deny("registry-host", "name the image as you tagged it", "%s is no registry", printable(host))
	}
	if len(c.policy.AllowedRegistries) > 0 {
		for _, allowed := range c.policy.AllowedRegistries {
			if matchHost(allowed, host) {
				return nil
			}
		}
		return c.refuse(deny("registry-host", "use an allowed registry, or ask the runner's operator to add it to allowed_registries",
			"the registry %s is not allowed on this runner", printable(host)))
	}
	if address.Internal(ctx, name) {
		return c.refuse(deny("registry-host", "use a registry by its public name, or ask the runner's operator to add it to allowed_registries",
			"%s is an address of the machine itself", printable(host)))
	}
	return nil
}

// matchHost compares an operator's entry with a registry.
func matchHost(allowed, host string) bool {
	allowed, host = dockerHub(strings.ToLower(allowed)), dockerHub(strings.ToLower(host))
	if domain, ok := strings.CutPrefix(allowed, "*."); ok {
		return strings.HasSuffix(hostName(host), "."+domain) || strings.HasSuffix(host, "."+domain)
	}
	return allowed == host
}

// hostName is a host without its port, in lower case and without the dot of the root.
func hostName(host string) string {
	host = strings.ToLower(host)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.Trim(host, "[]"), ".")
}
