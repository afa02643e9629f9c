package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/buildlog"
)

// run is one of the two runs of the pipeline, or the plain build.
type run struct {
	took  time.Duration // of a job, from hand-out to final status
	build buildlog.Build
}

// result is what the demo has measured.
type result struct {
	first, second run
	plain         run // the same build without a runner, warm
}

// table says it in five lines.
func (r result) table() string {
	var b strings.Builder
	row := func(name string, d time.Duration, note string) {
		fmt.Fprintf(&b, "  %-19s %8.2f s   %s\n", name, d.Seconds(), note)
	}
	cached := func(r run) string {
		return fmt.Sprintf("%d of %d steps cached", r.build.Cached(), r.build.Total())
	}
	row("first run", r.first.took, cached(r.first))
	row("second run", r.second.took, cached(r.second)+ratio(r.first.took, r.second.took, ", %.1f times as fast as the first"))
	row("plain docker build", r.plain.took, cached(r.plain)+", without a runner")
	row("overhead", r.second.took-r.plain.took, "second run minus plain build"+
		ratio(r.second.took, r.plain.took, "; the run takes %.1f times the build"))
	return b.String()
}

// ratio is empty where it would mean nothing.
func ratio(a, b time.Duration, format string) string {
	if a <= 0 || b <= 0 {
		return ""
	}
	return fmt.Sprintf(format, float64(a)/float64(b))
}
