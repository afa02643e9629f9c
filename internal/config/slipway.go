package config

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

func (s *RunnerSlipway) defaults() {
	for _, f := range []struct {
		value *string
		def   string
	}{
		{&s.Socket, SocketGuarded}, {&s.SocketPolicy, PolicyEnforce}, {&s.CacheScope, ScopeProject}, {&s.Dind, DindWarm}, {&s.BuildSecrets, SecretsWarn}, {&s.GitDir, GitDirInside},
	} {
		if *f.value == "" {
			*f.value = f.def
		}
	}
}

// registryForm is a host with a port, or all hosts below a domain.
var registryForm = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$|^\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?$`)

// slipway checks [runners.slipway].
func (c *checker) slipway(at string, s *RunnerSlipway) {
	c.oneOf(child(at, "socket"), s.Socket, []string{SocketGuarded, SocketRaw, SocketOff})
	c.oneOf(child(at, "socket_policy"), s.SocketPolicy, []string{PolicyEnforce, PolicyAudit})
	c.oneOf(child(at, "cache_scope"), s.CacheScope, []string{ScopeProject, ScopeProtected, ScopeRunner})
	c.oneOf(child(at, "dind"), s.Dind, []string{DindWarm, DindStart})
	c.oneOf(child(at, "build_secrets"), s.BuildSecrets, []string{SecretsWarn, SecretsDeny, SecretsOff})
	c.oneOf(child(at, "git_dir"), s.GitDir, []string{GitDirInside, GitDirOutside})
	for i, image := range s.DindImages {
		if glob := strings.TrimPrefix(image, "!"); glob == "" || strings.ContainsAny(glob, " \t\n") || !doublestar.ValidatePattern(glob) {
			c.fail(element(child(at, "dind_images"), i), `write dind_images = ["registry.example.com/ci/docker-dind:*"]`, "%q is no image, nor a pattern for images", image)
		}
	}
	for i, project := range s.AllowedProjects {
		glob := strings.TrimPrefix(project, "!")
		if glob == "" || strings.ContainsAny(glob, " :\t\n!") || strings.HasPrefix(glob, "/") || !doublestar.ValidatePattern(glob) {
			c.fail(element(child(at, "allowed_projects"), i), `write allowed_projects = ["group/project", "group/**"]`,
				"%q is not the path of a project, nor a pattern for paths", project)
		}
	}
	for i, host := range s.AllowedRegistries {
		if !registryForm.MatchString(host) {
			c.fail(element(child(at, "allowed_registries"), i), `write allowed_registries = ["registry.example.com:5050", "*.example.com"]`,
				"%q is not the host of a registry, with its port if it has one", host)
		}
	}
	c.limits(child(at, "limits"), s.Limits)
}

func (c *checker) limits(at string, l Limits) {
	for key, n := range map[string]int64{
		"containers": int64(l.Containers), "networks": int64(l.Networks), "volumes": int64(l.Volumes), "execs": int64(l.Execs),
		"builds": int64(l.Builds), "memory": int64(l.Memory), "cpus": int64(l.CPUs), "pids": l.PIDs,
		"shm_size": int64(l.ShmSize), "tmpfs": int64(l.Tmpfs),
	} {
		if n < 0 {
			c.fail(child(at, key), "leave it out for the default", "a limit cannot be less than nothing")
		}
	}
}

// guarded warns of keys that jobs are not given because they have a guarded socket. Only the usual names of the socket
// are known here; each job's log says what was withheld from it.
func (c *checker) guarded(at string, r *Runner) {
	d := r.Docker
	if c.lost(at+".slipway.socket", at+".slipway.trust_config") {
		return
	}
	socket := slices.ContainsFunc(d.Volumes, func(v string) bool {
		source, _, _ := strings.Cut(v, ":")
		return slices.Contains([]string{"/var/run/docker.sock", "/run/docker.sock", strings.TrimPrefix(d.Host, "unix://")}, path.Clean(source))
	})
	if !socket || r.Slipway.Socket != SocketGuarded || r.Slipway.TrustConfig {
		return
	}
	host := func(mode string) bool { return mode == "host" || strings.HasPrefix(mode, "container:") }
	for _, k := range []struct {
		key string
		set bool
	}{
		{"privileged", d.Privileged},
		{"network_mode", host(d.NetworkMode)},
		{"pid_mode", host(d.PIDMode)},
		{"ipcmode", host(d.IPCMode)},
		{"userns_mode", host(d.UsernsMode)},
		{"devices", len(d.Devices) > 0},
		{"device_cgroup_rules", len(d.DeviceCgroupRules) > 0},
		{"volumes_from", len(d.VolumesFrom) > 0},
	} {
		if k.set {
			c.warn(child(child(at, "docker"), k.key), "trust_config = true in [runners.slipway] gives it, and lets every job own the machine",
				"is not given to jobs: it would undo the guard of their socket, which volumes gives them").Withheld = true
		}
	}
}
