package guard

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// sibling makes and starts a container of the job's on one of its networks, "" for the default one, with ports as
// "8080:80/tcp".
func (r *rig) sibling(name, network string, ports ...string) string {
	r.t.Helper()
	id := r.siblingMade(name, network, ports...)
	r.must(http.StatusNoContent, "POST", "/containers/"+id+"/start", nil, nil)
	return id
}

func (r *rig) siblingMade(name, network string, ports ...string) string {
	r.t.Helper()
	bindings := map[string][]jsonBody{}
	for _, p := range ports {
		host, port, _ := strings.Cut(p, ":")
		bindings[port] = append(bindings[port], jsonBody{"HostPort": host})
	}
	var made struct{ Id string }
	r.must(http.StatusCreated, "POST", "/containers/create?name="+name, jsonBody{
		"Image": alpine, "Cmd": []string{"sleep", "600"}, "StopSignal": "KILL",
		"HostConfig": jsonBody{"NetworkMode": network, "PortBindings": bindings},
	}, &made)
	return made.Id
}

// must sends a request that is to be answered with that status, and decodes the answer into v, if that is not nil.
func (r *rig) must(status int, method, target string, body, v any) {
	r.t.Helper()
	got, text := r.do(method, target, body)
	if got != status {
		r.t.Fatalf("%s %s: %d %s", method, target, got, text)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(text), v); err != nil {
			r.t.Fatal(err)
		}
	}
}

type jsonBody map[string]any

func (r *rig) makeNetwork(name string) string {
	r.t.Helper()
	var made struct{ Id string }
	r.must(http.StatusCreated, "POST", "/networks/create", jsonBody{"Name": name, "CheckDuplicate": true}, &made)
	return made.Id
}

func TestNetworkRules(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	before := r.calls.String()
	for name, a := range map[string]struct {
		rule string
		body jsonBody
	}{
		"macvlan":     {"network-driver", jsonBody{"Driver": "macvlan", "Options": jsonBody{"parent": "eth0"}}},
		"host":        {"network-driver", jsonBody{"Driver": "host"}},
		"case":        {"network-driver", jsonBody{"driver": "macvlan"}},
		"overlay":     {"network-driver", jsonBody{"Driver": "overlay", "Attachable": true}},
		"subnet":      {"network-ipam", jsonBody{"IPAM": jsonBody{"Config": []jsonBody{{"Subnet": "169.254.169.0/24"}}}}},
		"ipam driver": {"network-ipam", jsonBody{"IPAM": jsonBody{"Driver": "null"}}},
		"ipam opts":   {"network-ipam", jsonBody{"IPAM": jsonBody{"Options": jsonBody{"a": "b"}}}},
		"bridge name": {"network-options", jsonBody{"Options": jsonBody{"com.docker.network.bridge.name": "docker0"}}},
		"host ip":     {"network-options", jsonBody{"Options": jsonBody{"com.docker.network.bridge.host_binding_ipv4": "0.0.0.0"}}},
		"bad mtu":     {"network-options", jsonBody{"Options": jsonBody{"com.docker.network.driver.mtu": "1500,x"}}},
		"scope":       {"network-options", jsonBody{"Scope": "swarm"}},
		"ingress":     {"network-options", jsonBody{"Ingress": true}},
		"config only": {"network-options", jsonBody{"ConfigOnly": true}},
		"config from": {"network-options", jsonBody{"ConfigFrom": jsonBody{"Network": "other"}}},
		"v6":          {"network-options", jsonBody{"EnableIPv6": true}},
		"no v4":       {"network-options", jsonBody{"EnableIPv4": false}},
	} {
		a.body["Name"] = "attack"
		status, text := r.do("POST", "/networks/create", a.body)
		if status != http.StatusForbidden || !strings.Contains(text, "["+a.rule+"]") {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	for _, name := range []string{"host", "bridge", "none", "default", "", "a b", "container:x", "-x", "../x", strings.Repeat("x", 129)} {
		if status, text := r.do("POST", "/networks/create", jsonBody{"Name": name}); status != http.StatusForbidden && status != http.StatusBadRequest {
			t.Errorf("name %q: %d %s", name, status, text)
		}
	}
	if r.calls.String() != before {
		t.Errorf("refused calls reached the Engine:\n%s", r.calls)
	}
	if out := r.host("network", "ls", "--quiet", "--filter", "name="+r.policy.prefix()); out != "" {
		t.Errorf("made: %s", out)
	}
}

func TestNetworkLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Limits.Networks = 2 })
	r.makeNetwork("a")
	r.makeNetwork("b")
	status, text := r.do("POST", "/networks/create", jsonBody{"Name": "c"})
	if status != http.StatusForbidden {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "[limit-networks]")
	r.must(http.StatusNoContent, "DELETE", "/networks/a", nil, nil)
	r.makeNetwork("c")
}

func TestNetworkLife(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := r.job()
	var made struct{ Id string }
	r.must(http.StatusCreated, "POST", "/networks/create", jsonBody{
		"Name": "front", "Driver": "bridge", "Internal": true, "Attachable": true, "Scope": "local", "EnableIPv6": false,
		"IPAM": jsonBody{"Driver": "default", "Config": []any{}}, "Options": jsonBody{"com.docker.network.driver.mtu": "1400"},
		"Labels": jsonBody{"mine": "1", "slipway.guard": "other", "SLIPWAY.x": "1"},
	}, &made)
	status, text := r.do("POST", "/networks/create", jsonBody{"Name": "front"})
	if status != http.StatusConflict || !strings.Contains(text, "network with name front already exists") {
		t.Errorf("%d %s", status, text)
	}

	raw := r.host("network", "inspect", "--format", "{{.Name}} {{.Internal}} {{.Options}} {{.Labels}} {{.Attachable}} {{range .Containers}}{{.Name}}{{end}}", made.Id)
	wants(t, raw, r.policy.prefix()+"front true map[com.docker.network.driver.mtu:1400]", "mine:1", "slipway.guard:"+r.policy.Token, "slipway.test.guard:true", " false ")
	lacks(t, raw, "other", "SLIPWAY")

	status, text = r.do("GET", "/networks/front", nil)
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	wants(t, text, `"Name":"front"`, `"Labels":{"mine":"1"}`)
	lacks(t, text, r.policy.Token+"-", "slipway.", job) // it did not ask to be there

	status, text = r.do("DELETE", "/networks/bridge", nil)
	if status != http.StatusForbidden {
		t.Errorf("%d %s", status, text)
	}
	db := r.sibling("db", made.Id)
	status, text = r.do("DELETE", "/networks/front", nil)
	if status != http.StatusForbidden || !strings.Contains(text, "has active endpoints") {
		t.Errorf("%d %s", status, text)
	}
	lacks(t, text, r.policy.Token)
	wants(t, r.host("network", "inspect", made.Id), job)

	r.must(http.StatusOK, "POST", "/networks/front/disconnect", jsonBody{"Container": "db"}, nil)
	lacks(t, r.host("network", "inspect", made.Id), db)
	r.must(http.StatusOK, "POST", "/networks/"+made.Id[:8]+"/connect", jsonBody{"Container": db[:12], "EndpointConfig": jsonBody{
		"Aliases": []string{"store"}, "IPAMConfig": jsonBody{"IPv4Address": "10.1.2.3"}, "MacAddress": "02:42:ac:11:00:02", "DriverOpts": jsonBody{"x": "y"},
	}}, nil)
	raw = r.host("inspect", "--format", "{{json .NetworkSettings.Networks}}", db)
	wants(t, raw, `"store"`, `"db"`)
	lacks(t, raw, "10.1.2.3", "02:42:ac:11:00:02", `"x"`)

	r.must(http.StatusOK, "POST", "/networks/front/disconnect", jsonBody{"Container": "db", "Force": true}, nil)

	// A job that does not know that it is there already asks to be, under a name of its own.
	r.must(http.StatusOK, "POST", "/networks/front/connect", jsonBody{"Container": job[:12], "EndpointConfig": jsonBody{"Aliases": []string{"ci"}}}, nil)
	wants(t, r.host("inspect", "--format", "{{json .NetworkSettings.Networks}}", job), `"ci"`)
	_, text = r.do("GET", "/networks/front", nil)
	wants(t, text, job)
	r.must(http.StatusForbidden, "POST", "/networks/front/connect", jsonBody{"Container": job[:12]}, nil)
	r.must(http.StatusOK, "POST", "/networks/front/disconnect", jsonBody{"Container": job[:12]}, nil)
	r.must(http.StatusOK, "POST", "/networks/front/connect", jsonBody{"Container": job[:12]}, nil)
	r.must(http.StatusNoContent, "DELETE", "/networks/front", nil, nil)
	if out := r.host("network", "ls", "--quiet", "--no-trunc"); strings.Contains(out, made.Id) {
		t.Error("the network is there")
	}
	r.must(http.StatusNotFound, "GET", "/networks/front", nil, nil)
}

// In audit mode, what would be refused is done and noted.
func TestNetworkAudit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Audit = true })
	r.must(http.StatusCreated, "POST", "/networks/create", jsonBody{
		"Name": "free", "Options": jsonBody{"com.docker.network.bridge.enable_icc": "false"}, "Internal": true,
	}, nil)
	wants(t, r.host("network", "inspect", r.policy.prefix()+"free"), `"com.docker.network.bridge.enable_icc": "false"`)
	wants(t, r.audit.String(), "would be denied", "network-options")
	r.must(http.StatusCreated, "POST", "/volumes/create", jsonBody{"Name": "free", "DriverOpts": jsonBody{"type": "tmpfs", "device": "tmpfs"}}, nil)
	wants(t, r.host("volume", "inspect", r.policy.prefix()+"free"), `"type": "tmpfs"`)
	wants(t, r.audit.String(), "volume-opts")
}

// The docker client itself: networks, volumes and ports as people use them.
func TestNetworkClient(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	job := r.job()
	r.docker("network", "create", "app")
	wants(t, r.docker("network", "ls", "--format", "{{.Name}}"), "app\n", "bridge\n")
	r.docker("volume", "create", "data")
	r.docker("run", "--detach", "--name", "web", "--network", "app", "--network-alias", "www", "--publish", "8080:80", "--volume", "data:/data", "--stop-signal", "KILL",
		alpine, "sh", "-c", "echo hello >/data/file; exec nc -ll -p 80 -e cat /data/file")
	wants(t, r.docker("port", "web"), "80/tcp -> 0.0.0.0:8080")
	wants(t, r.docker("ps"), "0.0.0.0:8080->80/tcp")
	eventually(t, "the server answers", func() bool {
		out, err := r.inJob(job, "nc 127.0.0.1 8080 </dev/null")
		return err == nil && out == "hello\n"
	})
	if out, err := r.inJob(job, "nslookup www 127.0.0.11 && nslookup web 127.0.0.11"); err != nil {
		t.Errorf("%v %s", err, out)
	}
	wants(t, r.docker("network", "inspect", "--format", "{{range .Containers}}{{.Name}} {{end}}", "app"), "web ")
	wants(t, r.docker("network", "inspect", "bridge"), `"Name": "bridge"`)
	r.docker("network", "disconnect", "app", "web")
	r.docker("network", "connect", "--alias", "again", "app", "web")
	wants(t, r.docker("run", "--rm", "--network", "app", "--volume", "data:/data:ro", alpine, "sh", "-c", "nslookup again 127.0.0.11 >/dev/null && cat /data/file"), "hello")
	if out, err := r.try("volume", "rm", "data"); err == nil {
		t.Errorf("removed though in use: %s", out)
	}
	r.docker("rm", "--force", "web")
	wants(t, r.docker("volume", "ls"), "data")
	wants(t, r.docker("network", "prune", "--force"), "app")
	r.docker("volume", "rm", "data")
	if out, err := r.inJob(job, "nc 127.0.0.1 8080 </dev/null"); err == nil {
		t.Errorf("the port is still open: %s", out)
	}
}

// What is not the job's does not exist, whatever it is called.
func TestNetworkOfOthers(t *testing.T) {
	t.Parallel()
	victim, r := newRig(t), newRig(t)
	theirs := victim.makeNetwork("net")
	theirContainer := victim.sibling("db", theirs)
	mine := r.makeNetwork("mine")
	own := r.sibling("own", mine)
	before := strings.Count(r.calls.String(), "\n")
	for _, ref := range []string{theirs, theirs[:12], theirs[:4], victim.policy.prefix() + "net", "net", "host", "none", "docker0"} {
		for _, a := range []struct {
			method, target string
			body           any
		}{
			{"GET", "/networks/" + ref, nil},
			{"DELETE", "/networks/" + ref, nil},
			{"POST", "/networks/" + ref + "/connect", jsonBody{"Container": own}},
			{"POST", "/networks/" + ref + "/disconnect", jsonBody{"Container": theirContainer, "Force": true}},
		} {
			status, text := r.do(a.method, a.target, a.body)
			if status != http.StatusNotFound || text != `{"message":"network `+ref+" not found\"}\n" {
				t.Errorf("%s %s: %d %s", a.method, a.target, status, text)
			}
		}
	}
	for _, what := range []string{"connect", "disconnect"} {
		for _, ref := range []string{theirContainer, theirContainer[:12], victim.policy.prefix() + "db", "db"} {
			status, text := r.do("POST", "/networks/mine/"+what, jsonBody{"Container": ref, "Force": true})
			if status != http.StatusNotFound || text != `{"message":"No such container: `+ref+"\"}\n" {
				t.Errorf("%s %s: %d %s", what, ref, status, text)
			}
		}
	}
	// A link to another job's container.
	status, text := r.do("POST", "/networks/mine/connect", jsonBody{"Container": own, "EndpointConfig": jsonBody{"Links": []string{theirContainer + ":x"}}})
	if status != http.StatusBadRequest || text != `{"message":"No such container: `+theirContainer+"\"}\n" {
		t.Errorf("link: %d %s", status, text)
	}
	if n := strings.Count(r.calls.String(), "\n"); n != before {
		t.Errorf("refused calls reached the Engine:\n%s", r.calls)
	}
	for _, id := range []string{theirs, mine} {
		raw := r.host("network", "inspect", id)
		if strings.Contains(raw, theirContainer) != (id == theirs) || strings.Contains(raw, own) != (id == mine) {
			t.Errorf("moved: %s", raw)
		}
	}
	// The lists and prunes of one job have nothing of the other.
	_, text = r.do("GET", "/networks", nil)
	lacks(t, text, theirs, theirContainer, victim.policy.Token)
	r.must(http.StatusOK, "POST", "/networks/prune", nil, nil)
	wants(t, r.host("network", "ls", "--quiet", "--no-trunc"), theirs, mine)
}

func TestNetworkList(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.job()
	front, back := r.makeNetwork("front"), ""
	var made struct{ Id string }
	r.must(http.StatusCreated, "POST", "/networks/create", jsonBody{"Name": "back", "Labels": jsonBody{"tier": "2"}}, &made)
	back = made.Id
	r.sibling("db", back)
	for filters, want := range map[string][]string{
		``:                             {"back", "bridge", "front"},
		`{"name":["front"]}`:           {"front"},
		`{"name":{"^front$":true}}`:    {"front"},
		`{"name":["fro","back"]}`:      {"back", "front"},
		`{"name":["slipwayjob"]}`:      nil,
		`{"id":["` + front + `"]}`:     {"front"},
		`{"id":["` + back[:12] + `"]}`: {"back"},
		`{"label":["tier"]}`:           {"back"},
		`{"label":["tier=1"]}`:         nil,
		`{"label":["slipway.guard"]}`:  nil,
		`{"driver":["bridge"]}`:        {"back", "bridge", "front"},
		`{"driver":["host"]}`:          nil,
		`{"scope":["local"]}`:          {"back", "bridge", "front"},
		`{"type":["custom"]}`:          {"back", "front"},
		`{"type":["builtin"]}`:         {"bridge"},
		`{"dangling":["true"]}`:        {"front"},
		`{"dangling":["0"]}`:           {"back", "bridge"},
		`{"name":["front"],"type":["custom"],"label":["tier"]}`: nil,
	} {
		var list []struct{ Name string }
		r.must(http.StatusOK, "GET", "/networks?filters="+escape(filters), nil, &list)
		var names []string
		for _, n := range list {
			names = append(names, n.Name)
		}
		slices.Sort(names)
		if !slices.Equal(names, want) {
			t.Errorf("%s: %q", filters, names)
		}
	}
	for _, filters := range []string{`{"zz":["a"]}`, `{"dangling":["maybe"]}`, `{"type":["x"]}`, `{"name":`, `[]`} {
		r.must(http.StatusBadRequest, "GET", "/networks?filters="+escape(filters), nil, nil)
	}
	var pruned struct{ NetworksDeleted []string }
	r.must(http.StatusOK, "POST", "/networks/prune?filters="+escape(`{"until":["1h"]}`), nil, &pruned)
	if len(pruned.NetworksDeleted) > 0 {
		t.Errorf("younger than asked for: %q", pruned.NetworksDeleted)
	}
	r.must(http.StatusOK, "POST", "/networks/prune", nil, &pruned)
	if !slices.Equal(pruned.NetworksDeleted, []string{"front"}) {
		t.Errorf("pruned: %q", pruned.NetworksDeleted)
	}
	lacks(t, r.host("network", "ls", "--quiet", "--no-trunc"), front)
}

func escape(s string) string { return url.QueryEscape(s) }

// TestNetworkMTU: networks of the job have the MTU that the operator wants, unless the job wants another.
func TestNetworkMTU(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.NetworkMTU = 1300 })
	r.docker("network", "create", "usual")
	r.docker("network", "create", "--opt", networkMTU+"=1200", "small")
	for name, want := range map[string]string{"usual": "1300", "small": "1200"} {
		if got := strings.TrimSpace(r.host("network", "inspect", "--format", `{{index .Options "`+networkMTU+`"}}`, r.policy.prefix()+name)); got != want {
			t.Errorf("%s has %q", name, got)
		}
	}
}

// TestJobNetwork: the network that a job has with its services is open to its containers, and not its to remove.
func TestJobNetwork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	name := "slipway-test-" + r.policy.Token
	id := strings.TrimSpace(r.host("network", "create", name))
	t.Cleanup(func() { r.host("network", "rm", id) })
	if _, err := r.try("run", "--rm", "--network", name, alpine, "true"); err == nil {
		t.Error("a network of others is open")
	}
	r.JobNetwork(id, name)
	r.docker("run", "--detach", "--name", "mine", "--network", name, alpine, "sleep", "600")
	if on := r.host("network", "inspect", "--format", "{{range .Containers}}{{.Name}} {{end}}", id); !strings.Contains(on, "mine") {
		t.Errorf("on the network: %q", on)
	}
	r.docker("rm", "--force", "mine")
	for _, args := range [][]string{{"network", "rm", name}, {"network", "rm", id}, {"network", "create", name}} {
		if out, err := r.try(args...); err == nil {
			t.Errorf("docker %v: %s", args, out)
		}
	}
	r.docker("network", "prune", "--force")
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := strings.TrimSpace(r.host("network", "inspect", "--format", "{{.Id}}", name)); got != id {
		t.Errorf("after the end of the guard: %q", got)
	}
}
