package e2e

import (
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// withDind adds a Docker-in-Docker to a job, as .gitlab-ci.yml has it.
func withDind(s *job.Spec, alias string, command ...string) *job.Spec {
	s.Services = append(s.Services, job.Service{Image: job.Image{Name: "docker:dind"}, Alias: alias, Command: command})
	return s
}

// dindForm is how a pipeline uses its Docker-in-Docker.
type dindForm struct {
	name      string
	command   []string // of the service
	variables []string
	build     []string // before the push
}

// dindForms are the pipelines that were measured with GitLab's own runner.
func dindForms(image string) []dindForm {
	plain := []string{"DOCKER_HOST", "tcp://docker:2375", "DOCKER_TLS_CERTDIR", ""}
	build := "docker build -t " + image + " ."
	return []dindForm{
		{"as documented", nil, plain, []string{build}},
		{"without TLS", []string{"--tls=false"}, plain, []string{build}},
		{"with TLS", nil, []string{
			"DOCKER_HOST", "tcp://docker:2376", "DOCKER_TLS_CERTDIR", "/certs", "DOCKER_TLS_VERIFY", "1", "DOCKER_CERT_PATH", "$DOCKER_TLS_CERTDIR/client",
		}, []string{build}},
		{"with a pull", []string{"--tls=false"}, plain, []string{"docker pull " + image + " || true", build}},
		{"with --cache-from", []string{"--tls=false"}, plain, []string{"docker pull " + image + " || true", "docker build --cache-from " + image + " -t " + image + " ."}},
	}
}

// TestDindPipelines are pipelines that are written for a Docker-in-Docker, unedited: each is warm on its second run.
func TestDindPipelines(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	registry, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	r.AddProject(coordinator.Project{ID: 7, Path: "group/demo", Registry: registry.Host, RegistryUser: registry.User, RegistryPassword: job.Secret(registry.Password)})
	image := registry.Host + "/group/demo:main"
	t.Cleanup(func() { r.removeImages(registry.Host + "/") })
	for i, form := range dindForms(image) {
		run := func() string {
			t.Helper()
			script := []string{
				"printf 'FROM " + alpine + "\\nRUN echo " + r.token.Short() + strings.ReplaceAll(form.name, " ", "") + " >/long\\nCOPY file /\\n' >Dockerfile; echo text >file; touch -d @0 file",
				"until docker info >/dev/null 2>&1; do sleep 0.1; done",
				`docker login -u "$USER_NAME" -p "$PASSWORD" ` + registry.Host,
			}
			script = append(append(script, form.build...), "docker push "+image)
			return r.must(job.Success, withVariables(withDind(withDocker(script...), "", form.command...), append(form.variables, "USER_NAME", registry.User, "PASSWORD", registry.Password)...))
		}
		first := run()
		wants(t, first, "docker:dind is not started", `dind = "start"`, "Login Succeeded", "Successfully tagged "+image, "main: digest: sha256:")
		if i == 0 {
			lacks(t, first, "has no effect", "is not given to this job")
		}
		if second := run(); !strings.Contains(second, "Using cache") || strings.Contains(second, "---> Running") {
			t.Errorf("%s: the second run is not cached:\n%s", form.name, second)
		}
	}
	r.cleanAfter()
}

// TestDindHabits are the ways in which scripts wait for their daemon, and name it.
func TestDindHabits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, c := range []struct {
		name      string
		alias     string
		variables []string
		script    []string
		wants     []string
	}{
		{"waiting", "", []string{"DOCKER_TLS_CERTDIR", "/certs"}, []string{
			"until docker info >/dev/null; do sleep 1; done", "nc docker 2375 </dev/null", "nc docker 2376 </dev/null",
			"until [ -f $DOCKER_TLS_CERTDIR/client/ca.pem ]; do sleep 1; done", "docker version",
		}, []string{"Server:"}},
		{"on the command line", "dind docker", nil, []string{
			"docker -H tcp://docker:2375 ps", "docker -H tcp://dind:2375 ps", "docker -H tcp://localhost:2375 ps",
			"docker --tlsverify --tlscacert /certs/client/ca.pem --tlscert /certs/client/cert.pem --tlskey /certs/client/key.pem -H tcp://dind:2376 ps",
			"unset DOCKER_HOST",
			"docker context create tls --docker host=tcp://docker:2376,ca=/certs/client/ca.pem,cert=/certs/client/cert.pem,key=/certs/client/key.pem",
			"docker --context tls run --rm " + alpine + " echo in the context",
		}, []string{"in the context"}},
		{"as on Kubernetes", "localhost", []string{"DOCKER_HOST", "tcp://localhost:2375", "DOCKER_TLS_CERTDIR", ""}, []string{"docker run --rm " + alpine + " echo from localhost"}, []string{"from localhost"}},
		{"without a host", "", []string{"DOCKER_TLS_VERIFY", "1"}, []string{"docker run --rm " + alpine + " echo from the socket"}, []string{"from the socket"}},
		{"TLS on the plain port", "", []string{"DOCKER_HOST", "tcp://docker:2375", "DOCKER_TLS_VERIFY", "1", "DOCKER_CERT_PATH", "/certs/client"}, []string{
			"docker run --rm " + alpine + " echo over TLS",
		}, []string{"over TLS"}},
		{"a port that nobody serves", "", []string{"DOCKER_HOST", "tcp://docker:2377"}, []string{"docker run --rm " + alpine + " echo corrected"}, []string{"corrected", "where nothing answers"}},
		{"a published port", "", []string{"DOCKER_HOST", "tcp://docker:2375", "DOCKER_TLS_CERTDIR", ""}, []string{
			"docker run -d -p 8080:80 " + alpine + " sh -c 'mkdir w; echo published >w/index.html; httpd -f -p 80 -h w'",
			"until wget -q -O - http://docker:8080/; do sleep 0.1; done",
		}, []string{"published"}},
		{"the certificate is needed", "", nil, []string{
			"docker -H tcp://docker:2376 ps 2>&1 || true",
		}, []string{"HTTPS server"}},
	} {
		out := r.must(job.Success, withVariables(withDind(withDocker(c.script...), c.alias), c.variables...))
		wants(t, out, append(c.wants, "docker:dind is not started")...)
	}
	r.cleanAfter()
}

// TestDindIsTheJobsOwn reaches for the ports of a job from a neighbour on the same bridge, and from the machine.
func TestDindIsTheJobsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, concurrent(2))
	victim := r.enqueue(withDind(withDocker("docker version", "echo waiting", untilTold), ""))
	r.until(victim, "waiting")
	address := strings.TrimSpace(r.raw("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", r.jobContainer(victim)))
	out := r.must(job.Success, withDocker(
		"nc -w 2 "+address+" 2375 </dev/null && echo reached || echo closed", "nc -w 2 "+address+" 2376 </dev/null && echo reached || echo closed",
	))
	lacks(t, out, "\nreached")
	wants(t, out, "closed\n")
	r.tell(victim)
	if outcome, log := r.end(victim); outcome.State != job.Success {
		t.Errorf("the job ended as %s:\n%s", outcome.State, log)
	}
	r.cleanAfter()
}

// TestDindStart runs a Docker-in-Docker as it is written where the operator wants that: as a service like others. The real
// one needs privileges that not every machine can give, so one that only answers stands in.
func TestDindStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, slipwayKeys(`dind = "start"`))
	name := r.imageNamed("slipway.test/library/docker:dind-"+r.token.Short(), webServer())
	s := spec("wget -qO- http://docker:2375/index")
	s.Services = []job.Service{{Image: job.Image{Name: name}, Alias: "docker", Variables: job.Variables{{Key: "PORT", Value: "2375"}, {Key: "HEALTHCHECK_TCP_PORT", Value: "2375"}}}}
	log := r.must(job.Success, s)
	wants(t, log, "Starting service "+name, "I am docker")
	lacks(t, log, "guarded socket")
}

// TestDindBesideTheSocket is a pipeline for a Docker-in-Docker on a runner whose jobs have the socket, and on one whose
// operator has set it up for that: privileged, with a volume for the certificates.
func TestDindBesideTheSocket(t *testing.T) {
	t.Parallel()
	for _, options := range map[string][]option{
		"socket":     {withSocket()},
		"privileged": {dockerKeys(`    privileged = true`), dockerKeys(`    volumes = ["/certs/client", "/cache"]`)},
	} {
		r := newRig(t, options...)
		out := r.must(job.Success, withVariables(withDind(withDocker(
			"docker run --rm "+alpine+" echo from the daemon", "ls /certs/client",
			"grep CapEff /proc/self/status",
		), ""), "DOCKER_HOST", "tcp://docker:2376", "DOCKER_TLS_CERTDIR", "/certs", "DOCKER_TLS_VERIFY", "1", "DOCKER_CERT_PATH", "/certs/client"))
		wants(t, out, "from the daemon", "ca.pem")
		lacks(t, out, "privileged in [runners.docker]", "CapEff:\t0000003fffffffff", "CapEff:\t000001ffffffffff")
		r.cleanAfter()
	}
}

// TestSecretInABuild: a masked variable as a build argument is told in the job's log, with what to do instead.
func TestSecretInABuild(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"warn", "deny"} {
		r := newRig(t, withSocket(), slipwayKeys(`build_secrets = "`+mode+`"`))
		s := withDocker("printf 'FROM "+alpine+"\\nARG NPM_TOKEN\\nRUN true\\n' >Dockerfile", "docker build --build-arg NPM_TOKEN=$NPM_TOKEN .")
		s.Variables = append(s.Variables, job.Variable{Key: "NPM_TOKEN", Value: "npm_0123456789abcdef", Masked: true})
		state := job.Success
		if mode == "deny" {
			state = job.Failed
		}
		out := r.must(state, s)
		wants(t, out, "--build-arg NPM_TOKEN holds the value of the masked variable NPM_TOKEN", "--secret id=NPM_TOKEN,env=NPM_TOKEN")
		lacks(t, out, "npm_0123456789abcdef")
	}
}
