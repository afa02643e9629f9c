package demo

import (
	"bytes"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func startRegistry(t *testing.T) *Registry {
	t.Helper()
	r, err := StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// client runs docker with a login of its own, so that nothing reaches the user's.
type client struct {
	t   *testing.T
	dir string
}

func (c client) run(stdin string, args ...string) (string, error) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), "docker", append([]string{"--config", c.dir}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c client) must(stdin string, args ...string) {
	c.t.Helper()
	if out, err := c.run(stdin, args...); err != nil {
		c.t.Fatalf("docker %v: %v\n%s", args, err, out)
	}
}

// TestRegistryServesTheDockerClient does by hand what the demo's job does: log in, pull, build, push, pull again.
func TestRegistryServesTheDockerClient(t *testing.T) {
	t.Parallel()
	needEngine(t)
	r := startRegistry(t)
	alpine := Alpine()
	alpine.Labels = map[string]string{"slipway-test": r.Host} // an image of its own, whatever runs beside this test
	if err := r.Push(t.Context(), "alpine:latest", alpine); err != nil {
		t.Fatal(err)
	}
	base, built := r.Host+"/alpine:latest", r.Host+"/group/app:main"
	docker := client{t, t.TempDir()}

	if out, err := docker.run("", "pull", base); err == nil || !strings.Contains(out, "no basic auth credentials") {
		t.Errorf("pull without login: %v\n%s", err, out)
	}
	if out, err := docker.run("wrong", "login", "-u", r.User, "--password-stdin", r.Host); err == nil {
		t.Errorf("login with a wrong password: %s", out)
	}
	docker.must(r.Password, "login", "-u", r.User, "--password-stdin", r.Host)
	docker.must("", "pull", "--quiet", base)
	t.Cleanup(func() { removeImage(t, base) })
	docker.must("FROM "+base+"\nRUN echo built > /built\n", "build", "--quiet", "-t", built, "-")
	docker.must("", "push", "--quiet", built)
	removeImage(t, built)
	docker.must("", "pull", "--quiet", built)
	t.Cleanup(func() { removeImage(t, built) })
	if out, err := docker.run("", "run", "--rm", "--network", "none", built, "cat", "/built"); err != nil || out != "built\n" {
		t.Errorf("the image that was pushed prints %q, %v", out, err)
	}
	if got := r.Requests(); got.Pushes != 2 || got.Manifests < 2 || got.Layers < 3 /* two configs, and the layer that no other image has */ || got.Refused < 2 {
		t.Errorf("requests: %+v", got)
	}
}

func TestRegistryCounts(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	recipe := Recipe{Files: map[string]File{"/hello": {Content: []byte("hello")}}}
	if err := r.Push(t.Context(), "one:two", recipe); err != nil {
		t.Fatal(err)
	}
	before := r.Requests()
	for _, ask := range []struct {
		path, user, password string
		want                 int
	}{
		{"/v2/", r.User, r.Password, http.StatusOK},
		{"/v2/", "", "", http.StatusUnauthorized},
		{"/v2/", r.User, "x", http.StatusUnauthorized},
		{"/v2/", "x", r.Password, http.StatusUnauthorized},
		{"/v2/one/manifests/two", "", "", http.StatusUnauthorized},
		{"/v2/one/manifests/two", r.User, r.Password, http.StatusOK},
		{"/v2/one/manifests/none", r.User, r.Password, http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Host+ask.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ask.user != "" {
			req.SetBasicAuth(ask.user, ask.password)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != ask.want {
			t.Errorf("GET %s as %q: %s, want %d", ask.path, ask.user, resp.Status, ask.want)
		}
		if challenge := resp.Header.Get("WWW-Authenticate"); (challenge != "") != (ask.want == http.StatusUnauthorized) {
			t.Errorf("GET %s as %q: challenge %q", ask.path, ask.user, challenge)
		}
	}
	want := before // the push asks too
	want.Manifests += 2
	want.Refused += 4
	got := r.Requests()
	if got.Sent <= before.Sent {
		t.Errorf("%d bytes were sent, as before", got.Sent)
	}
	want.Sent = got.Sent
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestPushBadName(t *testing.T) {
	t.Parallel()
	r := startRegistry(t)
	if err := r.Push(t.Context(), "UPPER:x", Alpine()); err == nil || bytes.Contains([]byte(err.Error()), []byte(r.Password)) {
		t.Errorf("error: %v", err)
	}
}
