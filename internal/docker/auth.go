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
	store   credentialHelper                           // of all registries that it lists; "" = none
	may     func(h credentialHelper, key string) error // says why one must not be asked for a key; nil = all may be
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

// HelpersOf returns the source with none but those programs started that another one names for the same registry, too: a job that
// writes DOCKER_AUTH_CONFIG has no say in what runs on the runner's machine, nor in which registry gets the secrets of another.
func (s AuthSource) HelpersOf(other AuthSource) AuthSource {
	s.may = func(h credentialHelper, key string) error {
		if err := h.check(); err != nil || h == other.store {
			return err
		}
		for named, helper := range other.helpers {
			if helper == h && key != "" && covers(normalHost(named), normalHost(key)) {
				return nil
			}
		}
		return fmt.Errorf("%s is not asked: the runner's own docker configuration does not name it for that registry", h.program())
	}
	return s
}

// covers reports whether what is meant for a registry, or a path below it, is meant for another one.
func covers(path, other string) bool { return other == path || strings.HasPrefix(other, path+"/") }

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

// mostKeys is how many keys of one source a helper is asked for, for one image: there is no end of ways to write a registry's.
const mostKeys = 5

// place is where credentials for a registry, or a path below it, are. Of the same path the higher rank counts.
type place struct {
	path, key string
	rank      int
	helper    credentialHelper // "" = c has them
	c         Credentials
}

func (s AuthSource) find(ctx context.Context, image string) (Credentials, error) {
	var places []place
	var errs []error
	add := func(key string, rank int, helper credentialHelper, c Credentials) {
		if path := normalHost(key); covers(path, image) {
			places = append(places, place{path, key, rank, helper, c})
		}
	}
	for key, c := range s.entries {
		add(key, 0, "", c)
	}
	if s.store != "" {
		err := s.refuses(s.store, "")
		var keys []string
		if err == nil {
			keys, err = s.store.list(ctx)
		}
		errs = append(errs, err)
		for _, key := range keys {
			add(key, 1, s.store, Credentials{})
		}
	}
	for key, h := range s.helpers {
		add(key, 2, h, Credentials{})
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(len(b.path)-len(a.path), b.rank-a.rank, strings.Compare(a.key, b.key))
	})
	asked := map[credentialHelper]int{}
	for _, p := range places {
		c, err := p.c, error(nil)
		if p.helper != "" {
			asked[p.helper]++
			if asked[p.helper] > mostKeys+1 { // was told
				continue
			}
			if err = s.refuses(p.helper, p.key); err != nil {
				asked[p.helper] = mostKeys + 1
			} else if asked[p.helper] > mostKeys {
				err = fmt.Errorf("%s is asked for no more than %d keys", p.helper.program(), mostKeys)
			} else {
				c, err = p.helper.get(ctx, p.key)
			}
		}
		if err == nil && c != (Credentials{}) {
			return c, errors.Join(errs...)
		}
		errs = append(errs, err)
	}
	return Credentials{}, errors.Join(errs...)
}

// refuses says why a helper is not asked for a key; "" stands for all that it has.
func (s AuthSource) refuses(h credentialHelper, key string) error {
	if s.may == nil {
		return nil
	}
	return s.may(h, key)
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
