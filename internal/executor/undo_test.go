package executor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/guard"
	"github.com/slipway-ci/slipway/internal/job"
)

// guarded is the article's runner, whose jobs have guarded sockets, on a machine of the test's own.
func guarded(t *testing.T) Settings {
	t.Helper()
	dir := t.TempDir()
	s := article()
	s.Socket, s.EngineSocket = "guarded", filepath.Join(dir, "run", "docker.sock")
	s.StateDir = filepath.Join(dir, "state")
	s.Guard = GuardSettings{Dir: filepath.Join(dir, "guards"), CacheScope: "project", Machine: docker.Machine{
		DataRoot: filepath.Join(dir, "docker"), LayersDir: filepath.Join(dir, "containerd", "layers"), ArchivesDir: filepath.Join(dir, "content"),
	}}
	for _, d := range []string{"run", "state", "guards", "docker/volumes/x/_data", "srv"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.EngineSocket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Volumes = []string{s.EngineSocket + ":/var/run/docker.sock"}
	return s
}

// TestWithheldKeys: what undoes the guard is not given, and each key is named; trust_config and a raw socket give it all.
func TestWithheldKeys(t *testing.T) {
	t.Parallel()
	risky := docker.Container{
		Network: "host",
		Security: docker.Security{
			Privileged: true, CapAdd: []string{"NET_RAW", "cap_chown", "SYS_ADMIN"}, CapDrop: []string{"MKNOD"},
			SecurityOpt: []string{"no-new-privileges:true", "seccomp=unconfined"}, UsernsMode: "host", PidMode: "container:x", IpcMode: "host",
			Devices: []string{"/dev/sda"}, DeviceCgroupRules: []string{"b 8:* rwm"}, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
		},
		Extras: docker.Extras{VolumesFrom: []string{"x"}, DNS: []string{"192.0.2.1"}},
	}
	s := guarded(t)
	s.Container = risky
	p := planOf(s, payload(t))
	want := []string{
		"privileged", `network_mode = "host"`, `pid_mode = "container:x"`, `ipcmode = "host"`, `userns_mode = "host"`, "cap_add", "security_opt",
		"devices", "device_cgroup_rules", "volumes_from",
	}
	if diff := cmp.Diff(want, p.withheld); diff != "" {
		t.Errorf("withheld:\n%s", diff)
	}
	for _, key := range want {
		if !slices.ContainsFunc(p.warnings, func(w string) bool { return strings.HasPrefix(w, key+" in [runners.docker] is not given") }) {
			t.Errorf("the job's author does not hear of %s: %q", key, p.warnings)
		}
	}
	kept := docker.Security{
		CapAdd: []string{"NET_RAW", "cap_chown"}, CapDrop: []string{"MKNOD"}, SecurityOpt: []string{"no-new-privileges:true"},
		Sysctls: risky.Security.Sysctls,
	}
	if diff := cmp.Diff(kept, p.container.Security); diff != "" {
		t.Errorf("security:\n%s", diff)
	}
	if c := p.container; c.Network != "slipway" || c.Extras.VolumesFrom != nil || len(c.Extras.DNS) != 1 {
		t.Errorf("network %q, extras %+v", c.Network, c.Extras)
	}

	for name, change := range map[string]func(*Settings){
		"trust_config": func(s *Settings) { s.Guard.TrustConfig = true },
		"raw":          func(s *Settings) { s.Socket = "raw" },
		"no socket":    func(s *Settings) { s.Volumes = nil },
	} {
		s := s
		change(&s)
		p := planOf(s, payload(t))
		if diff := cmp.Diff(risky.Security, p.container.Security); diff != "" || p.withheld != nil || p.container.Network != "host" {
			t.Errorf("%s: withheld %v, security:\n%s", name, p.withheld, diff)
		}
		if said := strings.Contains(strings.Join(p.warnings, "\n"), "the guard of the Engine's socket does not hold"); said != (name == "trust_config") {
			t.Errorf("%s: warnings %q", name, p.warnings)
		}
	}
}

// TestWaysAroundTheGuard: volumes that lead to the Engine, to containerd or to other jobs by another name.
func TestWaysAroundTheGuard(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	dir := filepath.Dir(s.StateDir)
	link := func(target, name string) string {
		name = filepath.Join(dir, name)
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
		return name
	}
	hard := filepath.Join(dir, "srv", "hard")
	if err := os.Link(s.EngineSocket, hard); err != nil {
		t.Fatal(err)
	}
	for source, ways := range map[string][]string{
		"a guarded socket": {
			s.EngineSocket + ":/var/run/docker.sock", s.EngineSocket + ":/x/y.sock:ro", link(s.EngineSocket, "s") + ":/s",
			link(filepath.Join(dir, "run"), "r") + "/docker.sock:/s", hard + ":/s", filepath.Join(dir, "srv") + "/../run/docker.sock:/s", "/var/run/docker.sock:/s",
		},
		"the Engine's own socket":       {filepath.Join(dir, "run") + ":/run:ro", dir + ":/x", "/:/host:ro", filepath.Join(dir, "r") + ":/x"},
		"the Engine's data":             {filepath.Join(dir, "docker") + ":/d", filepath.Join(dir, "docker/volumes/x/_data") + ":/d:ro", "/var/lib/containerd/x:/d", filepath.Join(dir, "containerd") + ":/d:ro", filepath.Join(dir, "content/blobs") + ":/d", "/run/containerd/io.containerd.runtime.v2.task:/d:ro", "/var/run/docker/runtime-runc:/d"},
		"Slipway's own files":           {s.StateDir + ":/s:ro", filepath.Join(s.StateDir, "sources/new") + ":/s", s.Guard.Dir + ":/g"},
		"of another engine":             {"/run/containerd:/c", "/run/containerd/containerd.sock:/c", "/run/docker:/d"},
		"the machine's kernel settings": {"/proc:/host/proc", "/sys/fs/cgroup:/cg", "/proc/sys/kernel:/k:rw"},
		"":                              {filepath.Join(dir, "srv") + ":/srv", "/proc:/host/proc:ro", "/sys/fs/cgroup:/sys/fs/cgroup:ro", "name:/n", filepath.Join(dir, "new") + ":/n"},
	} {
		for _, text := range ways {
			for _, mode := range []string{"guarded", "off", "raw"} {
				s := s
				s.Socket, s.Volumes = mode, []string{text}
				p := planOf(s, payload(t))
				switch {
				case source == "" || mode == "raw":
					if p.err != nil {
						t.Errorf("%s: %s: %v", mode, text, p.err)
					}
				case source == "a guarded socket":
					if p.err != nil || mode == "guarded" != (len(p.volumes) == 1 && p.volumes[0].socket && p.volumes[0].bind == "") {
						t.Errorf("%s: %s gives %+v, %v", mode, text, p.volumes, p.err)
					}
				default:
					if p.err == nil || !strings.Contains(p.err.Error(), source) || job.ResultOf(p.err, nil).Reason != job.ConfigurationError {
						t.Errorf("%s: %s: %v, want it refused for %s", mode, text, p.err, source)
					}
					s.Guard.TrustConfig = true
					if p := planOf(s, payload(t)); p.err != nil {
						t.Errorf("trusted %s: %v", text, p.err)
					}
				}
			}
		}
	}
}

// TestVolumeInVolume: who writes to a folder decides what lies in it, and so what the next job would get.
func TestVolumeInVolume(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	srv := filepath.Join(filepath.Dir(s.StateDir), "srv")
	link, swapped := srv+"-link", srv+"/swapped"
	for at, to := range map[string]string{link: srv, swapped: "/etc"} {
		if err := os.Symlink(to, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		refused bool
		volumes []string
		hostDir string
	}{
		{true, []string{srv + ":/srv", srv + "/sub:/sub"}, ""},
		{true, []string{srv + "/sub/deep:/sub:ro", srv + ":/srv:rw"}, ""},
		{true, []string{link + ":/srv", srv + "/sub:/sub"}, ""},
		{true, []string{srv + ":/srv", link + "/sub:/sub"}, ""},
		{true, []string{srv + ":/srv", swapped + ":/sub"}, ""},
		{true, []string{srv + ":/srv", swapped + "/ssl:/sub"}, ""},
		{true, []string{srv + ":/srv", srv + "/builds:" + s.BuildsDir}, ""},
		{true, []string{srv + ":/srv", srv + ":" + s.BuildsDir}, ""},
		{true, []string{srv + ":/srv", "/cached"}, srv},
		{true, []string{srv + ":/srv", "/cached"}, srv + "/caches"},
		{false, []string{srv + ":/srv:ro", srv + "/sub:/sub"}, ""},
		{false, []string{srv + ":/srv", srv + ":/again", link + ":/third"}, ""},
		{false, []string{srv + "/a:/a", srv + "/b:/b", srv + "/ab:/ab"}, srv + "/c"},
		{false, []string{srv + ":" + s.BuildsDir}, srv},
	} {
		s.Volumes, s.VolumeHostDir = c.volumes, c.hostDir
		for _, trusted := range []bool{false, true} {
			s.Guard.TrustConfig = trusted
			if p := planOf(s, payload(t)); (p.err != nil) != (c.refused && !trusted) {
				t.Errorf("%q, cache_dir %q, trusted %v: %v", c.volumes, c.hostDir, trusted, p.err)
			}
		}
	}
}

// TestSystemFolders: the operator may give them, and every job hears what that means.
func TestSystemFolders(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	s.Volumes = append(s.Volumes, "/root:/e", "/etc/ssl/certs:/c:ro", "/etc/cron.d:/d", "/srv:/s", "/run/dbus:/run/dbus:ro")
	p := planOf(s, payload(t))
	if p.err != nil || len(p.warnings) != 3 || !strings.Contains(p.warnings[0], "/root:/e") || !strings.Contains(p.warnings[1], "/etc/cron.d:/d") {
		t.Errorf("%v, warnings %q", p.err, p.warnings)
	}
}

// TestGuardPolicy: it is made of settings and payload; a pipeline that overrides variables gains nothing.
func TestGuardPolicy(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	s.Guard.AllowedRegistries = []string{"hub.example"}
	s.Guard.Limits = guard.Limits{Containers: 7, Memory: 0, NanoCPUs: 5e8}
	s.Guard.Machine.SwapLimit = true
	s.Container.Limits = docker.Limits{Memory: 1 << 30, NanoCPUs: 2e9}
	spec := payload(t)
	spec.JobInfo.ProjectFullPath = "Group/Demo"
	spec.Credentials = append([]job.Credential{{Type: "other", URL: "other.example"}}, spec.Credentials...)
	spec.Credentials = append(spec.Credentials, job.Credential{Type: "registry", URL: "https://GitLab.example:443/x"})
	policy := func(spec *job.Spec) guard.Policy {
		p := planOf(s, spec)
		if p.err != nil {
			t.Fatal(p.err)
		}
		return s.guardPolicy(p, p.container, []guard.Mount{{Destination: "/d", Source: "/s"}}, "0123456789ab")
	}
	honest := policy(spec)
	want := guard.Policy{
		Token: "0123456789ab", Labels: s.ownLabels(), Scope: s.scope(spec),
		Registry: "172.17.0.1:5000", ImagePath: "172.17.0.1:5000/group/demo", AllowedRegistries: []string{"hub.example", "gitlab.example:443"},
		Mounts:  []guard.Mount{{Destination: "/d", Source: "/s"}},
		Sockets: slices.Sorted(slices.Values([]string{s.EngineSocket, "/run/docker.sock", "/var/run/docker.sock"})),
		Network: "slipway", Limits: guard.Limits{Containers: 7, Memory: 1 << 30, NanoCPUs: 5e8}, SwapLimit: true, CapDrop: []string{"NET_RAW"}, Root: IsAdmin(),
	}
	for _, v := range spec.Variables {
		if v.Masked && v.Value != "" {
			want.Secrets = append(want.Secrets, guard.Secret{Name: v.Key, Value: v.Value})
		}
	}
	if diff := cmp.Diff(want, honest); diff != "" {
		t.Errorf("policy:\n%s", diff)
	}
	for _, key := range []string{
		"CI_REGISTRY", "CI_REGISTRY_IMAGE", "CI_PROJECT_ID", "CI_PROJECT_PATH", "CI_COMMIT_REF_PROTECTED", "CI_SERVER_URL", "CI_PROJECT_DIR",
		"CI_RUNNER_SHORT_TOKEN", "CI_JOB_ID",
	} {
		spec.Variables = append(spec.Variables, job.Variable{Key: key, Value: "forged"})
	}
	if diff := cmp.Diff(honest, policy(spec)); diff != "" {
		t.Errorf("variables changed the policy:\n%s", diff)
	}
}

func TestScope(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for _, c := range []struct {
		scope            string
		project, protect bool // whether they make a difference
	}{
		{"project", true, false},
		{"protected", true, true},
		{"runner", false, false},
	} {
		s := article()
		s.Guard.CacheScope = c.scope
		base, other, protected := payload(t), payload(t), payload(t)
		other.JobInfo.ProjectID++
		base.GitInfo.Protected, other.GitInfo.Protected, protected.GitInfo.Protected = &no, &no, &yes
		of := s.scope(base)
		if len(of) != 32 || strings.Trim(of, "abcdef0123456789") != "" {
			t.Errorf("%s: scope %q", c.scope, of)
		}
		if (s.scope(other) != of) != c.project || (s.scope(protected) != of) != c.protect {
			t.Errorf("%s: %s, another project %s, a protected ref %s", c.scope, of, s.scope(other), s.scope(protected))
		}
		s.ServerURL = "https://another.example"
		if s.scope(base) == of {
			t.Errorf("%s: another GitLab shares the scope", c.scope)
		}
	}
}
