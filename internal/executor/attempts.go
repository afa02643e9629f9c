package executor

import (
	"context"
	"strconv"
	"time"
)

// How often a stage may be tried, and how long to wait in between.
//
// GitLab: the variables are clamped to 1..10; without FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY there is no pause.
const (
	maxAttempts = 10
	firstPause  = 5 * time.Second
	lastPause   = 5 * time.Minute
)

// attempt does something as often as the job's variable of that name allows. again is told of a failure before another try, and
// says whether there shall be one; pause is 0 for at once. The error of the last try is returned, or why ctx ended.
func (e *Executor) attempt(ctx context.Context, p *plan, variable string, do func() error, again func(err error, pause time.Duration) bool) error {
	attempts := p.attempts(variable)
	pauses := e.Settings.flag("FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", p.vars)
	for try, pause := 1, firstPause; ; try, pause = try+1, min(2*pause, lastPause) {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !pauses {
			pause = 0
		}
		if try == attempts || !again(err, pause) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// attempts reads a variable that says how often something is tried.
func (p *plan) attempts(variable string) int {
	n, _ := strconv.Atoi(p.vars.Get(variable))
	return min(max(n, 1), maxAttempts)
}
