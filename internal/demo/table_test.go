package demo

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/buildlog"
)

func TestTable(t *testing.T) {
	t.Parallel()
	steps := func(cached bool) buildlog.Build {
		return buildlog.Build{Steps: []buildlog.Step{{Cached: cached}, {Cached: cached}}}
	}
	r := result{
		first:  run{12900 * time.Millisecond, steps(false)},
		second: run{1200 * time.Millisecond, steps(true)},
		plain:  run{150 * time.Millisecond, steps(true)},
	}
	want := `  first run              12.90 s   0 of 2 steps cached
  second run              1.20 s   2 of 2 steps cached, 10.8 times as fast as the first
  plain docker build      0.15 s   2 of 2 steps cached, without a runner
  overhead                1.05 s   second run minus plain build; the run takes 8.0 times the build
`
	if diff := cmp.Diff(want, r.table()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
