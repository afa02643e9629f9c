package guard

import (
	"sync/atomic"
	"testing"
)

// TestBuildsAreCounted: each instruction once, whatever the client: done, or found in the cache.
func TestBuildsAreCounted(t *testing.T) {
	t.Parallel()
	var done, cached atomic.Int64
	r := newRig(t, func(o *Options) {
		o.Built = func(again bool) {
			if again {
				cached.Add(1)
			} else {
				done.Add(1)
			}
		}
	})
	taken := func(client string, wantDone, wantCached int64) {
		t.Helper()
		if d, c := done.Swap(0), cached.Swap(0); d != wantDone || c != wantCached {
			t.Errorf("%s: %d done and %d cached, want %d and %d", client, d, c, wantDone, wantCached)
		}
	}
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nARG WHO\nRUN echo "+r.policy.Token+"\nWORKDIR /x\nCOPY f .\n", "f", "f")
	r.docker("build", dir)
	taken("docker build", 3, 0)
	r.docker("build", dir)
	taken("docker build again", 0, 3)
	r.buildx(dir, "build", ".")
	taken("buildx", 0, 3)
	if _, err := r.try("build", folder(t, "Dockerfile", "FROM "+alpine+"\nRUN echo a "+r.policy.Token+"\nRUN false\n")); err == nil {
		t.Error("it did not fail")
	}
	taken("a build that fails", 1, 0)
}
