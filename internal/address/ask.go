package address

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// InternalError is the error of a URL that leads to an address of the machine or its network.
type InternalError struct{ Address string }

func (e *InternalError) Error() string { return e.Address + " is no public address" }

// Ask asks for a URL and follows where that leads, connecting to nothing but public addresses.
func Ask(ctx context.Context, target string) error { return ask(ctx, target, public) }

// public refuses all addresses but public ones.
func public(at netip.AddrPort) error {
	a := at.Addr().WithZone("")
	plain := a.Unmap()
	shared := netip.MustParsePrefix("100.64.0.0/10") // carriers' and clouds' own
	if v4, ok := embedded(a); ok && a.Is6() && !a.Is4In6() {
		plain = v4
	}
	if forbidden(a) || plain.IsPrivate() || shared.Contains(plain) || ownAddresses()[a.Unmap()] || ownAddresses()[plain] {
		return &InternalError{plain.String()}
	}
	return nil
}

// ask asks for a URL and follows its redirects, connecting to nothing but what allow lets pass.
func ask(ctx context.Context, target string, allow func(netip.AddrPort) error) error {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return fmt.Errorf("it is no URL")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	dialer := &net.Dialer{
		Timeout: 10 * time.Second,
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return allow(at)
		},
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, Proxy: nil}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	return nil
}
