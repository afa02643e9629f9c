package cli

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/guard"
	"github.com/slipway-ci/slipway/internal/state"
)

// TestNestedMounts: what lies in a place that the job may write to is not shared by a path of its own.
func TestNestedMounts(t *testing.T) {
	t.Parallel()
	o := guardOptions{dir: "/srv/builds/5", log: slog.New(slog.DiscardHandler)}
	outer := guard.Mount{Destination: "/builds", Source: "/srv/builds"}
	fixed := guard.Mount{Destination: "/builds", Source: "/srv/builds", ReadOnly: true}
	beside := guard.Mount{Destination: "/b", Source: "/srv/builds2"}
	same := guard.Mount{Destination: "/builds/5", Source: "/srv/builds/5"}
	other := guard.Mount{Destination: "/sub", Source: "/srv/builds/sub"}
	for name, c := range map[string]struct {
		mounts, want []guard.Mount
		fails        bool
	}{
		"side by side":         {[]guard.Mount{outer, beside}, []guard.Mount{outer, beside}, false},
		"seen at the same":     {[]guard.Mount{same, outer}, []guard.Mount{outer}, false},
		"seen elsewhere":       {[]guard.Mount{outer, other}, []guard.Mount{outer}, false},
		"read-only outside":    {[]guard.Mount{fixed, other}, []guard.Mount{fixed, other}, false},
		"workspace, elsewhere": {[]guard.Mount{{Destination: "/w", Source: o.dir}, outer}, nil, true},
	} {
		got, err := o.withoutNested(c.mounts)
		if diff := cmp.Diff(c.want, got); diff != "" || (err != nil) != c.fails {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

// TestDeadPlaces: the folder of a guard that was killed is all that tells whose the leftovers on its Engine are.
func TestDeadPlaces(t *testing.T) {
	t.Parallel()
	all := t.TempDir()
	make := func(name, engine string) *state.Folder {
		f, err := state.Open(filepath.Join(all, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.Path, engineFile), []byte(engine), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	defer make("alive", "here").Close()
	make("dead", "here").Close()
	make("elsewhere", "there").Close()
	got, err := deadPlaces(all, "here")
	if diff := cmp.Diff([]string{filepath.Join(all, "dead")}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}
