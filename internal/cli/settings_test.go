package cli

import (
	stdcmp "cmp"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/executor"
	"github.com/slipway-ci/slipway/internal/gitlab"
	"github.com/slipway-ci/slipway/internal/state"
)

// decided is all that is made of a [[runners]] for its jobs and for GitLab, but for functions.
type decided struct {
	Settings executor.Settings
	Guard    executor.GuardSettings
	Client   gitlab.Options
	Engine   docker.Options
	Flag     bool // one that is off by default
}

func decide(c connector, r *config.Runner) decided {
	d := decided{
		Settings: c.executorSettings(r, &state.Folder{}, "/run/docker.sock", false), Guard: guardSettings(r, "", nil, docker.Machine{}),
		Client: c.options(r), Engine: engineOptions(r.Docker),
	}
	d.Flag = d.Settings.FeatureFlag("FF_SCRIPT_SECTIONS", "", false)
	d.Settings.FeatureFlag, d.Settings.FlagByDefault = nil, nil
	return d
}

// TestEveryKeyReachesItsPlace: whatever key of [[runners]] is set, something is different for the jobs, the Engine or GitLab. What is
// different is for the tests of the keys.
func TestEveryKeyReachesItsPlace(t *testing.T) {
	t.Parallel()
	// Read by the runner package itself, or of the runner in the file only.
	elsewhere := []string{
		"limit", "request_concurrency", "strict_check_interval", "unhealthy_requests_limit", "unhealthy_interval", "token_obtained_at", "token_expires_at",
	}
	c := connector{certs: t.TempDir()}
	fresh := func() (*config.Runner, []runnerTable) {
		r := &config.Runner{Docker: &config.Docker{}, Cache: config.RunnerCache{Type: config.CacheOnS3}}
		return r, append(runnerTables(r), runnerTable{prefix: "slipway.", v: reflect.ValueOf(&r.Slipway).Elem()}, runnerTable{prefix: "slipway.limits.", v: reflect.ValueOf(&r.Slipway.Limits).Elem()})
	}
	r, tables := fresh()
	base, tried := decide(c, r), 0
	for n, table := range tables {
		for i := range table.v.NumField() {
			key := table.prefix + table.keyAt(i)
			if key == table.prefix+"-" || slices.Contains(elsewhere, key) {
				continue
			}
			same := true
			for _, value := range samples(table.keyAt(i), table.v.Field(i).Type()) {
				r, tables := fresh()
				tables[n].v.Field(i).Set(reflect.ValueOf(value).Convert(table.v.Field(i).Type()))
				same = same && cmp.Equal(base, decide(c, r), cmp.Exporter(func(reflect.Type) bool { return true }))
				tried++
			}
			if same && table.v.Field(i).Kind() != reflect.Struct && key != "docker" {
				t.Errorf("%s makes no difference", key)
			}
		}
	}
	if tried < 100 {
		t.Errorf("%d keys were tried", tried)
	}
}

// samples are values that a key has in no default. A table has none.
func samples(key string, t reflect.Type) []any {
	seven, yes, no := 7, true, false
	switch t.Kind() {
	case reflect.String:
		return []any{stdcmp.Or(map[string]string{"git_dir": config.GitDirOutside, "socket_policy": config.PolicyAudit, "AuthenticationType": config.AuthIAM}[key], "x")}
	case reflect.Bool:
		return []any{true}
	case reflect.Int, reflect.Int64:
		return []any{7}
	case reflect.Pointer:
		switch t.Elem().Kind() {
		case reflect.Int:
			return []any{&seven}
		case reflect.Bool:
			return []any{&yes, &no}
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return []any{[]string{"x"}}
		}
		return []any{[]config.Service{{Name: "x"}}}
	case reflect.Map:
		switch t.Elem().Kind() {
		case reflect.Bool:
			return []any{map[string]bool{"FF_SCRIPT_SECTIONS": true}}
		case reflect.String:
			return []any{map[string]string{"x": "y"}}
		}
		return []any{map[string][]string{"x": {"y"}}}
	}
	return nil
}

// TestClientOptions: what GitLab's client gets beside what jobs get of the same keys.
func TestClientOptions(t *testing.T) {
	t.Parallel()
	r := &config.Runner{Executor: "docker", TLSCAFile: "ca", TLSCertFile: "cert", TLSKeyFile: "key", Docker: &config.Docker{GPUs: "all"}}
	o := connector{certs: "certs", cfg: &config.Config{ConnectionMaxAge: time.Minute}}.options(r)
	if want := (gitlab.TLS{CAFile: "ca", CertFile: "cert", KeyFile: "key"}); o.TLS != want || o.CertsDir != "certs" || o.GPUs != "all" || o.ConnectionMaxAge != time.Minute || o.Features != gitlab.DockerFeatures() {
		t.Errorf("%+v", o)
	}
	r.Executor = config.ShellExecutor
	features := gitlab.ShellFeatures()
	features.Session, features.Terminal = true, true
	if o := (connector{terminals: true}).options(r); o.Features != features || o.Shell != "bash" {
		t.Errorf("%+v", o)
	}
	r.Executor, r.Shell = "docker", "sh"
	if o := (connector{terminals: true}).options(r); !o.Features.Session || !o.Features.Terminal || o.Shell != "sh" {
		t.Errorf("%+v", o)
	}
}

// TestServiceSettings: what a key for services stands for that is not a key of the Engine's, too.
func TestServiceSettings(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for _, c := range []struct {
		docker     config.Docker
		privileged bool
		wait       time.Duration
	}{
		{config.Docker{WaitForServicesTimeout: 30}, false, 30 * time.Second},
		{config.Docker{WaitForServicesTimeout: -1}, false, 0},
		{config.Docker{Privileged: true}, true, 0},
		{config.Docker{Privileged: true, ServicesPrivileged: &no}, false, 0},
		{config.Docker{ServicesPrivileged: &yes}, true, 0},
	} {
		s := serviceSettings(&c.docker)
		if s.Container.Security.Privileged != c.privileged || s.Wait != c.wait {
			t.Errorf("%+v: privileged %t, wait %s", c.docker, s.Container.Security.Privileged, s.Wait)
		}
	}
}
