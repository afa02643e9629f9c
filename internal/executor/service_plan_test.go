package executor

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

func servicesOf(images ...string) (out []job.Service) {
	for _, image := range images {
		out = append(out, job.Service{Image: job.Image{Name: image}})
	}
	return out
}

// TestServicePlan: names, aliases, variables, labels and volumes of a job's services, and how the job finds them.
func TestServicePlan(t *testing.T) {
	t.Parallel()
	s, spec := article(), payload(t)
	s.Socket = socketGuarded
	s.Environment = []string{"OF_THE_RUNNER=1", "SECRET=of the runner"}
	s.ContainerLabels = map[string]string{"team": "ci"}
	s.Services.Always = []job.Service{{Image: job.Image{Name: "proxy:1"}, Alias: "proxy", Variables: job.Variables{{Key: "MODE", Value: "fast"}}}}
	s.Services.Container.Limits.Memory = 1 << 20
	spec.Variables = append(spec.Variables,
		job.Variable{Key: "VERSION", Value: "16", Public: true}, job.Variable{Key: "SECRET", Value: "hidden", Masked: true},
		job.Variable{Key: "CERT", Value: "x", Public: true, File: true})
	spec.Services = []job.Service{{
		Image: job.Image{Name: "registry.example.com:5000/group/postgres:$VERSION", Entrypoint: []string{"/run"}, ExecutorOpts: job.ExecutorOpts{Docker: job.DockerOpts{User: "70", Platform: "linux/arm64"}}},
		Alias: "db, pg  proxy", Command: []string{"-c", "fsync=off"},
		Variables: job.Variables{{Key: "PASSWORD", Value: "$SECRET"}, {Key: "RAW", Value: "$SECRET", Raw: true}, {Key: "HEALTHCHECK_TCP_PORT", Value: "5433"}},
	}}
	p := planOf(s, spec)
	if p.err != nil || len(p.services) != 2 {
		t.Fatal(p.err, len(p.services))
	}
	db := p.services[1]
	c := db.container
	env := c.Env
	for _, want := range []string{"PASSWORD=hidden", "RAW=$SECRET", "VERSION=16", "OF_THE_RUNNER=1", "CI_PROJECT_DIR=" + p.dir} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is not in %q", want, env)
		}
	}
	for _, e := range env {
		for _, lost := range []string{"SECRET=", "CERT=", "CI_JOB_TOKEN="} {
			if strings.HasPrefix(e, lost) {
				t.Errorf("a service gets %s", e)
			}
		}
	}
	if !slices.Contains(p.services[0].container.Env, "MODE=fast") {
		t.Errorf("%q", p.services[0].container.Env)
	}
	prefix := strings.TrimSuffix(p.container.Name, "-build")
	for key, want := range map[string]string{
		labelName: c.Name, gitlabPrefix + "type": "service", gitlabPrefix + "service": "registry.example.com:5000/group/postgres",
		gitlabPrefix + "service.version": "16", gitlabPrefix + "team": "ci", "team": "ci", labelState: s.StateDir,
	} {
		if c.Labels[key] != want {
			t.Errorf("label %s is %q, want %q", key, c.Labels[key], want)
		}
	}
	if s.DisableEntrypointOverwrite = true; planOf(s, spec).services[1].container.Entrypoint != nil {
		t.Error("the entrypoint of a service is overwritten")
	}
	want := docker.Container{
		Name: prefix + "-registry.example.com-5000__group__postgres-1", Platform: "linux/arm64", Entrypoint: []string{"/run"}, Cmd: []string{"-c", "fsync=off"},
		Env: env, User: "70", Labels: c.Labels, Network: p.network, Background: true,
		Aliases: []string{"db", "pg", "registry.example.com__group__postgres", "registry.example.com-group-postgres"},
		Limits:  docker.Limits{Memory: 1 << 20},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	if p.container.Network != p.network || p.network == "" || slices.Contains(p.container.Security.CapDrop, rawSockets) {
		t.Errorf("the job is on %q, with %v", p.container.Network, p.container.Security)
	}
	if len(p.warnings) != 1 || !strings.Contains(p.warnings[0], "does not get the alias proxy") {
		t.Errorf("%q", p.warnings)
	}
	for _, v := range db.volumes {
		if v.socket {
			t.Error("a service gets the job's socket")
		}
	}
	if got := db.probes([]string{"5432/tcp"}); !slices.Equal(got, []uint16{5433}) {
		t.Error(got)
	}
}

// TestAllowedServices: the runner's own services need no leave.
func TestAllowedServices(t *testing.T) {
	t.Parallel()
	s, spec := article(), payload(t)
	s.Services.Always, s.Services.AllowedImages = servicesOf("$OWN:1"), []string{"postgres:*"}
	spec.Variables = append(spec.Variables, job.Variable{Key: "OWN", Value: "proxy"})
	spec.Services = servicesOf("postgres:16")
	if p := planOf(s, spec); p.err != nil || len(p.services) != 2 {
		t.Errorf("%d services: %v", len(p.services), p.err)
	}
}

// TestServiceNetworks: on the operator's own networks, the job finds its services in other ways.
func TestServiceNetworks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode           string
		links, hosts   []string
		network, alias bool
	}{
		{mode: "", network: true, alias: true},
		{mode: "bridge", links: []string{":db", ":postgres"}},
		{mode: "ci", links: []string{":db", ":postgres"}},
		{mode: "host", hosts: []string{"db:127.0.0.1", "postgres:127.0.0.1"}},
		{mode: "none"},
	} {
		s, spec := article(), payload(t)
		s.Container.Network = c.mode
		spec.Services = servicesOf("postgres:16")
		spec.Services[0].Alias = "db"
		p := planOf(s, spec)
		if p.err != nil {
			t.Fatal(p.err)
		}
		sp := p.services[0].container
		var links []string
		for _, l := range p.container.Extras.Links {
			links = append(links, strings.TrimPrefix(l, sp.Name))
		}
		if !slices.Equal(links, c.links) || !slices.Equal(p.container.Extras.ExtraHosts, c.hosts) || (p.network != "") != c.network || (sp.Aliases != nil) != c.alias {
			t.Errorf("%q: links %q, hosts %q, network %q, aliases %q", c.mode, links, p.container.Extras.ExtraHosts, p.network, sp.Aliases)
		}
		if sp.Network != p.container.Network {
			t.Errorf("%q: the service is on %q, the job on %q", c.mode, sp.Network, p.container.Network)
		}
	}
}

// TestPrivilegedServices: privileges are the operator's to give, and nobody's beside a guarded socket.
func TestPrivilegedServices(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Settings)
		want   bool
	}{
		{"given", func(*Settings) {}, true},
		{"to others", func(s *Settings) { s.Services.AllowedPrivilegedImages = []string{"docker:*"} }, false},
		{"to this one", func(s *Settings) { s.Services.AllowedPrivilegedImages = []string{"postgres:*"} }, true},
		{"beside a guarded socket", func(s *Settings) { s.Socket = socketGuarded }, false},
		{"trusted", func(s *Settings) { s.Socket, s.Guard.TrustConfig = socketGuarded, true }, true},
	} {
		s, spec := article(), payload(t)
		s.Services.Container.Security = docker.Security{Privileged: true, SecurityOpt: []string{"seccomp=unconfined"}}
		c.change(&s)
		spec.Services = servicesOf("postgres:16")
		p := planOf(s, spec)
		if p.err != nil {
			t.Fatal(p.err)
		}
		if got := p.services[0].container.Security; got.Privileged != c.want {
			t.Errorf("%s: %+v", c.name, got)
		}
		if c.name == "beside a guarded socket" && (len(p.services[0].container.Security.SecurityOpt) > 0 || !slices.Contains(p.withheld, "services_security_opt")) {
			t.Errorf("%s: withheld %q", c.name, p.withheld)
		}
	}
}

// TestServiceDevices: devices are for the images that they were meant for, and for none beside a guarded socket.
func TestServiceDevices(t *testing.T) {
	t.Parallel()
	s, spec := article(), payload(t)
	s.Services.Devices = map[string][]string{"emulator:*": {"/dev/kvm", "/dev/dri"}, "registry.example.com/**": {"/dev/fuse"}, "*:latest": {"/dev/null"}, "db": {"/dev/zero"}, "[": {"/dev/mem"}}
	for image, want := range map[string][]string{
		"emulator": {"/dev/null", "/dev/kvm", "/dev/dri"}, "emulator:9": {"/dev/kvm", "/dev/dri"}, "registry.example.com/a/emulator:9": {"/dev/fuse"},
		"db": {"/dev/null", "/dev/zero"}, "db:1": nil, "other/emulator:9": nil,
		"emulator@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef": nil,
	} {
		if got := s.serviceDevices(image); !slices.Equal(got, want) {
			t.Errorf("%s: %q, not %q", image, got, want)
		}
	}
	for socket, given := range map[string]bool{socketRaw: true, socketGuarded: false} {
		s.Socket, spec.Services = socket, servicesOf("emulator:9")
		p := planOf(s, spec)
		if p.err != nil {
			t.Fatal(p.err)
		}
		if got := p.services[0].container.Security.Devices; len(got) > 0 != given || slices.Contains(p.withheld, "services_devices") == given {
			t.Errorf("%s: %q, withheld %q", socket, got, p.withheld)
		}
	}
}

// TestProbes reads the ports that images expose.
func TestProbes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		exposed []string
		want    []uint16
	}{
		{nil, nil},
		{[]string{"6379/tcp", "53/udp", "80"}, []uint16{80, 6379}},
		{[]string{"8002-8004/tcp", "x/tcp", "9-z/tcp", "70000/tcp"}, []uint16{8002, 8003, 8004}},
		{[]string{"1-65535/tcp"}, []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}},
	} {
		if got := (servicePlan{}).probes(c.exposed); !slices.Equal(got, c.want) {
			t.Errorf("%q: %v", c.exposed, got)
		}
	}
}
