package config

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Bytes{
		"": 0, "0": 0, "1": 1, "128m": 128 << 20, "128M": 128 << 20, "1gb": 1 << 30, "2GiB": 2 << 30, "1.5k": 1536, "-1": -1, "7b": 7,
	} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q: %d, %v", text, b, err)
		}
	}
	for _, text := range []string{"x", "-2", "1x", "m", "1 m b", "0x10"} {
		if err := new(Bytes).UnmarshalText([]byte(text)); err == nil || !strings.HasSuffix(err.Error(), "is not a size") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for b, want := range map[Bytes]string{0: "0", -1: "-1", 1: "1", 1024: "1k", 1536: "1536", 128 << 20: "128m", 3 << 40: "3072g"} {
		if got, _ := b.MarshalText(); string(got) != want {
			t.Errorf("%d: %s", b, got)
		}
	}
}

func TestMinFree(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	for text, want := range map[string]uint64{"0": 0, "0%": 0, "10GB": 10 * gib, "300g": 300 * gib, "5%": 10 * gib, "2.5 %": 5 * gib} {
		var m MinFree
		if err := m.UnmarshalText([]byte(text)); err != nil || m.Of(200*gib) != want || m.Off() != (want == 0) {
			t.Errorf("%q: %d, %v", text, m.Of(200*gib), err)
		}
		written, _ := m.MarshalText()
		var again MinFree
		if err := again.UnmarshalText(written); err != nil || again != m {
			t.Errorf("%q became %q", text, written)
		}
	}
	for size, want := range map[uint64]uint64{100 * gib: 5 * gib, 200 * gib: 10 * gib, 4000 * gib: 10 * gib, 0: 0} {
		if got := (*MinFree)(nil).Of(size); got != want {
			t.Errorf("of a disk of %d bytes: %d", size, got)
		}
	}
	for _, text := range []string{"", "-1", "x", "%", "100%", "-1%", "NaN%", "1e400%", "5%%"} {
		if err := new(MinFree).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestNanoCPUs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]NanoCPUs{
		"": 0, "2": 2e9, "1.5": 15e8, ".5": 5e8, "0.1": 1e8, "0.000000001": 1, "1/4": 25e7, "1e1": 1e10,
	} {
		var c NanoCPUs
		if err := c.UnmarshalText([]byte(text)); err != nil || c != want {
			t.Errorf("%q: %d, %v", text, c, err)
		}
	}
	for text, want := range map[string]string{
		"many": `"many" is not a number of CPUs`, "-1": `"-1" is not a number of CPUs`,
		"1/3": `"1/3" CPUs are too precise or too many`, "1e30": `"1e30" CPUs are too precise or too many`,
	} {
		if err := new(NanoCPUs).UnmarshalText([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestValuesAsText(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(-1, 1<<52).Draw(t, "n")
		var b Bytes
		if text, _ := Bytes(n).MarshalText(); b.UnmarshalText(text) != nil || b != Bytes(n) {
			t.Fatalf("%d bytes became %s and %d", n, text, b)
		}
		var c NanoCPUs
		if text, _ := NanoCPUs(max(n, 0)).MarshalText(); c.UnmarshalText(text) != nil || c != NanoCPUs(max(n, 0)) {
			t.Fatalf("%d CPUs became %s and %d", n, text, c)
		}
	})
}

func TestParseUlimit(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]int64{"5": {5, 5}, "5:6": {5, 6}, "-1": {-1, -1}} {
		if soft, hard, err := ParseUlimit(text); err != nil || soft != want[0] || hard != want[1] {
			t.Errorf("%q: %d, %d, %v", text, soft, hard, err)
		}
	}
	for _, text := range []string{"", "x", "1:", "1:2:3"} {
		if _, _, err := ParseUlimit(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	t.Parallel()
	s := Secret("glrt-secret")
	r := Runner{Token: s, Docker: &Docker{}}
	var log, js strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", s, "runner", r, "pointer", &r)
	slog.New(slog.NewJSONHandler(&js, nil)).Info("x", "token", s, "runner", r, "pointer", &r)
	for _, out := range []string{fmt.Sprintf("%v %+v %#v %s %q", r, r, r, s, s), fmt.Sprint(s, &r), log.String(), js.String()} {
		if strings.Contains(out, "secret") || !strings.Contains(out, "[MASKED]") {
			t.Error(out)
		}
	}
	if s.Reveal() != "glrt-secret" {
		t.Error(s.Reveal())
	}
}

func TestFeatureFlag(t *testing.T) {
	t.Parallel()
	r := &Runner{FeatureFlags: map[string]bool{"FF_TIMESTAMPS": false, "FF_X": true}}
	for _, c := range []struct {
		name, value string
		set, want   bool
	}{
		{"FF_TIMESTAMPS", "", false, false},
		{"FF_TIMESTAMPS", "true", true, false},
		{"FF_X", "false", true, true},
		{"FF_MASK_ALL_DEFAULT_TOKENS", "", false, true},
		{"FF_MASK_ALL_DEFAULT_TOKENS", "false", true, false},
		{"FF_MASK_ALL_DEFAULT_TOKENS", "", true, true},
		{"FF_MASK_ALL_DEFAULT_TOKENS", "maybe", true, true},
		{"FF_USE_ADAPTIVE_REQUEST_CONCURRENCY", "", false, true},
		{"FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", "", false, false},
		{"FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", "1", true, true},
		{"FF_NOBODY_KNOWS", "", false, false},
		{"FF_NOBODY_KNOWS", "maybe", true, false},
		{"FF_NOBODY_KNOWS", "t", true, true},
	} {
		if got := r.FeatureFlag(c.name, c.value, c.set); got != c.want {
			t.Errorf("%s with %q (%v) is %v", c.name, c.value, c.set, got)
		}
	}
	if !new(Runner).FeatureFlag("FF_TIMESTAMPS", "", false) {
		t.Error("FF_TIMESTAMPS is off by default")
	}
}

// A key is either a field or in the table, once, and each table entry says why.
func TestKeysAreOneOrTheOther(t *testing.T) {
	t.Parallel()
	all := Implemented()
	for _, s := range Unimplemented() {
		all = append(all, s.Key)
		if s.Why == "" {
			t.Errorf("%+v", s)
		}
	}
	slices.Sort(all)
	for i := 1; i < len(all); i++ {
		if all[i] == all[i-1] || strings.HasPrefix(all[i], all[i-1]+".") && all[i-1] != "runners.feature_flags" {
			t.Errorf("%s and %s", all[i-1], all[i])
		}
	}
	for _, key := range []string{"concurrent", "slipway.state_dir", "runners.tls-ca-file", "runners.docker.ulimit", "runners.slipway.socket"} {
		if !slices.Contains(Implemented(), key) {
			t.Errorf("%s is missing", key)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, want string }{
		{"voulmes", "volumes"},
		{"Volume", "volumes"},
		{"imgae", "image"},
		{"img", ""},
		{"privileged_", "privileged"},
		{"x", ""},
		{strings.Repeat("volumes", 10), ""},
	} {
		got, ok := nearest(c.key, []string{"volumes", "image", "privileged", "memory"})
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q", c.key, got)
		}
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	_, _, err := Parse("f", []byte("concurrent = 0\nlog_level = \"x\"\n"), noEnv)
	wrapped := fmt.Errorf("reload: %w", err)
	var got []string
	for _, e := range Problems(wrapped) {
		got = append(got, e.Position.String()+" | "+e.Key+" | "+e.Msg+" | "+e.Hint)
	}
	if diff := cmp.Diff([]string{
		"f:1 | concurrent | 0 would let no job run | write concurrent = 1 or more",
		`f:2 | log_level | "x" is not known | write trace, debug, info, warn, warning, error, fatal or panic`,
	}, got); diff != "" {
		t.Error(diff)
	}
	if Problems(nil) != nil || Problems(fmt.Errorf("other")) != nil {
		t.Error("problems of nothing")
	}
}
