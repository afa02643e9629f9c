package docker

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/moby/moby/client"
)

func TestFindAuth(t *testing.T) {
	t.Parallel()
	// "a:b", "p:q" in base64
	first, err := AuthFromJSON("DOCKER_AUTH_CONFIG", `{"auths":{
		"https://index.docker.io/v1/":{"auth":"aHViOmI="},
		"REG.example:5000":{"auth":"aG9zdDpi"},
		"reg.example:5000/group/project":{"auth":"cHJvamVjdDpi"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	second := AuthFromList("job payload", []Credentials{{Server: "reg.example:5000", Username: "payload"}, {Server: "other.example", Username: "other"}})
	for _, c := range []struct{ image, user, from string }{
		{"alpine", "hub", "DOCKER_AUTH_CONFIG"},
		{"docker.io/group/x:1", "hub", "DOCKER_AUTH_CONFIG"},
		{"reg.example:5000/group/project/app", "project", "DOCKER_AUTH_CONFIG"},
		{"reg.example:5000/group/project", "project", "DOCKER_AUTH_CONFIG"},
		{"reg.example:5000/group/projects", "host", "DOCKER_AUTH_CONFIG"},
		{"other.example/x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "other", "job payload"},
		{"third.example/x", "", ""},
		{"Not A Name", "", ""},
	} {
		got, from, err := FindAuth(t.Context(), c.image, first, second)
		if got.Username != c.user || from != c.from || err != nil {
			t.Errorf("FindAuth(%s) = %q from %q, %v, want %q from %q", c.image, got.Username, from, err, c.user, c.from)
		}
	}
	if _, err := AuthFromJSON("DOCKER_AUTH_CONFIG", "{"); err == nil {
		t.Error("broken JSON is taken")
	}
}

func TestPullKinds(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]PullKind{
		"manifest for x:1 not found: manifest unknown":                    PullMisconfigured,
		"pull access denied for x, repository does not exist":             PullMisconfigured,
		"Get https://r/v2/: dial tcp 1.2.3.4:443: connect: connection re": PullUnreachable,
		"toomanyrequests: You have reached your pull rate limit":          PullLimited,
		"filesystem layer verification failed":                            PullFailed,
		`unknown: {"errors":[{"code":"NAME_UNKNOWN"}]}`:                   PullMisconfigured,
	} {
		if got := kindOf(message); got != want {
			t.Errorf("kindOf(%q) = %d, want %d", message, got, want)
		}
	}
}

func TestConnectErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ host, hint string }{
		{"unix:///nowhere/docker.sock", "is it running? else correct `host` in [runners.docker] or DOCKER_HOST"},
		{"ssh://host", "jobs' folders must be on the Engine's machine: run Slipway there"},
		{"nonsense", "correct `host` in [runners.docker] or DOCKER_HOST"},
	} {
		_, err := Connect(t.Context(), Options{Host: c.host})
		var e *ConnectError
		if !errors.As(err, &e) || e.Hint != c.hint {
			t.Errorf("Connect(%s) = %v, want hint %q", c.host, err, c.hint)
		}
	}
}

// TestHintOfTheDefaultSocket: where nobody has named an Engine, one is to be started.
func TestHintOfTheDefaultSocket(t *testing.T) {
	t.Parallel()
	var e *ConnectError
	if err := connectError(DefaultHost, fs.ErrNotExist); !errors.As(err, &e) || !strings.HasPrefix(e.Hint, "is it running? systemctl start docker") {
		t.Error(e)
	}
}

// TestAPIVersion: an Engine is spoken to in its own version, or in the newest that this program knows; one that is too old is refused.
func TestAPIVersion(t *testing.T) {
	t.Parallel()
	var spoken atomic.Value
	connect := func(version string) (*Engine, error) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Api-Version", version)
			if strings.HasSuffix(r.URL.Path, "/version") {
				spoken.Store(r.URL.Path)
				_, _ = io.WriteString(w, `{"Version":"test"}`)
			}
		}))
		t.Cleanup(srv.Close)
		return Connect(t.Context(), Options{Host: "tcp://" + strings.TrimPrefix(srv.URL, "http://")})
	}
	for version, want := range map[string]string{MinAPIVersion: MinAPIVersion, "1.45": "1.45", "1.99": client.MaxAPIVersion} {
		e, err := connect(version)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Version(t.Context()); err != nil || e.APIVersion() != want || spoken.Load() != "/v"+want+"/version" {
			t.Errorf("an Engine of API %s was asked for %v (%v), and its version is said to be %s", version, spoken.Load(), err, e.APIVersion())
		}
		e.Close()
	}
	_, err := connect("1.40")
	var e *ConnectError
	if !errors.As(err, &e) || !strings.Contains(e.Error(), "the Engine speaks API 1.40, too old") || !strings.Contains(e.Hint, "Engine 20.10") {
		t.Errorf("got %v", err)
	}
}

func TestSecurityOptions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(path, []byte("{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := securityOptions([]string{"no-new-privileges", "seccomp=unconfined", "seccomp=" + path})
	want := []string{"no-new-privileges", "seccomp=unconfined", `seccomp={"defaultAction":"SCMP_ACT_ALLOW"}`}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("securityOptions = %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"seccomp=/nowhere", "seccomp=/etc/passwd"} {
		if _, err := securityOptions([]string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// TestFindAuthAsks: of several places the longest path counts; a token is no password, and what a helper says is not quoted.
func TestFindAuthAsks(t *testing.T) {
	dir := t.TempDir()
	for name, answer := range map[string]string{
		"token": `{"Username":"<token>","Secret":"identity"}`, "path": `{"Username":"path","Secret":"p"}`, "garbled": `secret but no JSON`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\necho '"+answer+"'\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	s, err := AuthFromJSON("config", `{"auths":{"reg.example/group":{"auth":"aG9zdDpi"}},
		"credHelpers":{"reg.example":"token","reg.example/group/project":"path","bad.example":"garbled"}}`)
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]Credentials{
		"reg.example/x":               {Server: "reg.example", IdentityToken: "identity"},
		"reg.example/group/x":         {Server: "reg.example/group", Username: "host", Password: "b"},
		"reg.example/group/project/x": {Server: "reg.example/group/project", Username: "path", Password: "p"},
	} {
		if got, _, err := FindAuth(t.Context(), image, s); got != want || err != nil {
			t.Errorf("%s: got %+v, %v", image, got, err)
		}
	}
	_, from, err := FindAuth(t.Context(), "bad.example/x", s)
	if from != "" || err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v from %q", err, from)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := FindAuth(ctx, "reg.example/x", s); !errors.Is(err, context.Canceled) {
		t.Errorf("of a canceled job: %v", err)
	}
}

// TestFindAuthBoundsHelpers: in number of keys and in what they print, of which the log gets what is no secret.
func TestFindAuthBoundsHelpers(t *testing.T) {
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	none := "echo credentials not found in native keychain; exit 1"
	for name, script := range map[string]string{
		"none": `echo "$1 $(cat)" >>` + asked + "; " + none, "other": none,
		"long":  `head -c 70000 /dev/zero | tr '\0' x`,
		"noisy": `head -c 70000 /dev/zero >&2; echo '{"Username":"noisy","Secret":"x"}'`,
		"loud":  `echo the key is gone >&2; head -c 70000 /dev/zero >&2; exit 3`,
		"leaky": `echo "secret"; exit 4`,
		"both":  `echo "secret"; echo the key is gone >&2; exit 4`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	source := func(content string) AuthSource {
		t.Helper()
		s, err := AuthFromJSON("config", content)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var keys []string
	for _, key := range []string{"reg.example", "REG.example", "Reg.example", "rEg.example"} {
		keys = append(keys, `"`+key+`":"none"`, `"https://`+key+`":"none"`, `"`+key+`/":"none"`)
	}
	s := source(`{"auths":{"reg.example":{"auth":"aG9zdDpi"}},"credHelpers":{` + strings.Join(keys, ",") + "}}")
	got, _, err := FindAuth(t.Context(), "reg.example/x", s)
	if got.Username != "host" || err == nil || strings.Count(err.Error(), "is asked for no more than 5 keys") != 1 {
		t.Errorf("got %q, %v", got.Username, err)
	}
	calls, err := os.ReadFile(asked)
	if n := strings.Count(string(calls), "get "); n != 5 || err != nil {
		t.Errorf("%d calls, %v", n, err)
	}

	for name, want := range map[string]string{
		"long": "docker-credential-long get: its answer is too long", "loud": "the key is gone", "leaky": "docker-credential-leaky get: exit status 4",
		"both": "docker-credential-both get: exit status 4: the key is gone",
	} {
		_, _, err := FindAuth(t.Context(), "reg.example/x", source(`{"credHelpers":{"reg.example":"`+name+`"}}`))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") || len(err.Error()) > 5<<10 {
			t.Errorf("%s: got %v", name, err)
		}
	}

	if got, _, err := FindAuth(t.Context(), "reg.example/x", source(`{"credHelpers":{"reg.example":"noisy"}}`)); got.Username != "noisy" || err != nil {
		t.Errorf("got %q, %v", got.Username, err)
	}

	own := source(`{"credHelpers":{"https://Reg.example/v1/":"other", "elsewhere.example":"noisy", "reg.example/group":"noisy"},"credsStore":"none"}`)
	for content, refused := range map[string]bool{
		`{"credHelpers":{"reg.example":"other"}}`: false, `{"credHelpers":{"reg.example/x":"other"}}`: false, `{"credsStore":"none"}`: false,
		`{"credHelpers":{"reg.example":"leaky"}}`: true, `{"credsStore":"leaky"}`: true, `{"credsStore":"other"}`: true,
		`{"credHelpers":{"elsewhere.example":"leaky"}}`: false, // the image is not there
		`{"credHelpers":{"reg.example":"noisy"}}`:       true,  // it has the secrets of another registry
	} {
		_, _, err := FindAuth(t.Context(), "reg.example/x", source(content).HelpersOf(own))
		if (err != nil) != refused || refused && !strings.Contains(err.Error(), " is not asked: ") {
			t.Errorf("%s: got %v", content, err)
		}
	}
}
