// Package address says which names and addresses lead to the machine itself or its network. Who is asked from outside to connect to
// something asks here first. It knows nothing of what is asked there.
package address

import (
	"context"
	"net"
	"net/netip"
	"strings"
)

// Internal reports whether a name leads to the machine itself, to its own link, or to where clouds keep the machine's
// secrets. A name that nobody knows leads nowhere.
func Internal(ctx context.Context, name string) bool {
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
