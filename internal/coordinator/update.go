package coordinator

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"net/http"
	"slices"
	"strconv"

	"github.com/slipway-ci/slipway/internal/job"
)

// header is what GitLab tells a runner with every answer about its job.
func (j *Job) header() map[string]string {
	return map[string]string{
		"Job-Status":                     string(j.state),
		"X-GitLab-Trace-Update-Interval": strconv.Itoa(max(1, int(j.c.opts.UpdateInterval.Seconds()))),
	}
}

// asJob checks that the call is about a job that a runner has, with that job's token, and runs f under the lock.
func (c *Coordinator) asJob(x *exchange, token string, f func(*Job) reply) reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch j := x.job; {
	case j == nil:
		return message(http.StatusNotFound, "")
	case !sameToken(j.spec.Token, token):
		return message(http.StatusForbidden, "")
	case !j.active():
		return message(http.StatusForbidden, "Job is not processing on runner").with(j.header())
	default:
		return f(j)
	}
}

// updateJob takes a sign of life or the result of a job.
func (c *Coordinator) updateJob(x *exchange) reply {
	body, err := x.parseUpdate()
	if err != nil {
		return message(http.StatusBadRequest, "the body is not JSON")
	}
	return c.asJob(x, body.Token, func(j *Job) reply {
		if body.Info.Features != nil {
			j.features = body.Info.Features
		}
		switch body.State {
		case job.Running:
			if j.times.Running.IsZero() {
				j.times.Running = x.rec.At
				j.notify()
			}
			return text(http.StatusOK, "200").with(j.header())
		case job.Success, job.Failed:
			return j.final(body)
		}
		return message(http.StatusBadRequest, "there is no state "+strconv.Quote(string(body.State))).with(j.header())
	})
}

// final takes the result of a job, unless the log that came with it is not the one that the runner sent.
func (j *Job) final(body updateBody) reply {
	if !j.traceMatches(body) {
		j.resetTrace()
		return message(http.StatusPreconditionFailed, "").with(j.header())
	}
	reason := body.FailureReason
	switch {
	case body.State == job.Success:
		reason = ""
	case !slices.Contains(j.spec.Features.FailureReasons, reason):
		reason = job.UnknownFailure
	}
	state := body.State
	if j.state == Canceling {
		state, reason = Canceled, ""
	}
	j.finish(state, reason, body.ExitCode)
	return text(http.StatusOK, "200").with(j.header())
}

// traceMatches compares the log with what the runner says of it. Only a runner that declared to send checksums and sizes
// is held to them.
func (j *Job) traceMatches(body updateBody) bool {
	sum := fmt.Sprintf("crc32:%08x", crc32.ChecksumIEEE(j.trace))
	if j.features["trace_checksum"] && cmp.Or(body.Output.Checksum, sum) != sum {
		return false
	}
	return !j.features["trace_size"] || body.Output.Checksum == "" || body.Output.ByteSize == int64(len(j.trace))
}
