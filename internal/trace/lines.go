package trace

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// GitLab: the escape sequences of its runner's lines. Its log viewer takes them for colours.
const (
	reset          = "\x1b[0;m"
	clearLine      = "\x1b[0K"
	headlineColour = "\x1b[36;1m"
	noticeColour   = "\x1b[32;1m"
	warningColour  = "\x1b[0;33m"
	errorColour    = "\x1b[31;1m"
	limitColour    = "\x1b[33;1m"
)

// Printf writes a line of the runner.
func (t *Trace) Printf(format string, args ...any) {
	t.line(clearLine + fmt.Sprintf(format, args...))
}

// Noticef writes a line of the runner in green.
func (t *Trace) Noticef(format string, args ...any) {
	t.line(noticeColour + fmt.Sprintf(format, args...))
}

// Warnf writes a warning of the runner.
func (t *Trace) Warnf(format string, args ...any) {
	t.line(warning(fmt.Sprintf(format, args...)))
}

// Errorf writes an error of the runner.
func (t *Trace) Errorf(format string, args ...any) {
	t.line(errorColour + "ERROR: " + fmt.Sprintf(format, args...))
}

// Section writes a headline; all that is written until end is called belongs under it. The caller has then written
// all that the job printed in the section: what is held back is let go.
//
// GitLab: a section is what the log viewer folds. The two markers are invisible there, and left out for a server that
// does not know them.
func (t *Trace) Section(name, headline string) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	began := time.Now()
	t.mark("section_start", name, began)
	t.say(clearLine + headlineColour + headline + reset) // GitLab: reset twice
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.closed {
			return
		}
		t.endOutput()
		t.mark("section_end", name, began.Add(time.Since(began))) // the duration is true even if the clock was set meanwhile
	}
}

func (t *Trace) mark(what, name string, at time.Time) {
	if t.sections {
		t.put(fmt.Sprintf("%s:%d:%s\r%s", what, at.Unix(), name, clearLine))
	}
}

// endOutput ends what the job is printing.
func (t *Trace) endOutput() {
	for _, s := range t.printing() {
		s.end()
	}
	t.stored()
}

// limitReached is called when the job printed more than it may.
func (t *Trace) limitReached() {
	for _, s := range t.printing() {
		if s.lines != nil {
			s.lines.end()
		}
	}
	t.say(limitColour + t.limit.text())
}

// sayEnd writes how the job ended.
func (t *Trace) sayEnd(r job.Result) {
	t.endOutput()
	if t.timestamps {
		t.runner.lines.end() // GitLab: the last line continues no marker
	}
	for _, line := range ending(r) {
		t.say(line)
	}
}

// ending is the last lines of a log.
func ending(r job.Result) []string {
	if r.State == job.Success {
		return []string{noticeColour + "Job succeeded"}
	}
	text := "Job failed: "
	switch r.Reason {
	case job.SystemFailure, job.RunnerInterrupted:
		text = "Job failed (system failure): "
	}
	if r.Err != nil {
		text += r.Err.Error()
	} else {
		text += string(r.Reason)
	}
	lines := []string{errorColour + "ERROR: " + text}
	if r.Hint != "" {
		lines = append(lines, clearLine+"Hint: "+r.Hint)
	}
	return lines
}

func (t *Trace) line(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say(text)
}

func (t *Trace) say(text string) { t.put(strings.TrimSuffix(text, "\n") + reset + "\n") }

// put writes what the runner says. It is a whole, and goes on in one piece: the viewer knows a section's mark only when
// no entry ends within it.
func (t *Trace) put(text string) {
	if t.closed {
		return
	}
	t.runner.mask.writeLast([]byte(text))
	t.stored()
}

func warning(text string) string { return warningColour + "WARNING: " + text }

// cause is an error without the path that it happened to, which is nothing for the readers of a job's log.
func cause(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}
