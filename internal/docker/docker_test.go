package docker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
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
		got, from := FindAuth(c.image, first, second)
		if got.Username != c.user || from != c.from {
			t.Errorf("FindAuth(%s) = %q from %q, want %q from %q", c.image, got.Username, from, c.user, c.from)
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
	} {
		if got := kindOf(message); got != want {
			t.Errorf("kindOf(%q) = %d, want %d", message, got, want)
		}
	}
}

func TestConnectErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ host, hint string }{
		{"unix:///nowhere/docker.sock", "is it running? systemctl start docker (or scripts/engine in Slipway's checkout)"},
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
