package guard

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

func TestSystem(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	other.own("secret", "--network", "none", alpine, "true")
	r.sleeper("db")
	r.own("done", "--network", "none", alpine, "true")
	volume := strings.TrimSpace(r.host("volume", "create", "--label", LabelGuard+"="+r.policy.Token, r.policy.prefix()+"data"))
	r.objects.addVolume(volume)
	_, raw := r.do("GET", "/info", nil)
	wants(t, raw, `"Containers":2`, `"ContainersRunning":1`, `"ServerVersion":"`+r.engine.release, `"OSType":"linux"`, `"LocalNodeState":"inactive"`)
	name := strings.TrimSpace(r.host("info", "--format", "{{.Name}}"))
	id := strings.TrimSpace(r.host("info", "--format", "{{.ID}}"))
	lacks(t, raw, `"`+name+`"`, id, "/var/lib/docker", "containerd")
	wants(t, r.docker("info"), "Server Version")
	wants(t, r.docker("version"), "API version", r.engine.version.String()+" (minimum version 1.24)")
	wants(t, r.docker("system", "df"), "Containers", "2")
	out := r.docker("system", "df", "-v")
	wants(t, out, "db", "data", "the-image")
	lacks(t, out, "secret", r.policy.prefix())
	// The old client of Debian's package, which speaks 1.41 alone.
	if _, err := exec.LookPath("/usr/bin/docker"); err == nil {
		for _, args := range [][]string{{"info"}, {"version"}, {"system", "df", "-v"}, {"ps", "-a"}, {"exec", "db", "echo", "said"}, {"stats", "--no-stream", "db"}} {
			out, err := exec.Command("/usr/bin/docker", append([]string{"--host", "unix://" + r.Socket()}, args...)...).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %v %s", args, err, out)
			}
		}
	}
	for _, c := range []struct{ method, target, want string }{
		{"GET", "/nodes", "This node is not a swarm manager"},
		{"GET", "/plugins", "[]"},
		{"POST", "/swarm/init", "[group-refused]"},
	} {
		_, text := r.do(c.method, c.target, nil)
		wants(t, text, c.want)
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		answer := r.send(request(method + " /_ping HTTP/1.1"))
		wants(t, answer, "HTTP/1.1 200 OK", "Api-Version: "+r.engine.version.String(), "Builder-Version: 1", "Ostype: linux")
		if strings.HasSuffix(answer, "OK") != (method == http.MethodGet) {
			t.Errorf("%s: %q", method, answer)
		}
	}
}

func TestRegistryHost(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry.example.com": "registry.example.com",
		"registry.example.com:5000": "registry.example.com:5000", "http://127.0.0.1:5000/v2/": "127.0.0.1:5000",
	} {
		if got := registryHost(in); got != want {
			t.Errorf("%q is at %q, not %q", in, got, want)
		}
	}
}

func TestLoginDialsNoInnerRegistry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, address := range []string{"127.0.0.1:5000", "http://localhost:5000/v2/", "169.254.169.254", "[::1]:5000"} {
		status, text := r.do("POST", "/auth", map[string]string{"username": "u", "password": "p", "serveraddress": address})
		if status != http.StatusForbidden || !strings.Contains(text, "denied by slipway") {
			t.Errorf("%s: %d %s", address, status, text)
		}
	}
	// The Engine makes a URL of it.
	for _, address := range []string{"u:p@127.0.0.1:5000", "https://u:p@127.0.0.1/v2/", "127.0.0.1?x", "127.0.0.1#.example.com", "HTTP://127.0.0.1", "//127.0.0.1", `127.0.0.1\x`} {
		status, text := r.do("POST", "/auth", map[string]string{"username": "u", "password": "p", "serveraddress": address})
		if status != http.StatusForbidden {
			t.Errorf("%s: %d %s", address, status, text)
		}
	}
	if status, text := r.do("GET", "/images/search?term=u:p@127.0.0.1:5000/x", nil); status != http.StatusForbidden {
		t.Error(status, text)
	}
	lacks(t, r.calls.String(), "/auth")
}
