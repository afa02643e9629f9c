package trace

import "fmt"

// DefaultLimit is how much job output is kept when Options.Limit is 0, in bytes.
//
// GitLab: output_limit, 4096 KiB.
const DefaultLimit = 4 << 20

// limit is the budget that the streams of a job share. What the runner itself says does not count, so that the log
// always ends with how the job did.
type limit struct {
	max, used int64  // bytes
	full      bool   // nothing more is taken
	notice    func() // says so, once
}

// write passes p on as far as the budget goes.
func (l *limit) write(p []byte, next sink) {
	if l.full {
		return
	}
	if room := l.max - l.used; int64(len(p)) > room {
		next(p[:room])
		l.used, l.full = l.max, true
		l.notice()
		return
	}
	l.used += int64(len(p))
	next(p)
}

// text is the notice in GitLab's words.
func (l *limit) text() string {
	return fmt.Sprintf("Job's log exceeded limit of %d bytes.\n"+
		"Job execution will continue but no more output will be collected.", l.max)
}
