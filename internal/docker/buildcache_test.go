package docker

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/build"
)

// TestToGo: what was not used for the longest time goes first, but nothing before what was made from it.
func TestToGo(t *testing.T) {
	t.Parallel()
	at := func(hour int) *time.Time { when := time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC); return &when }
	records := []build.CacheRecord{
		{ID: "base", Size: 100, LastUsedAt: at(1)},
		{ID: "step", Parents: []string{"base"}, Size: 10, LastUsedAt: at(5)},
		{ID: "last", Parents: []string{"step"}, Size: 10, LastUsedAt: at(5)},
		{ID: "alone", Size: 20, LastUsedAt: at(3)},
		{ID: "building", Size: 40, LastUsedAt: at(2), InUse: true},
		{ID: "never used", Size: 5, CreatedAt: *at(4)},
	}
	for need, want := range map[int64]string{
		-1: "", 0: "", 1: "alone", 20: "alone", 21: "alone, never used", 26: "alone, never used, last",
		46: "alone, never used, last, step, base", 1000: "alone, never used, last, step, base",
	} {
		if got := strings.Join(toGo(records, need), ", "); got != want {
			t.Errorf("%d bytes: %s, not %s", need, got, want)
		}
	}
	if got := toGo(nil, 1); got != nil {
		t.Errorf("of nothing: %s", got)
	}
}
