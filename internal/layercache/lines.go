package layercache

import (
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// Lines tell a job's author of a build, in the order in which they are to be read. name is the image's, "" = it has none.
// There are none for a build that has no steps.
func (r Report) Lines(name string) []string {
	if r.Total == 0 {
		return nil
	}
	what := "the build"
	if name != "" {
		what = "the build of " + name
	}
	first := fmt.Sprintf("%s: %d of %d steps cached", what, r.Cached, r.Total)
	if r.SavedTime >= shownTime {
		first += fmt.Sprintf(", which saved about %s", duration(r.SavedTime))
	}
	switch {
	case r.Cached == r.Total:
	case r.Since == 0:
		first += "; it is the first one here"
	default:
		first += fmt.Sprintf("; the last one here was %s ago", strings.ToLower(units.HumanDuration(r.Since)))
	}
	out := []string{first}
	for _, m := range r.Misses {
		out = append(out, fmt.Sprintf("not cached: line %d, %s: %s", m.Line, m.Text, m.Why))
	}
	return out
}

// shownTime is the least that is worth telling.
const shownTime = 100 * time.Millisecond

func duration(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
