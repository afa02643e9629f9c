package job

import (
	"errors"
	"time"
)

// Update is what the runner tells the server about a job (PUT /jobs/:id).
type Update struct {
	State    State
	Reason   Reason // of a failure
	ExitCode int    // 0 is not sent
	Checksum string // "crc32:" and eight hex digits over the whole log as sent; empty before the first byte
	ByteSize int64  // length of that log
}

// Verdict is what the server made of an update or of a piece of the log.
type Verdict int

// The verdicts, with the HTTP statuses they stand for.
const (
	// Accepted: 200 for an update, 202 for a piece of the log.
	Accepted Verdict = iota
	// NotReady: 202 for an update; wait Ack.Interval and send it again.
	NotReady
	// Resend: 412 for an update; the log on the server is not ours, send all of it again.
	Resend
	// OutOfRange: 416 for a piece of the log; go on from Ack.Offset.
	OutOfRange
	// NotFound: 404.
	NotFound
	// Forbidden: 403; the job is no longer ours.
	Forbidden
)

// Standing is the server's Job-Status: whether the job shall go on.
type Standing int

// The standings of a job.
const (
	// Wanted: go on.
	Wanted Standing = iota
	// Canceling: stop the script, run after_script, then finish.
	Canceling
	// Aborted: stop everything now (Job-Status canceled or failed, or HTTP 403).
	Aborted
)

// Ack is the server's answer to an update or to a piece of the log.
type Ack struct {
	Verdict  Verdict
	Standing Standing
	Interval time.Duration // X-GitLab-Trace-Update-Interval, 0 = not said
	Offset   int64         // bytes of the log that the server has; with a piece of the log only
}

// What the server can answer to a request for a job, besides a job and none.
var (
	// ErrForbidden: the runner's token is not accepted (403).
	ErrForbidden = errors.New("the server does not accept the token")
	// ErrConflict: another request took the job (409).
	ErrConflict = errors.New("the job was taken by another request")
	// ErrPushback: the server asks for fewer requests (408, 429, 5xx after all retries).
	ErrPushback = errors.New("the server is overloaded or unavailable")
)

// Upload says what one file of artifacts is, as the server is told.
type Upload struct {
	Filename string
	Type     string // artifact_type, as in archive or junit; may be empty
	Format   string // zip, gzip or raw
	ExpireIn string // as the job wrote it, may be empty
}
