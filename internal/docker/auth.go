package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	cliconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
)

// Credentials let the Engine pull from one registry.
type Credentials struct {
	Server                       string
	Username, Password           string
	IdentityToken, RegistryToken string
}

// AuthSource is one place where credentials may be found: a registry or a path below it → credentials, or the program that has them.
type AuthSource struct {
	Name    string // for the log: "DOCKER_AUTH_CONFIG"
	entries map[string]Credentials
	helpers map[string]credentialHelper
	store   credentialHelper // of all registries that it lists; "" = none
}

// AuthFromJSON reads the content of a config.json (DOCKER_AUTH_CONFIG).
func AuthFromJSON(name, content string) (AuthSource, error) {
	f := configfile.New("")
	if err := f.LoadFromReader(strings.NewReader(content)); err != nil {
		return AuthSource{}, fmt.Errorf("read %s: %w", name, err)
	}
	return authFromFile(name, f), nil
}

// AuthFromHome reads config.json of a docker configuration folder ("" = that of the process's user).
func AuthFromHome(dir string) (AuthSource, error) {
	f, err := cliconfig.Load(dir)
	if err != nil {
		return AuthSource{}, fmt.Errorf("read the runner's docker configuration: %w", err)
	}
	return authFromFile(f.Filename, f), nil
}

// AuthFromList takes credentials that are known already, keyed by their Server.
func AuthFromList(name string, list []Credentials) AuthSource {
	s := AuthSource{Name: name, entries: map[string]Credentials{}}
	for _, c := range list {
		s.entries[normalHost(c.Server)] = c
	}
	return s
}

func authFromFile(name string, f *configfile.ConfigFile) AuthSource {
	s := AuthSource{Name: name, entries: map[string]Credentials{}, helpers: map[string]credentialHelper{}, store: credentialHelper(f.CredentialsStore)}
	for key, a := range f.AuthConfigs {
		c := Credentials{Server: key, Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
		if c != (Credentials{Server: key}) { // else a store has them
			s.entries[normalHost(key)] = c
		}
	}
	for key, h := range f.CredentialHelpers {
		s.helpers[key] = credentialHelper(h)
	}
	return s
}

// FindAuth returns the credentials for an image: of the first source that has any for it, those with the longest
// matching path (registry/group/project), and the source's name. Programs are asked for the image's registry only; the error says
// of which sources they failed, in whose place others may have served.
//
// GitLab: DOCKER_AUTH_CONFIG first, then the runner's user's configuration, then the payload.
func FindAuth(ctx context.Context, image string, sources ...AuthSource) (c Credentials, from string, err error) {
	ref, parseErr := reference.ParseNormalizedNamed(image)
	if parseErr != nil {
		return Credentials{}, "", nil
	}
	name := strings.ToLower(reference.Domain(ref)) + "/" + reference.Path(ref)
	for _, s := range sources {
		found, asked := s.find(ctx, name)
		if asked != nil {
			err = errors.Join(err, fmt.Errorf("the credentials of %s: %w", s.Name, asked))
		}
		if found != (Credentials{}) {
			return found, s.Name, err
		}
	}
	return Credentials{}, "", err
}

// place is where credentials for a registry, or a path below it, are. Of the same path the higher rank counts.
type place struct {
	path string
	rank int
	get  func() (Credentials, error)
}

func (s AuthSource) find(ctx context.Context, image string) (Credentials, error) {
	var places []place
	var errs []error
	add := func(key string, rank int, get func() (Credentials, error)) {
		if path := normalHost(key); image == path || strings.HasPrefix(image, path+"/") {
			places = append(places, place{path, rank, get})
		}
	}
	for key, c := range s.entries {
		add(key, 0, func() (Credentials, error) { return c, nil })
	}
	if s.store != "" {
		keys, err := s.store.list(ctx)
		errs = append(errs, err)
		for _, key := range keys {
			add(key, 1, func() (Credentials, error) { return s.store.get(ctx, key) })
		}
	}
	for key, h := range s.helpers {
		add(key, 2, func() (Credentials, error) { return h.get(ctx, key) })
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(len(b.path)-len(a.path), b.rank-a.rank) })
	for _, p := range places {
		c, err := p.get()
		if err == nil && c != (Credentials{}) {
			return c, errors.Join(errs...)
		}
		errs = append(errs, err)
	}
	return Credentials{}, errors.Join(errs...)
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
