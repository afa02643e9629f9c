package guard

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/ledger"
)

// startRegistry serves a registry that asks for credentials, and the same images without at open.
func startRegistry(t *testing.T) (private *demo.Registry, open string) {
	t.Helper()
	r, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: r.Host})
		p.SetXForwarded()
		p.Out.Host = p.In.Host
		p.Out.SetBasicAuth(r.User, r.Password)
	}})
	t.Cleanup(proxy.Close)
	return r, strings.TrimPrefix(proxy.URL, "http://")
}

// publish puts an image of its own into the registry.
func publish(t *testing.T, r *demo.Registry, name, who string) {
	t.Helper()
	recipe := demo.Alpine()
	recipe.Labels = map[string]string{"who": who, "test": t.Name()}
	if err := r.Push(t.Context(), name, recipe); err != nil {
		t.Fatal(err)
	}
}

func credentials(user, password string) []string {
	data, _ := json.Marshal(map[string]string{"username": user, "password": password})
	return []string{"X-Registry-Auth", base64.URLEncoding.EncodeToString(data)}
}

// pullImage pulls by the API. It returns what went wrong.
func (r *rig) pullImage(name string, headers ...string) string {
	r.t.Helper()
	r.t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", "--force", name) })
	repo, tag := splitTag(name)
	if at, digest, ok := strings.Cut(name, "@"); ok {
		repo, tag = at, digest
	}
	status, body := r.do("POST", "/images/create?fromImage="+url.QueryEscape(repo)+"&tag="+url.QueryEscape(tag), nil, headers...)
	if status != http.StatusOK || strings.Contains(body, `"error"`) {
		return fmt.Sprint(status, body)
	}
	return ""
}

func withRegistry(host, path string) func(*Options) {
	return func(o *Options) { o.Policy.Registry, o.Policy.ImagePath = host, path }
}

func (r *rig) sees(ref string) bool {
	r.t.Helper()
	status, body := r.do("GET", "/images/"+ref+"/json", nil)
	if status != http.StatusOK && status != http.StatusNotFound {
		r.t.Errorf("%s: %d %s", ref, status, body)
	}
	return status == http.StatusOK
}

// TestPullDuringAPrune: an Engine that has its images in containerd ends all running pulls when images are pruned. They are made again,
// those of a build's base, too. Not beside other tests, whose pulls would end.
func TestPullDuringAPrune(t *testing.T) {
	registry, open := startRegistry(t)
	var prune func() // is called once, in mid-pull
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		if p.In.Method == http.MethodGet && strings.Contains(p.In.URL.Path, "/blobs/") {
			prune()
		}
		p.SetURL(&url.URL{Scheme: "http", Host: open})
		p.Out.Host = p.In.Host
	}})
	defer front.Close()
	host := strings.TrimPrefix(front.URL, "http://")
	r := newRig(t, withRegistry(host, ""))
	for _, c := range []struct {
		name, stdin string
		args        []string
		wants       string
	}{
		{"pull", "", []string{"pull", host + "/pull:1"}, "Downloaded newer image"},
		{"build", "FROM " + host + "/build:1\nRUN echo built\n", []string{"build", "-"}, "Successfully built"},
	} {
		pruned := false
		prune = sync.OnceFunc(func() {
			pruned = true
			// The Engine does this for one client at a time.
			eventually(t, "pruned", func() bool {
				out, err := run(engineHost(), "", "image", "prune", "--force", "--filter", "label=nothing")
				if strings.Contains(out, "already running") {
					return false
				}
				if err != nil {
					t.Errorf("%v: %s", err, out)
				}
				return true
			})
		})
		publish(t, registry, c.name+":1", c.name+" at "+host) // none that the Engine has seen
		t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", "--force", host+"/"+c.name+":1") })
		out, err := r.tryIn(c.stdin, c.args...)
		if err != nil || !strings.Contains(out, c.wants) || !pruned {
			t.Errorf("%s: %v, pruned meanwhile: %v\n%s", c.name, err, pruned, out)
		}
	}
}

func TestPrivatePull(t *testing.T) {
	t.Parallel()
	registry, _ := startRegistry(t)
	publish(t, registry, "team/secret:1", "secret")
	name := registry.Host + "/team/secret:1"
	a, b := rigs(t, withRegistry(registry.Host, ""))
	right := credentials(registry.User, registry.Password)
	if failed := a.pullImage(name, right...); failed != "" {
		t.Fatal(failed)
	}
	id := a.imageID(name)
	digest := strings.TrimSpace(a.host("image", "inspect", "--format", "{{index .RepoDigests 0}}", name))
	for _, ref := range []string{name, id, id[7:19], digest} {
		if !a.sees(ref) {
			t.Errorf("who pulled does not see %s", ref)
		}
		if b.sees(ref) {
			t.Errorf("another scope sees %s", ref)
		}
	}
	lacks(t, b.docker("images", "--digests", "--no-trunc"), id, registry.Host)
	if status, _ := b.do("POST", "/images/"+name+"/tag?repo=mine", nil); status != http.StatusNotFound {
		t.Errorf("tagged by another scope: %d", status)
	}
	if failed := b.pullImage(name); failed == "" || b.sees(name) {
		t.Errorf("pulled without credentials: %s", failed)
	}
	if failed := b.pullImage(name, credentials("demo", "guess")...); failed == "" || b.sees(name) {
		t.Errorf("pulled with a wrong password: %s", failed)
	}
	if !a.sees(name) {
		t.Error("a failed pull took the image from who had it")
	}
	if failed := b.pullImage(name, right...); failed != "" || !b.sees(name) || !b.sees(id) || !b.sees(digest) {
		t.Errorf("not seen after a pull of its own: %s", failed)
	}
	b.docker("rmi", name)
	if b.sees(name) || b.sees(id) || !a.sees(name) {
		t.Error("a removal is for the scope alone")
	}
	a.docker("rmi", name)
	if out, err := run(engineHost(), "", "image", "inspect", name); err == nil {
		t.Errorf("nobody reads it, and it is still there: %s", out)
	}
	for _, secret := range []string{registry.Password, right[1]} {
		lacks(t, a.audit.String(), secret)
		data, err := os.ReadFile(ledgerFile(a))
		if err != nil {
			t.Fatal(err)
		}
		lacks(t, string(data), secret)
	}
}

func TestPublicPull(t *testing.T) {
	t.Parallel()
	registry, open := startRegistry(t)
	publish(t, registry, "team/tool:1", "tool")
	name := open + "/team/tool:1"
	a, b := rigs(t, func(o *Options) { o.Policy.AllowedRegistries = []string{open} })
	if failed := a.pullImage(name); failed != "" {
		t.Fatal(failed)
	}
	id := a.imageID(name)
	if !b.sees(name) || !b.sees(id) {
		t.Error("not public")
	}
	a.docker("rmi", "-f", name)
	b.docker("rmi", "-f", id)
	if now := a.imageID(name); now != id || !a.sees(name) {
		t.Error("a job removed what is public")
	}
	// The very same image does not turn private because somebody sends credentials.
	if failed := b.pullImage(name, credentials("x", "y")...); failed != "" || !a.sees(name) || !b.sees(name) {
		t.Error(failed)
	}
	// Another one does.
	publish(t, registry, "team/tool:1", "newer")
	if failed := b.pullImage(name, credentials("x", "y")...); failed != "" || !b.sees(name) || a.sees(name) {
		t.Error("pulled with credentials, and public: ", failed)
	}
	if failed := a.pullImage(name); failed != "" || !a.sees(name) {
		t.Error(failed)
	}
}

// TestPullOfTheOperatorsName: an image that the operator made on the machine may bear a name that somebody else has at
// the registry.
func TestPullOfTheOperatorsName(t *testing.T) {
	t.Parallel()
	registry, open := startRegistry(t)
	publish(t, registry, "base:1", "stranger")
	name := open + "/base:1"
	a, b := rigs(t, func(o *Options) { o.Policy.AllowedRegistries = []string{open} })
	a.host("tag", alpine, name)
	before := a.imageID(name)
	if failed := a.pullImage(name); failed != "" {
		t.Fatal(failed)
	}
	if now := a.imageID(name); now != before {
		t.Error("the operator's image was replaced")
	}
	wants(t, a.docker("image", "inspect", "--format", "{{.Config.Labels.who}} {{.RepoTags}}", name), "stranger ["+name+"]")
	wants(t, b.docker("image", "inspect", "--format", "{{.Id}}", name), before)
}

// TestPullForAnotherPlatform: what cannot run on the machine does not get a name that others run.
func TestPullForAnotherPlatform(t *testing.T) {
	t.Parallel()
	registry, open := startRegistry(t)
	publish(t, registry, "base:2", "first")
	name := open + "/base:2"
	a, b := rigs(t, func(o *Options) { o.Policy.AllowedRegistries = []string{open} })
	status, text := a.do("POST", "/images/create?fromImage="+open+"/base&tag=2&platform=linux/arm64", nil)
	if status != http.StatusOK || strings.Contains(text, `"error"`) {
		t.Fatal(status, text)
	}
	if !a.sees(name) || b.sees(name) {
		t.Error("the name is not the scope's alone")
	}
	if out, err := run(engineHost(), "", "image", "inspect", name); err == nil {
		t.Error(out)
	}
	build := func() string {
		t.Helper()
		status, text := a.do("POST", "/build?pull=1&t=built", contextOf(t, "Dockerfile", "FROM "+name+"\n"))
		if status != http.StatusOK {
			t.Fatal(status, text)
		}
		return a.docker("image", "inspect", "--format", "{{.Config.Labels.who}}", "built")
	}
	wants(t, build(), "first")
	publish(t, registry, "base:2", "second")
	wants(t, build(), "second") // it was pulled, not written: there is a newer one
	if failed := b.pullImage(name); failed != "" || !b.sees(name) {
		t.Error(failed)
	}
}

func TestPush(t *testing.T) {
	t.Parallel()
	registry, _ := startRegistry(t)
	path := registry.Host + "/group/demo"
	a, b := rigs(t, withRegistry(registry.Host, path))
	b.policy.ImagePath = registry.Host + "/group/other"
	right := credentials(registry.User, registry.Password)
	push := func(r *rig, repo, tag string) string {
		t.Helper()
		status, body := r.do("POST", "/images/"+repo+"/push?tag="+tag, nil, right...)
		if status != http.StatusOK || strings.Contains(body, `"error"`) {
			t.Errorf("push %s: %d %s", repo, status, body)
		}
		wants(t, body, "The push refers to repository ["+repo+"]")
		lacks(t, body, "slipway.local")
		return body
	}
	t.Run("own path", func(t *testing.T) {
		id := a.commitImage(path+"/app:1", "own")
		if now := a.imageID(path + "/app:1"); now != id {
			t.Error("a name of the own path is not kept")
		}
		push(a, path+"/app", "1")
		if b.sees(path+"/app:1") || b.sees(id) || !a.sees(path+"/app:1") {
			t.Error("the project's image is not its own")
		}
		if failed := b.pullImage(path+"/app:1", right...); failed != "" || !b.sees(path+"/app:1") {
			t.Error("not pulled by who may: ", failed)
		}
		// A newer one that is not pushed is not for others.
		newer := a.commitImage(path+"/app:1", "newer")
		wants(t, a.docker("image", "inspect", "--format", "{{.Id}}", path+"/app:1"), newer)
		wants(t, b.docker("image", "inspect", "--format", "{{.Id}}", path+"/app:1"), id)
		a.docker("rmi", path+"/app:1")
		b.docker("rmi", path+"/app:1")
		if out, err := run(engineHost(), "", "image", "inspect", path+"/app:1"); err == nil {
			t.Error(out)
		}
	})
	t.Run("elsewhere", func(t *testing.T) {
		name := registry.Host + "/else/app:1"
		ids := []string{a.commitImage(name, "a"), b.commitImage(name, "b")}
		answers := make([]string, 2)
		var all sync.WaitGroup
		for i, r := range []*rig{a, b} {
			all.Go(func() {
				answers[i] = push(r, registry.Host+"/else/app", "1")
			})
		}
		all.Wait()
		if out, err := run(engineHost(), "", "image", "inspect", name); err == nil {
			t.Errorf("the name is still there: %s", out)
		}
		for i, r := range []*rig{a, b} {
			// What the registry has under the digest of the answer is what this job pushed.
			digest := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(answers[i][max(0, strings.LastIndex(answers[i], "digest: ")):])
			by := registry.Host + "/else/app@" + digest
			if failed := r.pullImage(by, right...); failed != "" {
				t.Fatal(failed)
			}
			wants(t, r.docker("image", "inspect", "--format", "{{.Id}}", by), ids[i])
		}
	})
	t.Run("what is not the job's", func(t *testing.T) {
		b.commitImage("theirs", "b")
		for _, name := range []string{"theirs", "nothing"} {
			_, body := a.do("POST", "/images/"+registry.Host+"/x/"+name+"/push?tag=latest", nil, right...)
			wants(t, body, "An image does not exist locally with the tag: "+registry.Host+"/x/"+name)
		}
	})
}

// TestKilledWhilePushing: a name that a killed process lent means to nobody what it was lent to, and the next guard
// gives it back.
func TestKilledWhilePushing(t *testing.T) {
	t.Parallel()
	a := newRig(t)
	lent := fmt.Sprintf("slipway.test/lent:%d", os.Getpid())
	a.host("tag", alpine, lent)
	t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", lent) })
	before := a.imageID(lent)
	evil := a.commitImage("app", "evil")
	cmd := exec.Command(os.Args[0], "-test.run=^TestLendAndDie$")
	cmd.Env = append(os.Environ(), "SLIPWAY_TEST_LEND="+strings.Join([]string{a.Guard.images.Dir(), lent, a.policy.Scope, evil}, " "))
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "7") {
		t.Fatalf("%v\n%s", err, out)
	}
	if now := a.imageID(lent); now != evil {
		t.Fatal("it was not lent")
	}
	wants(t, a.docker("image", "inspect", "--format", "{{.Id}}", lent), before)
	b := newRig(t, func(o *Options) { o.Images = a.Guard.images })
	if now := a.imageID(lent); now != before {
		t.Error("it was not given back")
	}
	wants(t, b.docker("image", "inspect", "--format", "{{.Id}}", lent), before)
}

// TestLendAndDie is no test, but the process that dies.
func TestLendAndDie(t *testing.T) {
	what := strings.Fields(os.Getenv("SLIPWAY_TEST_LEND"))
	if len(what) != 4 {
		t.Skip("for TestKilledWhilePushing")
	}
	l, err := ledger.Open(what[0])
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{calls: &lines{}}
	up, err := newUpstream(t.Context(), r.recorder())
	if err != nil {
		t.Fatal(err)
	}
	err = l.Lend(t.Context(), imageCalls{&Guard{engine: up, images: l}}, what[1], what[2], what[3], func(context.Context) error {
		os.Exit(7)
		return nil
	})
	t.Fatal(err)
}

func ledgerFile(r *rig) string { return r.Guard.images.Dir() + "/images.jsonl" }

func TestAllowHost(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	refused := []string{
		"localhost", "localhost:5000", "x.localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.0.0.1:5000", "127.9.9.9:80", "127.1", "2130706433:80",
		"0x7f000001", "0x7f.1", "0177.0.0.1:1", "0", "0.0.0.0", "[::1]:5000", "[::]:1", "[::ffff:127.0.0.1]:1", "[::ffff:169.254.169.254]", "169.254.169.254",
		"169.254.0.1:80", "[fe80::1]:1", "[fd00:ec2::254]", "[64:ff9b::7f00:1]:1", "[2002:7f00:1::]:1", "224.0.0.1", host, host + ":5000",
		"slipway.local", "slipway.local:80", "Slipway.Local.", "a.slipway.local",
	}
	allowed := []string{"docker.io", "registry.example.com", "registry.example.com:5000", "10.1.2.3:5000", "192.168.0.9", "[fd12::1]:5000", "no-such-host.invalid"}
	g := &Guard{log: slog.New(slog.DiscardHandler)}
	c := &call{Guard: g}
	for _, h := range refused {
		var d *Denial
		if err := c.allowHost(t.Context(), h); !errors.As(err, &d) || d.Rule != "registry-host" {
			t.Errorf("%s: %v", h, err)
		}
	}
	for _, h := range allowed {
		if err := c.allowHost(t.Context(), h); err != nil {
			t.Errorf("%s: %v", h, err)
		}
	}
	g.policy.Registry = "127.0.0.1:5000"
	if err := c.allowHost(t.Context(), "127.0.0.1:5000"); err != nil {
		t.Error(err)
	}
	for _, h := range []string{"127.0.0.1:5001", "127.0.0.1", "localhost:5000"} {
		if c.allowHost(t.Context(), h) == nil {
			t.Errorf("%s is allowed as 127.0.0.1:5000", h)
		}
	}
	g.policy.AllowedRegistries = []string{"docker.io", "*.example.com", "127.0.0.1:6000"}
	for h, want := range map[string]bool{
		"docker.io": true, "index.docker.io": true, "registry.example.com": true, "registry.example.com:5000": true, "example.com": false, "badexample.com": false,
		"127.0.0.1:6000": true, "127.0.0.1:6001": false, "127.0.0.1:5000": true, "quay.io": false, "docker.io.evil.test": false, "slipway.local": false,
	} {
		if got := c.allowHost(t.Context(), h) == nil; got != want {
			t.Errorf("%s: %v", h, got)
		}
	}
}

// TestRegistriesOfTheMachine: the Engine is not sent to where a job could not go, by any call that names a registry.
func TestRegistriesOfTheMachine(t *testing.T) {
	t.Parallel()
	registry, _ := startRegistry(t)
	publish(t, registry, "team/secret:1", "secret")
	a := newRig(t)
	a.commitImage(registry.Host+"/app:1", "a")
	before := registry.Requests()
	right := credentials(registry.User, registry.Password)
	for _, c := range [][2]string{
		{"POST", "/images/create?fromImage=" + registry.Host + "/team/secret&tag=1"},
		{"POST", "/images/" + registry.Host + "/app/push?tag=1"},
		{"GET", "/distribution/" + registry.Host + "/team/secret:1/json"},
		{"GET", "/images/search?term=" + registry.Host + "/team"},
	} {
		status, body := a.do(c[0], c[1], nil, right...)
		if status != http.StatusForbidden || !strings.Contains(body, "[registry-host]") {
			t.Errorf("%v: %d %s", c, status, body)
		}
	}
	if registry.Requests() != before {
		t.Error("the registry was asked")
	}
	b := newRig(t, withRegistry(registry.Host, ""))
	if status, body := b.do("GET", "/distribution/"+registry.Host+"/team/secret:1/json", nil, right...); status != http.StatusOK || !strings.Contains(body, "sha256:") {
		t.Errorf("the job's own registry: %d %s", status, body)
	}
}

func TestReadAuth(t *testing.T) {
	t.Parallel()
	encode := base64.URLEncoding.EncodeToString
	for text, private := range map[string]bool{
		"": false, encode([]byte("{}")): false, encode([]byte("null")): false, encode([]byte(" ")): false,
		encode([]byte(`{"serveraddress":"https://x"}`)):                                false,
		encode([]byte(`{"username":"u","password":"p"}`)):                              true,
		strings.TrimRight(encode([]byte(`{"username":"u","password":"","x":1}`)), "="): true,
		base64.StdEncoding.EncodeToString([]byte(`{"identitytoken":"??>>~~"}`)):        true,
		encode([]byte(`{"registrytoken":"t"}`)):                                        true,
	} {
		encoded, got, err := registryAuth(text)
		if err != nil || got != private {
			t.Errorf("%s: %v %v", text, got, err)
		}
		data, err := base64.URLEncoding.DecodeString(encoded)
		if err != nil || strings.Contains(string(data), "serveraddress") {
			t.Errorf("%s becomes %s: %v", text, data, err)
		}
	}
	for _, text := range []string{"%", "e30=e30=", encode([]byte(`{"username":"hunter2"`)), encode([]byte(`{"username":"hunter2","Username":"b"}`)), encode([]byte(`{"username":["hunter2"]}`))} {
		if _, _, err := registryAuth(text); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestLookWhileANameIsLent: not even in the moment in which a name is another job's does it mean that job's image.
func TestLookWhileANameIsLent(t *testing.T) {
	t.Parallel()
	registry, _ := startRegistry(t)
	a, b := rigs(t, withRegistry(registry.Host, ""))
	name := registry.Host + "/race/app:1"
	a.host("tag", alpine, name)
	t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", name) })
	theirs := a.imageID(name)
	secret := a.commitImage(name, "secret")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 10 {
			status, body := a.do("POST", "/images/"+registry.Host+"/race/app/push?tag=1", nil, credentials(registry.User, registry.Password)...)
			if status != http.StatusOK || strings.Contains(body, `"error"`) {
				t.Errorf("%d %s", status, body)
			}
		}
	}()
	looks := 0
	for running := true; running; looks++ {
		select {
		case <-done:
			running = false
		default:
		}
		if status, body := b.do("GET", "/images/"+name+"/json", nil); status != http.StatusOK || strings.Contains(body, secret) || !strings.Contains(body, theirs) {
			t.Fatalf("%d %s", status, body)
		}
		if b.sees(secret) {
			t.Fatal("seen by its ID")
		}
		if _, body := b.do("GET", "/images/json", nil); strings.Contains(body, secret) {
			t.Fatalf("listed: %s", body)
		}
	}
	if now := a.imageID(name); now != theirs || looks < 3 {
		t.Errorf("after %d looks, the name is %s", looks, now)
	}
}
