package e2e

import (
	"context"
	"crypto/rand"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// webServer answers on port 8080, or on $PORT, a moment after it was started.
func webServer() demo.Recipe {
	recipe := withEntrypoint(`mkdir -p /www; echo "I am ${WHO:-docker}" >/www/index
env >/www/env; hostname -i >/www/address
echo "serving ${WHO:-nobody}"; echo "to stderr" >&2
sleep 0.2
exec busybox httpd -f -p "${PORT:-8080}" -h /www
`)
	recipe.Ports = []string{"8080/tcp", "9/udp"}
	return recipe
}

// withService adds a service. pairs are its own variables.
func withService(s *job.Spec, image, alias string, pairs ...string) *job.Spec {
	service := job.Service{Image: job.Image{Name: image}, Alias: alias}
	for i := 0; i < len(pairs); i += 2 {
		service.Variables = append(service.Variables, job.Variable{Key: pairs[i], Value: pairs[i+1]})
	}
	s.Services = append(s.Services, service)
	return s
}

// networks are those that the rig's jobs have of their own.
func (r *rig) networks() []string {
	r.t.Helper()
	return strings.Fields(r.raw("network", "ls", "-q", "--filter", "label=slipway.job-network", "--filter", "label="+r.instance()))
}

// TestServices: a job finds its services under all their names when its script begins, and nothing of them is left.
func TestServices(t *testing.T) {
	t.Parallel()
	r := newRig(t, runnerKeys(`  environment = ["OF_THE_RUNNER=1"]`), dockerKeys(`    network_mtu = 1400
    [[runners.docker.services]]
      name = "$WEB"
      alias = "always"
      environment = ["WHO=the runner's"]`))
	web := r.image(webServer())
	job1 := func(who string) *job.Spec {
		s := spec(
			"wget -qO- http://web:8080/index", "wget -qO- http://www:8080/index", "wget -qO- http://always:8080/index",
			"wget -qO- http://"+strings.ReplaceAll(strings.Split(web, ":")[0], "/", "-")+":8080/index",
			"wget -qO- http://web:8080/env", "echo mtu $(cat /sys/class/net/eth0/mtu) of $CI_BUILD_NETWORK_NAME",
			"echo mine $(hostname -i), the service\\'s $(wget -qO- http://web:8080/address)",
		)
		s.Variables = append(s.Variables, job.Variable{Key: "HIDDEN", Value: "not-for-services"}, job.Variable{Key: "WEB", Value: web, Public: true})
		return withService(s, "$WEB", "web, www", "WHO", who, "OWN", "$HIDDEN")
	}
	// Two at once, with the same names.
	a, b := r.Enqueue(job1("first"), "dockerd"), r.Enqueue(job1("second"), "dockerd")
	for who, j := range map[string]*coordinator.Job{"first": a, "second": b} {
		o, log := r.end(j)
		if o.State != job.Success {
			t.Fatalf("job ended as %+v:\n%s", o, log)
		}
		if n := strings.Count(log, "\nI am "+who+"\n"); n != 2 {
			t.Errorf("%d answers of %s:\n%s", n, who, log)
		}
		wants(t, log, "\nmtu 1400 of slipway-", "I am the runner's", "OWN=not-for-services", "OF_THE_RUNNER=1", "CI_PROJECT_DIR=", "Starting service "+web)
		lacks(t, log, "HIDDEN=", "CI_JOB_TOKEN=", "probably did not start")
		r.eventually("its containers are gone", func() bool { return len(r.containers(j)) == 0 })
	}
	r.eventually("their networks are gone", func() bool { return len(r.networks()) == 0 })
}

// TestServicesThatFail: what a job is told of services that do not come up.
func TestServicesThatFail(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys("wait_for_services_timeout = 5"))
	web := r.image(webServer())
	t.Run("no answer", func(t *testing.T) {
		log := r.must(job.Success, withService(spec("echo goes on"), web, "web", "PORT", "8081", "WHO", "late"))
		wants(t, log, "WARNING: service "+web+" (web) probably did not start properly: none of its ports [8080] answers after ", "s; it printed:\n",
			"\n  serving late\n", "\n  to stderr\n", "Waiting for services to be up and running (timeout 5 seconds)...", "\ngoes on\n")
	})
	t.Run("not waited for", func(t *testing.T) {
		r := newRig(t, dockerKeys("wait_for_services_timeout = -1"))
		lacks(t, r.must(job.Success, withService(spec("echo goes on"), web, "web", "PORT", "8081")), "WARNING", "Waiting for services")
	})
	t.Run("its end", func(t *testing.T) {
		r := r.in(t)
		s := withService(spec("echo begun", untilTold, "echo goes on"), alpine, "ends")
		s.Services[0].Command = []string{"sh", "-c", "exit 7"}
		j := r.enqueue(withService(s, web, "web"))
		r.until(j, "service "+alpine+" (ends) failed: it ended with exit code 7; it printed nothing")
		r.until(j, "\nbegun\n")
		r.tell(j)
		wants(t, r.succeeds(j), "\ngoes on\n")
	})
	t.Run("its end in a short job", func(t *testing.T) {
		// Again and again, because the news of the end may come in time by itself.
		for range 5 {
			s := withService(spec("while nslookup ends >/dev/null 2>&1; do :; done; exit 3"), alpine, "ends")
			s.Services[0].Command = []string{"sh", "-c", "echo no config >&2; exit 7"}
			wants(t, r.fails(job.ScriptFailure, 3, s), "service "+alpine+" (ends) failed: it ended with exit code 7; it printed:\n  no config\n")
		}
	})
	t.Run("no such program", func(t *testing.T) {
		s := withService(spec("echo never"), alpine, "x")
		s.Services[0].Entrypoint = []string{"/no/such/program"}
		log := r.fails(job.ConfigurationError, 0, s)
		wants(t, log, "service "+alpine+" does not start", "Hint: check entrypoint:, command: and docker: user: of the service")
		lacks(t, log, "\nnever")
	})
	t.Run("no such image", func(t *testing.T) {
		log := r.fails(job.SystemFailure, 0, withService(spec("echo never"), "127.0.0.1:1/nothing:1", "x"))
		wants(t, log, "service 127.0.0.1:1/nothing:1: pull image 127.0.0.1:1/nothing:1")
		lacks(t, log, "\nnever")
	})
	t.Run("cancel", func(t *testing.T) {
		j := r.Enqueue(withService(spec("echo never"), web, "web", "PORT", "8081"), "dockerd")
		r.until(j, "Starting service")
		j.Cancel(true)
		o, log := r.end(j)
		if o.State == job.Success {
			t.Errorf("%+v:\n%s", o, log)
		}
		r.eventually("its containers are gone", func() bool { return len(r.containers(j)) == 0 })
	})
	r.eventually("the networks are gone", func() bool { return len(r.networks()) == 0 })
}

// TestServiceLogs: CI_DEBUG_SERVICES shows what services print, without secrets, unless the operator does not want that.
func TestServiceLogs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	web := r.image(webServer())
	debug := func() *job.Spec {
		s := withService(withVariables(spec("echo begun", untilTold, "echo done"), "CI_DEBUG_SERVICES", "true"), web, "web", "WHO", "$TOKEN")
		s.Variables = append(s.Variables, job.Variable{Key: "TOKEN", Value: "very-secret", Masked: true})
		return s
	}
	j := r.enqueue(debug())
	for _, text := range []string{"\n[service:web] serving [MASKED]\n", "\n[service:web] to stderr\n", "\nbegun\n"} {
		r.until(j, text)
	}
	r.tell(j)
	log := r.succeeds(j)
	wants(t, log, "\ndone\n")
	lacks(t, log, "very-secret")

	r = newRig(t, runnerKeys("  debug_trace_disabled = true"))
	j = r.enqueue(debug())
	r.until(j, "\nbegun\n")
	await(t, time.Second) // in which it would show
	r.tell(j)
	lacks(t, r.succeeds(j), "[service:web]")
}

// TestServiceNetworkModes: on networks of the operator's, too, a job finds its services by their names.
func TestServiceNetworkModes(t *testing.T) {
	t.Parallel()
	web := webServer()
	t.Run("bridge", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, dockerKeys(`network_mode = "bridge"`))
		wants(t, r.must(job.Success, withService(spec("wget -qO- http://web:8080/index"), r.image(web), "web", "WHO", "linked")), "I am linked")
	})
	t.Run("one of the operator's", func(t *testing.T) {
		t.Parallel()
		name := "slipway-test-" + strings.ToLower(rand.Text())
		r := newRig(t, dockerKeys(`network_mode = "`+name+`"`))
		r.raw("network", "create", name)
		t.Cleanup(func() { _ = r.engine.RemoveNetwork(context.Background(), name) })
		wants(t, r.must(job.Success, withService(spec("wget -qO- http://web:8080/index"), r.image(web), "web", "WHO", "linked")), "I am linked")
	})
	t.Run("host", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, dockerKeys(`network_mode = "host"`))
		port := strconv.Itoa(20000 + os.Getpid()%10000) // none that the system gives to others
		log := r.must(job.Success, withService(spec("wget -qO- http://web:"+port+"/index"), r.image(web), "web", "WHO", "at home", "PORT", port, "HEALTHCHECK_TCP_PORT", port))
		wants(t, log, "I am at home")
		lacks(t, log, "probably did not start")
	})
}

// TestServiceSettings: what an operator gives to services, on the container itself, and what a guarded job's do not get.
func TestServiceSettings(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket(), dockerKeys(`services_privileged = true
    service_memory = "64m"
    service_cpus = "0.5"
    services_security_opt = ["no-new-privileges"]
    dns_search = ["example.test"]
    [runners.docker.services_devices]
      "**" = ["/dev/null:/dev/mine"]
    [runners.docker.services_tmpfs]
      "/scratch" = "size=1m"
    [runners.docker.container_labels]
      team = "ci"`))
	web := r.image(webServer())
	j := r.Enqueue(withService(withDocker(untilTold, "docker ps --all --format {{.Image}}",
		"docker run --rm --network $CI_BUILD_NETWORK_NAME "+alpine+" wget -qO- http://web:8080/index",
		"docker network rm $CI_BUILD_NETWORK_NAME || echo it stays", "docker network disconnect --force $CI_BUILD_NETWORK_NAME $HOSTNAME || echo so does the job",
		"docker network prune --force", "docker network connect $CI_BUILD_NETWORK_NAME $HOSTNAME || echo it is there",
		"wget -qO- http://web:8080/index"), web, "web", "WHO", "beside"), "dockerd")
	r.until(j, "$ until")
	service := r.containerOf(j, "service")
	const format = `{{.HostConfig.Privileged}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.SecurityOpt}} {{.HostConfig.Tmpfs}} {{range .HostConfig.Devices}}{{.}}{{end}} {{.HostConfig.DNSSearch}} ` +
		`{{.Config.OpenStdin}} {{index .Config.Labels "com.gitlab.gitlab-runner.team"}} {{json .Mounts}}`
	out, mounts, _ := strings.Cut(r.raw("inspect", "--format", strings.ReplaceAll(format, "DNSSearch", "DnsSearch"), service), "[{")
	if want := "false 67108864 500000000 [no-new-privileges] map[/scratch:size=1m]  [example.test] false ci "; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	seen := []string{`"Destination":"/cache"`}
	if os.Geteuid() == 0 {
		seen = append(seen, `"Destination":"/builds/group/demo"`)
	}
	wants(t, mounts, seen...)
	if n := strings.Count(mounts, `"Destination":`); n != len(seen) {
		t.Errorf("%d things are mounted: %s", n, mounts)
	}
	r.tell(j)
	o, log := r.end(j)
	if o.State != job.Success {
		t.Errorf("%+v:\n%s", o, log)
	}
	_, shown, _ := strings.Cut(log, "docker ps --all")
	lacks(t, shown, web) // the job's socket shows no service
	// The job's containers may join those of the services, and the network stays whatever the job does.
	if n := strings.Count(shown, "\nI am beside\n"); n != 2 {
		t.Errorf("%d answers:\n%s", n, log)
	}
	wants(t, shown, "\nit stays\n", "\nso does the job\n", "\nit is there\n")
	r.cleanAfter()
}

// TestServiceLimits: every key for services reaches the Engine, and none of those for jobs; in jobs without the Engine's socket.
func TestServiceLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`memory = "128m"
    cap_add = ["SYS_NICE"]
    devices = ["/dev/full:/dev/of-the-job"]
    userns_mode = "host"
    runtime = "runc"
    dns = ["192.0.2.53"]
    extra_hosts = ["registry.test:192.0.2.7"]
    shm_size = 1048576
    service_memory = "64m"
    service_memory_swap = "96m"
    service_memory_reservation = "32m"
    service_cpus = "0.5"
    service_cpu_shares = 256
    service_cpuset_cpus = "0"
    service_cgroup_parent = "/slipway-test-services"
    services_security_opt = ["no-new-privileges"]
    [runners.docker.services_devices]
      "*/other:*" = ["/dev/zero:/dev/never"]
      "slipway.test/**" = ["/dev/zero:/dev/of-the-service:r"]
    [runners.docker.services_tmpfs]
      "/scratch" = "size=1m"`))
	s := withService(spec("echo begun", untilTold), alpine, "beside")
	s.Services[0].Command = []string{"sleep", "600"}
	j := r.enqueue(s)
	r.until(j, "\nbegun\n")
	const format = "{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.MemoryReservation}} {{.NanoCpus}} {{.CpuShares}} {{.CpusetCpus}} {{.CgroupParent}} {{.SecurityOpt}} " +
		"{{range .Devices}}{{.PathOnHost}}:{{.PathInContainer}}:{{.CgroupPermissions}}{{end}} {{.Tmpfs}} {{.UsernsMode}} {{.Runtime}} {{.Dns}} {{.ExtraHosts}} {{.ShmSize}} {{json .CapAdd}} {{.Privileged}}{{end}}"
	want := "67108864 100663296 33554432 500000000 256 0 /slipway-test-services [no-new-privileges] " +
		"/dev/zero:/dev/of-the-service:r map[/scratch:size=1m] host runc [192.0.2.53] [registry.test:192.0.2.7] 1048576 null false"
	if got := strings.TrimSpace(r.raw("inspect", "--format", format, r.containerOf(j, "service"))); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	r.tell(j)
	r.succeeds(j)
	r.cleanAfter()
}

// TestServiceDevices: a service has the devices that its image is given, and another one has not.
func TestServiceDevices(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`[runners.docker.services_devices]
      "slipway.test/*:*" = ["/dev/null:/dev/mine"]
      "none/*" = ["/dev/null:/dev/others"]`))
	j := r.enqueue(withService(spec(untilTold), r.image(webServer()), "web"))
	r.until(j, "$ until")
	for _, c := range r.containers(j) {
		want := "[]\n"
		if c.Labels["com.gitlab.gitlab-runner.type"] == "service" {
			want = "[{/dev/null /dev/mine rwm}]\n"
		}
		if out := r.raw("inspect", "--format", "{{.HostConfig.Devices}}", c.ID); out != want {
			t.Errorf("%q has the devices %q, not %q", c.Labels, out, want)
		}
	}
	r.tell(j)
	r.succeeds(j)
}

// TestNetworkOfServicesWithIPv6: enable_ipv6 reaches the Engine, which may have no addresses for it.
func TestNetworkOfServicesWithIPv6(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys("enable_ipv6 = true"))
	o, log := r.run(withService(spec("ip address"), r.image(webServer()), "web"))
	if o.State != job.Success {
		wants(t, log, "IPv6", "default-address-pools")
		return
	}
	wants(t, log, "inet6 f")
}

// TestDindBesideServices: a Docker-in-Docker is warm beside services that are started.
func TestDindBesideServices(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := withDind(withDocker("docker -H tcp://docker:2375 info --format {{.OSType}}", "wget -qO- http://web:8080/index",
		"docker run --rm --publish 8081:8080 --detach --name mine "+alpine+" sh -c 'mkdir /w; echo published >/w/index; exec httpd -f -p 8080 -h /w'",
		"until wget -qO- http://docker:8081/index; do sleep 0.1; done"), "")
	log := r.must(job.Success, withService(s, r.image(webServer()), "web", "WHO", "beside"))
	wants(t, log, "\nlinux\n", "\nI am beside\n", "\npublished\n", "docker:dind is not started")
	r.cleanAfter()
	r.eventually("the networks are gone", func() bool { return len(r.networks()) == 0 })
}

// TestKilledWithServices: the next start removes what a killed runner's jobs had beside them.
func TestKilledWithServices(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j := r.middleOf(withService(spec("true"), r.image(webServer()), "web"))
	if n := len(r.containers(j)); n != 2 || len(r.networks()) != 1 {
		t.Fatalf("%d containers, networks %q", n, r.networks())
	}
	r.kill()
	r.start()
	r.interrupted(j)
	r.eventually("the network is gone", func() bool { return len(r.networks()) == 0 })
}
