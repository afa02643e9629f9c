package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-ci/slipway/internal/dockerfile"
)

// checkRemote decides over what ADD fetches: the Engine does it from the machine's own network, where it reaches what no
// container of the job does. The guard asks for the address first, and follows where that leads. A server that answers
// the Engine otherwise than the guard can still send it elsewhere: only a firewall on the Engine's machine prevents that.
func (c *call) checkRemote(ctx context.Context, r dockerfile.Remote) error {
	if r.Git {
		return c.refuse(deny("build-remote", "fetch it in the job and COPY it", "line %d of the Dockerfile: the Engine would fetch the repository %s itself",
			r.Line, shownURL(r.URL)))
	}
	err := askURL(ctx, r.URL, c.publicAddress)
	if err == nil {
		return nil
	}
	var internal *internalAddress
	if errors.As(err, &internal) {
		return c.refuse(deny("add-internal", "fetch it in the job and COPY it", "line %d of the Dockerfile: ADD %s leads to %s, an address of the machine or its network",
			r.Line, shownURL(r.URL), internal.address))
	}
	var failed *url.Error // it has the whole URL in it
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return badRequest("line %d of the Dockerfile: ADD %s: %v", r.Line, shownURL(r.URL), err)
}

// shownURL is a URL for messages and logs, without the credentials and the query that may be in it.
func shownURL(text string) string {
	text, _, _ = strings.Cut(text, "?")
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return printable(text)
	}
	host, path, _ := strings.Cut(rest, "/")
	return printable(scheme + "://" + host[strings.LastIndex(host, "@")+1:] + "/" + path)
}

// internalAddress is an address that the Engine must not be sent to.
type internalAddress struct{ address string }

func (e *internalAddress) Error() string { return e.address + " is no public address" }

// publicAddress refuses all addresses but public ones.
func (g *Guard) publicAddress(at netip.AddrPort) error {
	a := at.Addr().WithZone("")
	plain := a.Unmap()
	shared := netip.MustParsePrefix("100.64.0.0/10") // carriers' and clouds' own
	if v4, ok := embedded(a); ok && a.Is6() && !a.Is4In6() {
		plain = v4
	}
	if forbidden(a) || plain.IsPrivate() || shared.Contains(plain) || ownAddresses()[a.Unmap()] || ownAddresses()[plain] {
		return &internalAddress{plain.String()}
	}
	return nil
}

// askURL asks for a URL and follows its redirects, connecting to nothing but what allow lets pass.
func askURL(ctx context.Context, target string, allow func(netip.AddrPort) error) error {
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
