package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// env is an environment for tests.
func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func noEnv(string) string { return "" }

func testdata(t *testing.T, name string) []byte {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func lines(ws []Warning) []string {
	var out []string
	for _, w := range ws {
		out = append(out, w.String())
	}
	return out
}

func TestArticle(t *testing.T) {
	t.Parallel()
	cfg, warnings, err := Load(filepath.Join("testdata", "article.toml"))
	if err != nil || warnings != nil {
		t.Fatal(lines(warnings), err)
	}
	want := &Config{
		Path: "testdata/article.toml", Concurrent: 1,
		CheckInterval: 3 * time.Second, ShutdownTimeout: 30 * time.Second, ConnectionMaxAge: 15 * time.Minute, SessionServer: SessionServer{SessionTimeout: 1800},
		Runners: []*Runner{{
			Pos: Position{"testdata/article.toml", 1},
			URL: "https://gitlab.example.com/", Token: "glrt-t1_0123456789abcdef", Executor: "docker",
			OutputLimit: 4096, RequestConcurrency: 1, UnhealthyRequestsLimit: 3, UnhealthyInterval: time.Hour,
			JobStatusFinalUpdateRetryLimit: 10, BuildsDir: "/builds", CacheDir: "/cache",
			Docker: &Docker{
				Image:      "docker:20.10.7",
				Volumes:    []string{"/var/run/docker.sock:/var/run/docker.sock", "/cache", "/builds"},
				PullPolicy: StringList{"always"}, AllowedPullPolicies: StringList{"always"},
				WaitForServicesTimeout: 30,
			},
			Slipway: RunnerSlipway{Socket: SocketGuarded, SocketPolicy: PolicyEnforce, CacheScope: ScopeProject, Dind: DindWarm, BuildSecrets: SecretsWarn, GitDir: GitDirInside},
		}},
	}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Error(diff)
	}
}

// What GitLab's runner writes when it registers gives no warning: its zeros and empty tables mean nothing.
func TestRegisteredByGitLab(t *testing.T) {
	t.Parallel()
	cfg, warnings, err := Load(filepath.Join("testdata", "registered.toml"))
	if err != nil || warnings != nil {
		t.Fatal(lines(warnings), err)
	}
	r := cfg.Runners[0]
	if r.ID != 42 || !r.TokenExpiresAt.IsZero() || !r.TokenObtainedAt.Equal(time.Date(2026, 11, 2, 8, 30, 0, 0, time.UTC)) {
		t.Errorf("id %d, obtained %v, expires %v", r.ID, r.TokenObtainedAt, r.TokenExpiresAt)
	}
	if cfg.CheckInterval != 3*time.Second || cfg.ShutdownTimeout != 30*time.Second || r.Pos.Line != 9 {
		t.Errorf("%+v at %v", cfg, r.Pos)
	}
}

func TestFull(t *testing.T) {
	t.Parallel()
	vars := env(map[string]string{"GITLAB_HOST": "gitlab.example.com", "RUNNER_TOKEN": "glrt-secret"})
	cfg, warnings, err := Parse("f", testdata(t, "full.toml"), vars)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		`f:197: runners.executor: executor "kubernetes" is not supported: this [[runners]] is skipped ` +
			`(the others run; GitLab's own runner can serve it with a config.toml of its own)`,
	}, lines(warnings)); diff != "" {
		t.Error(diff)
	}
	obtained := time.Date(2026, 11, 2, 8, 30, 0, 0, time.UTC)
	three, no, yes := 3, false, true
	want := &Config{
		Path: "f", Concurrent: 8, CheckInterval: 5 * time.Second, User: "ci", LogLevel: "warning", LogFormat: "json",
		ShutdownTimeout: time.Minute, ConnectionMaxAge: time.Hour, ListenAddress: "127.0.0.1:9252", SessionServer: SessionServer{"[::]:8093", "runner.example.com:8093", 600}, Slipway: Slipway{StateDir: "/srv/slipway", Limits: MachineLimits{MinFree: &MinFree{Percent: 2.5}, BuildCache: 50 << 30}},
		Runners: []*Runner{{
			Pos: Position{"f", 13}, Name: "all", Limit: 4, OutputLimit: 8192, RequestConcurrency: 2, StrictCheckInterval: true,
			UnhealthyRequestsLimit: 5, UnhealthyInterval: 10 * time.Minute, JobStatusFinalUpdateRetryLimit: 20,
			URL: "https://gitlab.example.com/gitlab", ID: 7, Token: "glrt-secret",
			TokenObtainedAt: obtained, TokenExpiresAt: obtained.AddDate(1, 0, 0),
			TLSCAFile: "/etc/ca.crt", TLSCertFile: "/etc/client.crt", TLSKeyFile: "/etc/client.key",
			Executor: "docker", BuildsDir: "/b", CacheDir: "/c", CloneURL: "http://gitlab.internal",
			Environment: []string{"LC_ALL=C", "A=b=c", "EMPTY="}, PreGetSources: "echo first", PostGetSources: "git lfs pull", PreBuildScript: "echo before",
			PostBuildScript:    "echo after\n# not a comment: part of the script\n[runners.docker]\n",
			DebugTraceDisabled: true, PrepareTimeout: 5 * time.Minute, GetSourcesTimeout: 90 * time.Second, Shell: "sh",
			CustomBuildDir: CustomBuildDir{Enabled: &no},
			Cache: RunnerCache{
				Type: CacheOnS3, Path: "runners", Shared: true, MaxUploadedArchiveSize: 1 << 20,
				S3: CacheS3{
					ServerAddress: "s3.example.com:9000", AccessKey: "access", SecretKey: "secret", SessionToken: "session",
					BucketName: "caches", BucketLocation: "eu-central-1", Insecure: true, AuthenticationType: AuthAccessKey,
					ServerSideEncryption: EncryptKMS, ServerSideEncryptionKeyID: "alias/key", DualStack: &no, PathStyle: &yes, Accelerate: true,
					RoleARN: "arn:aws:iam::123456789012:role/caches", UploadRoleARN: "arn:aws:iam::123456789012:role/caches",
					AssumeRoleMaxConcurrency: 3, DisableAssumeRoleCredentialsCaching: true,
				},
			},
			Artifact:     RunnerArtifact{UploadTimeout: 2 * time.Hour, ResponseHeaderTimeout: 20 * time.Minute},
			Experimental: RunnerExperimental{BootVerify{true, 10 * time.Minute, 2 * time.Second, 20 * time.Second}},
			FeatureFlags: map[string]bool{"FF_TIMESTAMPS": false, "FF_OF_TOMORROW": true},
			Slipway: RunnerSlipway{
				Socket: SocketRaw, SocketPolicy: PolicyAudit, TrustConfig: true, CacheScope: ScopeProtected,
				Dind: DindStart, DindImages: []string{"registry.example.com/ci/docker-dind:*"}, BuildSecrets: SecretsDeny, GitDir: GitDirOutside,
				AllowedProjects: []string{"group/**"}, ProtectedOnly: true,
				AllowedRegistries: []string{"registry.example.com:5050", "*.example.org"},
				Limits: Limits{
					Containers: 10, Networks: 2, Volumes: 20, Execs: 30, Builds: 3, Memory: 2 << 30, CPUs: 1_500_000_000, PIDs: 4096,
					ShmSize: 64 << 20, Tmpfs: 1 << 30,
				},
			},
			Docker: &Docker{
				Host: "tcp://192.0.2.1:2376", TLSCertPath: "/certs", TLSVerify: true, Hostname: "builder",
				Image: "alpine:$VERSION", Runtime: "runsc", Memory: 512 << 20, MemorySwap: -1, MemoryReservation: 1 << 30,
				CgroupParent: "ci.slice", CPUSetCPUs: "0,1", CPUSetMems: "0", CPUs: 1, CPUShares: 512, GPUs: "all",
				DNS: []string{"192.0.2.53", "2001:db8::53"}, DNSSearch: []string{"example.com"},
				Privileged: true, DisableEntrypointOverwrite: true, User: "build", AllowedUsers: []string{"build", "1000"},
				GroupAdd: []string{"docker"}, UsernsMode: "host", CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"NET_RAW"},
				OOMKillDisable: true, OOMScoreAdjust: -5, SecurityOpt: []string{"no-new-privileges"},
				Devices: []string{"/dev/net/tun"}, DeviceCgroupRules: []string{"c 10:200 rwm"}, DisableCache: true,
				Volumes: []string{"/cache", "/srv/data:/data:ro"}, VolumeDriver: "local", VolumeDriverOps: map[string]string{"size": "50G"}, EnableIPv6: true, CacheDir: "/srv/cache",
				ExtraHosts: []string{"db:192.0.2.7"}, VolumesFrom: []string{"store:ro"}, NetworkMode: "ci",
				IPCMode: "private", PIDMode: "host", MACAddress: "92:d0:c6:0a:29:33", Links: []string{"db:db"},
				WaitForServicesTimeout: -1, AllowedImages: []string{"alpine:*", "docker:*"},
				AllowedPrivilegedImages: []string{"docker:*"}, AllowedServices: []string{"postgres:*"},
				AllowedPullPolicies: StringList{"always", "if-not-present"}, PullPolicy: StringList{"if-not-present"},
				AllowedPrivilegedServices: []string{"docker:*-dind"}, ServicesLimit: &three, ServicesPrivileged: &no,
				ServiceMemory: 256 << 20, ServiceMemorySwap: 512 << 20, ServiceMemoryReservation: 128 << 20, ServiceCgroupParent: "services.slice",
				ServiceCPUSetCPUs: "1", ServiceCPUs: 500_000_000, ServiceCPUShares: 256, ServiceGPUs: "2",
				ServicesSecurityOpt: []string{"no-new-privileges"}, ServicesDevices: map[string][]string{"emulator:*": {"/dev/kvm"}},
				ServicesTmpfs: map[string]string{"/var/lib/postgresql": "rw"},
				Services: []Service{{
					Name: "postgres:16", Alias: "db", Command: []string{"-c", "fsync=off"}, Entrypoint: []string{"docker-entrypoint.sh"},
					Environment: []string{"POSTGRES_PASSWORD=x"},
				}},
				ShmSize: 64 << 20, NetworkMTU: 1450, Tmpfs: map[string]string{"/tmp": "rw,noexec"},
				Sysctls:         map[string]string{"net.ipv4.ip_forward": "1"},
				ContainerLabels: map[string]string{"team": "$CI_PROJECT_NAMESPACE"},
				Ulimit:          map[string]string{"nofile": "1024:2048", "nproc": "-1"},
			},
		}, {
			Pos: Position{"f", 193}, Unsupported: `executor "kubernetes" is not supported`, Name: "cluster",
			URL: "https://gitlab.example.com", Token: "glrt-cluster", Executor: "kubernetes", OutputLimit: 4096,
			RequestConcurrency: 1, UnhealthyRequestsLimit: 3, UnhealthyInterval: time.Hour, JobStatusFinalUpdateRetryLimit: 10,
		}},
	}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Error(diff)
	}
	// The file is to have every key there is, so that none is forgotten here.
	forEachField(reflect.ValueOf(cfg.Runners[0]).Elem(), func(name string, v reflect.Value) {
		if v.IsZero() && name != "Unsupported" {
			t.Errorf("testdata/full.toml does not set %s", name)
		}
	})
}

func forEachField(v reflect.Value, f func(name string, v reflect.Value)) {
	for i := range v.NumField() {
		e := reflect.Indirect(v.Field(i))
		if _, isTime := v.Field(i).Interface().(time.Time); e.Kind() == reflect.Struct && !isTime {
			forEachField(e, f)
		} else {
			f(v.Type().Field(i).Name, v.Field(i))
		}
	}
}

// Keys are found in any case, as by GitLab's runner, which uses the same library.
func TestKeysInAnyCase(t *testing.T) {
	t.Parallel()
	src := "Concurrent = 2\n[[runners]]\nURL = \"https://x\"\nToken = \"t\"\nExecutor = \"docker\"\n[runners.Docker]\nImage = \"i\"\n"
	cfg, warnings, err := Parse("f", []byte(src), noEnv)
	if err != nil || warnings != nil {
		t.Fatal(lines(warnings), err)
	}
	if r := cfg.Runners[0]; cfg.Concurrent != 2 || r.URL != "https://x" || r.Docker.Image != "i" {
		t.Errorf("%+v", r)
	}
}

func TestRunnersAsInlineTables(t *testing.T) {
	t.Parallel()
	src := "runners = [{url = \"https://x\", token = \"t\", executor = \"docker\", docker = {image = \"i\", pul_policy = \"never\"}}]"
	cfg, warnings, err := Parse("f", []byte(src), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"f:1: runners.docker.pul_policy: unknown key, ignored (did you mean pull_policy?)"}, lines(warnings)); diff != "" {
		t.Error(diff)
	}
	if r := cfg.Runners[0]; r.Docker.Image != "i" || r.Pos.Line != 1 {
		t.Errorf("%+v", r)
	}
}

func TestEmptyFile(t *testing.T) {
	t.Parallel()
	cfg, warnings, err := Parse("f", nil, noEnv)
	if err != nil || warnings != nil || cfg.Concurrent != 1 || len(cfg.Runners) != 0 {
		t.Errorf("%+v, %v, %v", cfg, warnings, err)
	}
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("#\n", maxSize)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): ": cannot be read: no such file or directory (slipway register writes it; --config names another)",
		dir:                        ": cannot be read: is a directory (name a config.toml with --config)",
		big:                        ": is larger than 1 MiB (this is not a config.toml; name the right file with --config)",
		"/dev/zero":                ": is larger than 1 MiB (this is not a config.toml; name the right file with --config)",
	} {
		_, _, err := Load(path)
		if err == nil || err.Error() != path+want {
			t.Errorf("%s: %v", path, err)
		}
	}
	_, _, err := Load(filepath.Join(dir, "none"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not ErrNotExist", err)
	}
	if got := unreadable("f", &fs.PathError{Op: "open", Path: "f", Err: fs.ErrPermission}).Error(); got != "f: cannot be read: permission denied (run as root, or as the file's owner)" {
		t.Error(got)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"article.toml", "registered.toml", "full.toml"} {
		src, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src))
	}
	for _, c := range mistakes {
		f.Add(c.src)
	}
	f.Fuzz(func(t *testing.T, src string) {
		cfg, warnings, err := Parse("f", []byte(src), noEnv)
		if (cfg == nil) != (err != nil) {
			t.Fatalf("%+v, %v", cfg, err)
		}
		if err != nil && len(Problems(err)) == 0 {
			t.Fatalf("%T %v is no *Error", err, err)
		}
		last := strings.Count(src, "\n") + 1
		for _, e := range Problems(err) {
			if e.Line < 0 || e.Line > last || e.Msg == "" {
				t.Fatalf("%+v of %d lines", e, last)
			}
		}
		for _, w := range warnings {
			if w.Line < 1 || w.Line > last || w.Msg == "" || w.Key == "" {
				t.Fatalf("%+v of %d lines", w, last)
			}
		}
	})
}
