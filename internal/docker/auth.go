package docker

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	cliconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
)

// Credentials let the Engine pull from one registry.
type Credentials struct {
	Server                       string
	Username, Password           string
	IdentityToken, RegistryToken string
}

// AuthSource is one place where credentials may be found: a registry or a path below it → credentials.
type AuthSource struct {
	Name    string // for the log: "DOCKER_AUTH_CONFIG"
	entries map[string]Credentials
}

// AuthFromJSON reads the content of a config.json, with its credential helpers (DOCKER_AUTH_CONFIG).
func AuthFromJSON(name, content string) (AuthSource, error) {
	f := configfile.New("")
	if err := f.LoadFromReader(strings.NewReader(content)); err != nil {
		return AuthSource{}, fmt.Errorf("read %s: %w", name, err)
	}
	return authFromFile(name, f)
}

// AuthFromHome reads config.json of a docker configuration folder ("" = that of the process's user), with its
// credential helpers.
func AuthFromHome(dir string) (AuthSource, error) {
	f, err := cliconfig.Load(dir)
	if err != nil {
		return AuthSource{}, fmt.Errorf("read the runner's docker configuration: %w", err)
	}
	return authFromFile(f.Filename, f)
}

// AuthFromList takes credentials that are known already, keyed by their Server.
func AuthFromList(name string, list []Credentials) AuthSource {
	s := AuthSource{Name: name, entries: map[string]Credentials{}}
	for _, c := range list {
		s.entries[normalHost(c.Server)] = c
	}
	return s
}

func authFromFile(name string, f *configfile.ConfigFile) (AuthSource, error) {
	s := AuthSource{Name: name, entries: map[string]Credentials{}}
	all, err := f.GetAllCredentials()
	if err != nil {
		return s, fmt.Errorf("ask the credential helpers of %s: %w", name, err)
	}
	for key, a := range all {
		if a == (types.AuthConfig{}) {
			continue
		}
		s.entries[normalHost(key)] = Credentials{
			Server: key, Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
		}
	}
	return s, nil
}

// FindAuth returns the credentials for an image: of the first source that has any for it, those with the longest
// matching path (registry/group/project), and the source's name.
//
// GitLab: DOCKER_AUTH_CONFIG first, then the runner's user's configuration, then the payload.
func FindAuth(image string, sources ...AuthSource) (c Credentials, from string) {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return Credentials{}, ""
	}
	name := strings.ToLower(reference.Domain(ref)) + "/" + reference.Path(ref)
	for _, s := range sources {
		best := ""
		for key := range s.entries {
			if (name == key || strings.HasPrefix(name, key+"/")) && len(key) > len(best) {
				best = key
			}
		}
		if best != "" {
			return s.entries[best], s.Name
		}
	}
	return Credentials{}, ""
}

// normalHost brings the many ways to write a registry's key to host[/path].
func normalHost(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	host, path, _ := strings.Cut(key, "/")
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = "docker.io"
	}
	if path == "v1" || path == "v2" {
		path = ""
	}
	if path == "" {
		return host
	}
	return host + "/" + path
}
