package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"pgregory.net/rapid"

	"github.com/slipway-ci/slipway/internal/config"
)

// TestRunnerFlags: register has a flag for every key of a runner that has an effect, but for those that the server
// gives, and for tables of switches and our own.
func TestRunnerFlags(t *testing.T) {
	t.Parallel()
	fs := pflag.NewFlagSet("register", pflag.ContinueOnError)
	runnerFlags(fs, &config.Runner{Docker: &config.Docker{}})
	var without []string
	for _, key := range config.Implemented() {
		if strings.HasPrefix(key, "runners.") && fs.Lookup(strings.TrimPrefix(flagFor(key), "--")) == nil {
			without = append(without, key)
		}
	}
	want := []string{
		"runners.id", "runners.token_obtained_at", "runners.token_expires_at",
		"runners.experimental.boot_verify.enabled", "runners.experimental.boot_verify.timeout", "runners.experimental.boot_verify.acquire_min_backoff", "runners.experimental.boot_verify.acquire_max_backoff",
		"runners.docker.services_devices", "runners.docker.services.name", "runners.docker.services.alias", "runners.docker.services.command", "runners.docker.services.entrypoint", "runners.docker.services.environment",
		"runners.slipway.socket", "runners.slipway.socket_policy", "runners.slipway.trust_config", "runners.slipway.cache_scope", "runners.slipway.dind", "runners.slipway.dind_images", "runners.slipway.build_secrets", "runners.slipway.allowed_projects", "runners.slipway.protected_only", "runners.slipway.git_dir",
		"runners.slipway.allowed_registries", "runners.slipway.limits.containers", "runners.slipway.limits.networks",
		"runners.slipway.limits.volumes", "runners.slipway.limits.execs", "runners.slipway.limits.builds", "runners.slipway.limits.memory",
		"runners.slipway.limits.cpus", "runners.slipway.limits.pids", "runners.slipway.limits.shm_size", "runners.slipway.limits.tmpfs",
	}
	if diff := cmp.Diff(want, without); diff != "" {
		t.Errorf("keys without a flag (-want +got)\n%s", diff)
	}
	variables := map[string]string{}
	fs.VisitAll(func(f *pflag.Flag) {
		name := f.Annotations[envKey][0]
		if other, twice := variables[name]; twice {
			t.Errorf("$%s stands for --%s and --%s", name, other, f.Name)
		}
		variables[name] = f.Name
	})
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"config", "log-level", "name", "docker-image"}
	for typed, want := range map[string]string{
		"conifg": "config", "nmae": "name", "docker-imgae": "docker-image", "loglevel": "log-level", "name": "name",
		"volumes": "", "x": "", "": "",
	} {
		if got := nearest(typed, words); got != want {
			t.Errorf("nearest(%q) = %q, want %q", typed, got, want)
		}
	}
	if got := nearest("a", nil); got != "" {
		t.Errorf("nearest of none = %q", got)
	}
}

// TestDistance: what any distance must satisfy, and what each kind of slip costs.
func TestDistance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 6, -1)
		a, b, c := word.Draw(t, "a"), word.Draw(t, "b"), word.Draw(t, "c")
		ab, ba := distance(a, b), distance(b, a)
		if ab != ba || (ab == 0) != (a == b) || ab > distance(a, c)+distance(c, b) {
			t.Fatalf("distance(%q, %q) = %d, back %d", a, b, ab, ba)
		}
		i := rapid.IntRange(0, len(a)).Draw(t, "i")
		if d := distance(a, a[:i]+"x"+a[i:]); d != 1 {
			t.Fatalf("a letter more costs %d", d)
		}
	})
}
