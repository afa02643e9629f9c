package guard

import (
	"context"
	"net"
	"net/netip"
	"regexp"
	"strings"

	"github.com/distribution/reference"
)

// dockerHub is how images of Docker Hub are named. Clients log in to it by other names.
func dockerHub(host string) string {
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
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
	if c.internal(ctx, name) {
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

// internal reports whether a name leads to the machine itself, to its own link, or to where clouds keep the machine's
// secrets. A name that nobody knows leads nowhere.
func (g *Guard) internal(ctx context.Context, name string) bool {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	if looksLikeNumber(name) {
		return true // 127.1, 0x7f.1, 2130706433: an address to some resolvers and not to others
	}
	addresses := []netip.Addr{}
	if a, err := netip.ParseAddr(name); err == nil {
		addresses = append(addresses, a)
	} else if addresses, err = net.DefaultResolver.LookupNetIP(ctx, "ip", name); err != nil {
		return false
	}
	own := ownAddresses()
	for _, a := range addresses {
		if forbidden(a.WithZone("")) || own[a.Unmap().WithZone("")] {
			return true
		}
	}
	return false
}

// looksLikeNumber reports whether the last part of a name is a number, and the whole is no common IPv4 address.
func looksLikeNumber(name string) bool {
	if a, err := netip.ParseAddr(name); err == nil {
		return a.Is4In6()
	}
	last := name[strings.LastIndex(name, ".")+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// cloudMetadata is where a cloud serves a machine's secrets over IPv6; over IPv4 it is a link-local address.
const cloudMetadata = "fd00:ec2::254"

func forbidden(a netip.Addr) bool {
	if a.Is6() && !a.Is4In6() {
		if v4, ok := embedded(a); ok && forbidden(v4) {
			return true
		}
	}
	a = a.Unmap()
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a.String() == cloudMetadata ||
		a.Is4() && a.As4()[0] == 0
}

// embedded is the IPv4 address in an IPv6 one that a gateway or the kernel may send it to.
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a), netip.MustParsePrefix("::/96").Contains(a):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

// ownAddresses are the machine's. They change, so they are asked for each time.
func ownAddresses() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return out
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out[p.Addr().Unmap().WithZone("")] = true
		}
	}
	return out
}
