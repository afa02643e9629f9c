package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// errNotForJobs: the runner's machine reaches itself by addresses that no job could reach from its container.
var errNotForJobs = errors.New("an address of the runner's own machine")

// checkAddress lets a submodule of another server come from anywhere but this machine's inside and its link, where
// clouds keep secrets.
func checkAddress(ip netip.Addr) error {
	ip = ip.Unmap()
	if nat64.Contains(ip) { // an IPv4 address behind the network's translator
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	if slices.Contains(metadata, ip) || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || !ip.IsValid() {
		return fmt.Errorf("%s is %w", ip, errNotForJobs)
	}
	return nil
}

// nat64 is where IPv4 is in IPv6: RFC 6052. metadata are the places of clouds' secrets that are not link-local: of Amazon,
// Alibaba and Oracle.
var (
	nat64    = netip.MustParsePrefix("64:ff9b::/96")
	metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192")}
)

// settle finds out where a repository of another server really is, and holds Git to that: redirects are followed here,
// because Git would follow them to any address.
func (m *module) settle(ctx context.Context) error {
	if m.own || m.req.extra != nil {
		return nil
	}
	u, err := m.followRedirects(ctx)
	if err == nil {
		m.req.extra, err = pinned(ctx, u)
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &job.Error{
			Reason: job.ScriptFailure, ExitCode: 1, Err: fmt.Errorf("fetch %s: %w: %w", m.req.RemoteURL, ErrUnreachable, err),
			Hint: "submodules of other servers are fetched by the runner's machine, without the job token: can it reach that server?",
		}
	}
	m.req.extra = append(m.req.extra, proxyConfig(u), setting{"http.followRedirects", "false"})
	if u.String() != m.remote.String() {
		m.req.extra = append(m.req.extra, setting{"url." + u.String() + ".insteadOf", m.remote.String()})
	}
	return nil
}

// strangers makes requests to servers that somebody else chose, and not to the inside of this machine.
type strangers struct{ direct, proxied *http.Transport }

func foreignTransport() *strangers {
	dialer := &net.Dialer{Timeout: dialTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return checkAddress(to.Addr())
	}}
	return &strangers{
		direct:  &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: time.Minute},
		proxied: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: time.Minute},
	}
}

// dialTimeout bounds the connection, and the agreement on its encryption.
const dialTimeout = 30 * time.Second

// RoundTrip asks the operator's proxy for what it is for, which reaches what it may; all else is looked at. That is decided for
// each request: a proxy is for some servers, and never for the machine itself.
func (s *strangers) RoundTrip(r *http.Request) (*http.Response, error) {
	proxy, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return s.direct.RoundTrip(r)
	}
	if ip, err := netip.ParseAddr(strings.Trim(r.URL.Hostname(), "[]")); err == nil {
		if err := checkAddress(ip); err != nil {
			return nil, err
		}
	}
	return s.proxied.RoundTrip(r)
}

// CloseIdleConnections closes the connections that are not in use.
func (s *strangers) CloseIdleConnections() {
	s.direct.CloseIdleConnections()
	s.proxied.CloseIdleConnections()
}

const discovery = "/info/refs"

func (m *module) followRedirects(ctx context.Context) (*url.URL, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tr := foreignTransport()
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > 5 || r.URL.Scheme == "http" && via[0].URL.Scheme == "https" || !strings.HasSuffix(r.URL.Path, discovery) {
			return fmt.Errorf("it redirects to %s, which is not followed", r.URL.Redacted())
		}
		return nil
	}}
	at := *m.remote
	at.Path, at.RawQuery = at.Path+discovery, "service=git-upload-pack"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", m.req.UserAgent)
	r.Header.Set("Git-Protocol", "version=2")
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	end := *resp.Request.URL
	end.Path, end.RawPath = strings.TrimSuffix(end.Path, discovery), ""
	return cleanRemote(end.String(), m.req.Schemes)
}

// pinned makes Git use the addresses that were looked at, whatever the server's name stands for a moment later.
func pinned(ctx context.Context, u *url.URL) ([]setting, error) {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if proxy != nil || err != nil {
		return nil, err
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return nil, err
	}
	var list []string
	for _, ip := range found {
		if err := checkAddress(ip); err != nil {
			return nil, err
		}
		list = append(list, ip.Unmap().String())
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(serverName(u), u.Scheme+"://"+strings.ToLower(u.Hostname())), ":")
	return []setting{{"http.curloptResolve", u.Hostname() + ":" + port + ":" + strings.Join(list, ",")}}, nil
}
