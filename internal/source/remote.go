package source

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// tokenVariable carries the job token to the credential helper: the environment of a process is its owner's alone,
// its arguments are everybody's.
const tokenVariable = "SLIPWAY_JOB_TOKEN"

// gitUser is the user name that goes with a job token.
const gitUser = "gitlab-ci-token"

// credentialHelper is run by Git's shell with the arguments get, store and erase.
const credentialHelper = `!f() { test "$1" = get && printf 'username=` + gitUser + `\npassword=%s\n' "$` + tokenVariable + `"; }; f`

// cleanRemote is the URL that Git fetches from: without credentials, over one of the schemes.
func cleanRemote(raw string, schemes []string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// The error of url.Parse quotes the URL, credentials included.
		return nil, fmt.Errorf("the repository's URL cannot be read")
	}
	u.User, u.Fragment, u.RawQuery = nil, "", ""
	if !slices.Contains(schemes, u.Scheme) {
		return nil, fmt.Errorf("the repository's URL %s is none of %s", u, strings.Join(schemes, ", "))
	}
	if u.Host == "" && u.Scheme != "file" {
		return nil, fmt.Errorf("the repository's URL %s has no host", u)
	}
	return u, nil
}

// baseURL is the server that u is on, with a slash at its end.
func baseURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}).String()
}

// remoteConfig is what a fetch from u needs. The credentials are bound to the server: if it redirects elsewhere, they
// do not go along.
func remoteConfig(u *url.URL, r *Request) []setting {
	base := baseURL(u)
	config := []setting{proxyConfig(u)}
	if r.Token != "" {
		config = append(config, setting{"credential." + base + ".helper", credentialHelper})
	}
	if r.UserAgent != "" {
		config = append(config, setting{"http.userAgent", r.UserAgent})
	}
	if r.CorrelationID != "" {
		config = append(config, setting{"http." + base + ".extraHeader", "X-Gitaly-Correlation-Id: " + r.CorrelationID})
	}
	if r.CAFile != "" {
		config = append(config, setting{"http.sslCAInfo", r.CAFile})
	}
	return append(config, r.extra...)
}

// proxyConfig lets Git take the proxy of the environment that this process's own requests to u take, or none. Left to itself it would
// read HTTP_PROXY and NO_PROXY in another way: GitLab's API would be reached, and its repositories would not.
func proxyConfig(u *url.URL) setting {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil || proxy == nil {
		return setting{"http.proxy", ""}
	}
	return setting{"http.proxy", proxy.String()}
}
