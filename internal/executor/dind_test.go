package executor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// dindRunner is a runner as GitLab's documentation has it for Docker-in-Docker.
func dindRunner() Settings {
	s := article()
	s.Socket, s.Dind = socketGuarded, dindWarm
	s.Volumes = []string{"/certs/client", "/cache"}
	s.Container.Security.Privileged, s.Services.Container.Security.Privileged = true, true
	s.DindImages = []string{"registry.gitlab.com/group/ci/*:dind"}
	return s
}

// dindFields is what a plan says of a Docker-in-Docker.
type dindFields struct {
	Names, Certs []string
	Host, Verify string
	Warned       []string // words of warnings
	Started      []string // as ordinary services
	Error        string
	Socket       bool
}

func dindOf(p *plan) dindFields {
	f := dindFields{Host: p.vars.Get(varHost), Verify: p.vars.Get(varTLSVerify), Socket: hasSocket(p.volumes)}
	if p.dind != nil {
		f.Names, f.Certs = p.dind.names, p.dind.certs
	}
	for _, sp := range p.services {
		f.Started = append(f.Started, sp.image.name)
	}
	if p.err != nil {
		f.Error = p.err.Error()
	}
	for _, w := range p.warnings {
		word, _, _ := strings.Cut(w, " ")
		f.Warned = append(f.Warned, word)
	}
	return f
}

// TestDindForms reads the payloads of GitLab's coordinator for pipelines with a Docker-in-Docker in all its forms.
func TestDindForms(t *testing.T) {
	t.Parallel()
	docker, socket := []string{"docker"}, "unix:///var/run/docker.sock"
	certs := []string{"/certs/client"}
	want := map[string]dindFields{
		"form-alias-localhost":      {Names: []string{"localhost", "docker"}, Host: "tcp://localhost:2375"},
		"form-alias-many":           {Names: []string{"dockerd", "dind", "docker"}, Host: "tcp://docker:2375"},
		"form-alias-other":          {Names: []string{"dind", "docker"}, Host: "tcp://dind:2375"},
		"form-command-dockerd":      {Names: docker, Host: "tcp://docker:2375"},
		"form-command-many":         {Names: docker, Host: "tcp://docker:2375", Warned: []string{"--insecure-registry", "--dns"}},
		"form-command-mirror-split": {Names: docker, Host: socket, Certs: certs},
		"form-custom-image":         {Names: []string{"docker", "registry.gitlab.com__group__ci__docker", "registry.gitlab.com-group-ci-docker"}, Host: "tcp://docker:2376", Verify: "1", Certs: certs},
		"form-digest":               {Names: docker, Host: "tcp://docker:2375"},
		"form-entrypoint":           {Names: docker, Host: "tcp://docker:2375"},
		"form-entrypoint-sh":        {Names: docker, Host: "tcp://docker:2375"},
		"form-name-variable":        {Names: docker, Host: "tcp://docker:2375"},
		"form-registry-alias":       {Names: []string{"docker", "registry.example.com__library__docker", "registry.example.com-library-docker"}, Host: "tcp://docker:2375"},
		"form-registry-noalias":     {Names: []string{"registry.example.com__library__docker", "registry.example.com-library-docker"}, Host: "tcp://registry.example.com-library-docker:2375"},
		"form-rootless":             {Names: docker, Host: "tcp://docker:2375"},
		"form-service-variables":    {Names: docker, Host: "tcp://docker:2375", Certs: certs},
		"form-string-bare":          {Names: docker, Host: socket, Certs: certs},
		"form-string-notls":         {Names: docker, Host: "tcp://docker:2375"},
		"form-tls-certdir-only":     {Names: docker, Host: socket, Certs: certs},
		"form-tls-full":             {Names: docker, Host: "tcp://docker:2376", Verify: "1", Certs: certs},
		"form-tls-verify-off":       {Names: docker, Host: "tcp://docker:2375"},
		"form-two-services":         {Names: docker, Host: "tcp://docker:2375", Started: []string{"postgres:16"}},
		"form-not-dind":             {Started: []string{"docker:27-cli"}},
		"v1":                        {Names: docker, Host: "tcp://docker:2375", Warned: []string{"--insecure-registry"}},
		"v1t":                       {Names: docker, Host: "tcp://docker:2376", Verify: "1", Certs: certs, Warned: []string{"--insecure-registry"}},
		"v2c":                       {Names: docker, Host: "tcp://docker:2375", Warned: []string{"--insecure-registry"}},
		"v3":                        {},
	}
	files, err := filepath.Glob("testdata/dind/payload-*.json")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d payloads, want %d (%v)", len(files), len(want), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "payload-"), ".json")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var spec job.Spec
		if err := json.Unmarshal(b, &spec); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p := planOf(dindRunner(), &spec)
		w, ok := want[name]
		if !ok {
			t.Errorf("%s is not in the table", name)
		}
		w.Socket = w.Names != nil
		if diff := cmp.Diff(w, dindOf(p)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		if w.Names != nil && p.container.Security.Privileged {
			t.Errorf("%s: the job is privileged", name)
		}
		for _, n := range w.Names {
			if n != "localhost" && !slices.Contains(p.container.Extras.ExtraHosts, n+":127.0.0.1") {
				t.Errorf("%s: %s is not in the hosts file: %q", name, n, p.container.Extras.ExtraHosts)
			}
		}
	}
}

// TestIsDind tells Docker-in-Dockers from other images.
func TestIsDind(t *testing.T) {
	t.Parallel()
	s := Settings{DindImages: []string{"registry.example.com/ci/docker-dind:*"}}
	for image, want := range map[string]bool{
		"docker:dind": true, "docker:27-dind": true, "docker:26.1.0-dind-alpine3.19": true, "docker:24-dind-rootless": true, "docker:dind-rootless": true,
		"docker.io/library/docker:dind": true, "registry.hub.docker.com/library/docker:dind": true, "mirror.gcr.io/library/docker:27-dind": true,
		"mirror.corp:5000/docker:dind": true, "public.ecr.aws/docker/library/docker:dind": true,
		"gitlab.example.com:443/group/dependency_proxy/containers/docker:27-dind": true,
		"registry.example.com/ci/docker-dind:v1":                                  true,
		"docker":                                                                  false, "docker:27": false, "docker:27-cli": false, "docker:git": false, "docker:28-dindx": false, "postgres:dind": false,
		"registry.gitlab.com/group/ci/docker:dind": false, "group/docker:dind": false, "registry.example.com/ci/docker-dind/x:v1": false, "": false, "Docker:dind": false,
		"docker:27-dind@sha256:" + strings.Repeat("5a", 32): true,
	} {
		if got := s.isDind(image); got != want {
			t.Errorf("%s: %v", image, got)
		}
	}
}

// TestDindElsewhere are runners on which a Docker-in-Docker cannot be what it is elsewhere.
func TestDindElsewhere(t *testing.T) {
	t.Parallel()
	spec := func(pairs ...string) *job.Spec {
		s := payload(t)
		s.Services = []job.Service{{Image: job.Image{Name: "docker:dind"}}}
		for i := 0; i < len(pairs); i += 2 {
			s.Variables = append(s.Variables, job.Variable{Key: pairs[i], Value: pairs[i+1]})
		}
		return s
	}
	for _, c := range []struct {
		name   string
		change func(*Settings)
		pairs  []string
		want   dindFields
	}{
		{"started as it is written", func(s *Settings) { s.Dind = dindStart }, nil, dindFields{Started: []string{"docker:dind"}}},
		{"no socket for jobs", func(s *Settings) { s.Socket = socketOff }, nil, dindFields{Started: []string{"docker:dind"}}},
		{"raw without a socket", func(s *Settings) { s.Socket = socketRaw }, nil, dindFields{Started: []string{"docker:dind"}}},
		{
			"started beside a guarded socket", func(s *Settings) {
				s.Dind, s.Volumes = dindStart, []string{"/nowhere/docker.sock:/var/run/docker.sock"}
			},
			nil,
			dindFields{Socket: true, Started: []string{"docker:dind"}, Warned: []string{"service", "privileged"}},
		},
		{
			"of the runner's too", func(s *Settings) {
				s.Services.Always = []job.Service{{Image: job.Image{Name: "docker:24-dind"}, Alias: "builder"}}
			},
			nil,
			dindFields{Names: []string{"builder", "docker"}, Host: "unix:///var/run/docker.sock", Certs: []string{"/certs/client"}, Socket: true},
		},
		{
			"raw with one", func(s *Settings) {
				s.Socket, s.Volumes = socketRaw, []string{"/nowhere/docker.sock:/var/run/docker.sock"}
			},
			[]string{varHost, "tcp://docker:2375"},
			dindFields{Names: []string{"docker"}, Host: "unix:///var/run/docker.sock", Socket: true, Warned: []string{"docker", "DOCKER_HOST", "the"}},
		},
		{"an ordinary user", func(s *Settings) { s.Guard.NoPorts = true }, []string{varHost, "tcp://docker:2376", varTLSVerify, "1"}, dindFields{
			Names: []string{"docker"}, Host: "unix:///var/run/docker.sock", Socket: true, Warned: []string{"docker", "DOCKER_HOST"},
		}},
		{"the machine's network", func(s *Settings) { s.Guard.TrustConfig, s.Container.Network = true, "host" }, nil, dindFields{
			Names: []string{"docker"}, Host: "unix:///var/run/docker.sock", Socket: true, Warned: []string{"docker", "trust_config"},
		}},
		{"the machine's network, withheld", func(s *Settings) { s.Container.Network = "host" }, nil, dindFields{
			Names: []string{"docker"}, Host: "unix:///var/run/docker.sock", Socket: true, Certs: []string{"/certs/client"}, Warned: []string{"network_mode"},
		}},
		{"a daemon elsewhere", func(*Settings) {}, []string{varHost, "tcp://build.example.com:2376"}, dindFields{
			Names: []string{"docker"}, Host: "tcp://build.example.com:2376", Socket: true, Certs: []string{"/certs/client"},
		}},
		{"certificates over the project", func(*Settings) {}, []string{varCertDir, "/builds/group", varCertPath, "relative"}, dindFields{
			Names: []string{"docker"}, Host: "unix:///var/run/docker.sock", Socket: true, Certs: []string{"/builds/group/client"}, Warned: []string{"DOCKER_CERT_PATH:"},
		}},
		{"certificates over the system", func(*Settings) {}, []string{varCertDir, "/etc", varCertPath, "/"}, dindFields{
			Names: []string{"docker"}, Host: "unix:///var/run/docker.sock", Socket: true, Warned: []string{"DOCKER_TLS_CERTDIR:", "DOCKER_CERT_PATH:"},
		}},
		{"certificates in the project", func(*Settings) {}, []string{varCertDir, "$CI_PROJECT_DIR"}, dindFields{
			Names: []string{"docker"}, Host: "unix:///var/run/docker.sock", Socket: true, Warned: []string{"DOCKER_TLS_CERTDIR:"},
		}},
	} {
		s := dindRunner()
		c.change(&s)
		if diff := cmp.Diff(c.want, dindOf(planOf(s, spec(c.pairs...)))); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

// TestDaemonFlags reads what the command of a Docker-in-Docker says, and what of it is told.
func TestDaemonFlags(t *testing.T) {
	t.Parallel()
	s := Settings{Guard: GuardSettings{Machine: docker.Machine{InsecureRegistries: []string{"127.0.0.0/8", "registry.corp:5000"}}}}
	for _, c := range []struct {
		entrypoint, command []string
		flags               []daemonFlag
		warnings            int
	}{
		{nil, []string{"--tls=false", "--mtu", "1400", "-H", "tcp://0.0.0.0:2375"}, []daemonFlag{{"tls", "false"}, {"mtu", "1400"}, {"host", "tcp://0.0.0.0:2375"}}, 0},
		{nil, []string{"dockerd", "--debug", "--insecure-registry", "registry.corp:5000"}, []daemonFlag{{"debug", ""}, {"insecure-registry", "registry.corp:5000"}}, 0},
		{nil, []string{"--insecure-registry=127.0.0.1:5000", "--insecure-registry=http://other.corp"}, []daemonFlag{{"insecure-registry", "127.0.0.1:5000"}, {"insecure-registry", "http://other.corp"}}, 1},
		{[]string{"sh", "-c"}, []string{"dockerd-entrypoint.sh --tls=false --experimental"}, []daemonFlag{{"tls", "false"}, {"experimental", ""}}, 1},
		{nil, []string{"--experimental=false", "--ipv6", "--dns", "1.1.1.1", "--add-runtime=x=/x", "--feature=containerd-snapshotter=true"}, []daemonFlag{
			{"experimental", "false"}, {"ipv6", ""}, {"dns", "1.1.1.1"}, {"add-runtime", "x=/x"}, {"feature", "containerd-snapshotter=true"},
		}, 4},
	} {
		service := job.Service{Image: job.Image{Entrypoint: c.entrypoint}, Command: c.command}
		if diff := cmp.Diff(c.flags, daemonFlags(service), cmp.AllowUnexported(daemonFlag{})); diff != "" {
			t.Errorf("%q:\n%s", c.command, diff)
		}
		if got := s.dindWarnings(service); len(got) != c.warnings {
			t.Errorf("%q: %q", c.command, got)
		}
	}
}
