package coordinator

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// patchTrace takes a piece of the log, which must begin where the log so far ends.
//
// GitLab: only the start of Content-Range counts; old runners named an end that was off by one.
func (c *Coordinator) patchTrace(x *exchange) reply {
	return c.asJob(x, x.r.Header.Get("Job-Token"), func(j *Job) reply {
		from, _, _ := strings.Cut(x.r.Header.Get("Content-Range"), "-")
		start, err := strconv.Atoi(from)
		if err != nil || start < 0 {
			return message(http.StatusBadRequest, "Missing header Content-Range").with(j.header())
		}
		status := http.StatusAccepted
		if start == len(j.trace) {
			if len(x.body) > 0 {
				j.trace = append(j.trace, x.body...)
				if j.times.FirstByte.IsZero() {
					j.times.FirstByte = time.Now()
				}
				j.notify()
			}
		} else {
			status = http.StatusRequestedRangeNotSatisfiable
		}
		rep := text(status, j.traceRange())
		if status != http.StatusAccepted {
			rep = message(status, "")
		}
		return rep.with(j.header()).with(map[string]string{"Range": j.traceRange()})
	})
}

// traceRange says how much of the log is here: 0-<size>.
func (j *Job) traceRange() string { return "0-" + strconv.Itoa(len(j.trace)) }

// resetTrace throws the log away; the runner is to send it again from its first byte.
func (j *Job) resetTrace() {
	j.trace = nil
	j.notify()
}
