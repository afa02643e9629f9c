package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
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
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || !ip.IsValid() {
		return fmt.Errorf("%s is %w", ip, errNotForJobs)
	}
	return nil
}

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
	m.req.extra = append(m.req.extra, setting{"http.followRedirects", "false"})
	if u.String() != m.remote.String() {
		m.req.extra = append(m.req.extra, setting{"url." + u.String() + ".insteadOf", m.remote.String()})
	}
	return nil
}

// foreignTransport reaches servers that somebody else chose, and not the inside of this machine.
func foreignTransport() *http.Transport {
	var proxied atomic.Bool
	dialer := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		if proxied.Load() {
			return nil // the proxy is the operator's, and reaches what it may
		}
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return checkAddress(to.Addr())
	}}
	return &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			proxy, err := http.ProxyFromEnvironment(r)
			if proxy != nil {
				proxied.Store(true)
			}
			return proxy, err
		},
		DialContext: dialer.DialContext, ResponseHeaderTimeout: time.Minute,
	}
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
