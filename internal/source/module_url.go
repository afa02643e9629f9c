package source

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// moduleURL is where a submodule is fetched from. raw is what .gitmodules says, which anybody may have written; parent
// is the URL of the repository that holds it.
func (r *Request) moduleURL(raw string, parent *url.URL) (*url.URL, error) {
	if raw == "" || strings.HasPrefix(raw, "-") || strings.ContainsFunc(raw, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return nil, fmt.Errorf("its URL %q is not one", raw)
	}
	if strings.HasPrefix(raw, "./") || strings.HasPrefix(raw, "../") {
		return relativeURL(raw, parent)
	}
	if r.Submodules.ForceHTTPS {
		for _, begin := range r.Submodules.SSH {
			if rest, ok := strings.CutPrefix(raw, begin); ok && begin != "" {
				raw = r.gitlabURL() + strings.TrimLeft(rest, "/")
				break
			}
		}
	}
	if !strings.HasPrefix(raw, "http://") && !strings.HasPrefix(raw, "https://") {
		return nil, errors.New("its URL is none of http and https")
	}
	u, err := cleanRemote(raw, []string{"http", "https"})
	if err != nil {
		return nil, err
	}
	if u.Path = strings.TrimRight(u.Path, "/"); u.Path == "" {
		return nil, errors.New("its URL names no repository")
	}
	u.RawPath = ""
	return u, nil
}

// relativeURL resolves ./ and ../ as Git does: the parent's last part is a folder. It stays on the server.
func relativeURL(raw string, parent *url.URL) (*url.URL, error) {
	parts := strings.Split(strings.Trim(parent.Path, "/"), "/")
	for {
		if rest, ok := strings.CutPrefix(raw, "../"); ok && len(parts) > 0 {
			raw, parts = rest, parts[:len(parts)-1]
		} else if rest, ok := strings.CutPrefix(raw, "./"); ok {
			raw = rest
		} else {
			break
		}
	}
	parts = append(parts, strings.Split(strings.TrimRight(raw, "/"), "/")...)
	if slices.Contains(parts, "..") || slices.Contains(parts, "") {
		return nil, errors.New("its relative URL leads above the server")
	}
	return &url.URL{Scheme: parent.Scheme, Host: parent.Host, Path: "/" + strings.Join(parts, "/")}, nil
}

// gitlabURL is what all projects' addresses on the server begin with, with a slash at its end.
//
// GitLab: clone_url if there is one, else the runner's url.
func (r *Request) gitlabURL() string {
	if begin, ok := strings.CutSuffix(r.RemoteURL, "/"+r.ProjectPath+".git"); ok {
		return begin + "/"
	}
	return strings.TrimRight(r.Server, "/") + "/"
}

// ofServer reports whether u is on the server that gave the job its token. Any other server must not get to see it.
func (r *Request) ofServer(u *url.URL) bool {
	for _, own := range []string{r.RemoteURL, r.Server} {
		o, err := url.Parse(own)
		if err == nil && o.Host != "" && serverName(o) == serverName(u) {
			return true
		}
	}
	return false
}

func serverName(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}
