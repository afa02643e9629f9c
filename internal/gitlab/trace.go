package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// maxInterval is the longest update interval that a server can ask for.
const maxInterval = 15 * time.Minute

// Job reports on one job. It is safe for concurrent use.
type Job struct {
	client *Client
	id     int64
	token  job.Secret
}

// Job returns the reporter of a job that RequestJob returned, now or before a restart.
func (c *Client) Job(id int64, token job.Secret) *Job { return &Job{client: c, id: id, token: token} }

type updateRequest struct {
	Info     info       `json:"info"`
	Token    string     `json:"token"`
	State    job.State  `json:"state"`
	Reason   job.Reason `json:"failure_reason,omitempty"`
	Checksum string     `json:"checksum,omitempty"` // GitLab: where old servers look for it
	Output   output     `json:"output"`
	ExitCode int        `json:"exit_code,omitempty"`
}

type output struct {
	Checksum string `json:"checksum,omitempty"`
	ByteSize int64  `json:"bytesize,omitempty"`
}

// Update tells the server the job's state. For a job that runs it is also the sign of life and the question whether
// it shall go on. An error means that the server could not or did not say anything about the job.
func (j *Job) Update(ctx context.Context, u job.Update) (job.Ack, error) {
	ack, err := j.update(ctx, u)
	if err != nil {
		return job.Ack{}, fmt.Errorf("update job %d: %w", j.id, err)
	}
	return ack, nil
}

func (j *Job) update(ctx context.Context, u job.Update) (job.Ack, error) {
	req := updateRequest{
		Info: j.client.info, Token: j.token.Reveal(), State: u.State, Checksum: u.Checksum,
		Output: output{Checksum: u.Checksum, ByteSize: u.ByteSize}, ExitCode: u.ExitCode,
	}
	if u.State == job.Failed {
		req.Reason = u.Reason
	}
	r, err := newCall(http.MethodPut, fmt.Sprintf("jobs/%d", j.id), jobToken, j.token, req)
	if err != nil {
		return job.Ack{}, err
	}
	got, err := j.client.do(ctx, r)
	if err != nil {
		return job.Ack{}, err
	}
	ack := got.ack()
	if got.header.Get("Job-Status") == string(u.State) {
		ack.Standing = job.Wanted // "failed" in answer to "failed" is our own word, not an order
	}
	switch got.status {
	case http.StatusOK:
		ack.Verdict = job.Accepted
	case http.StatusAccepted:
		ack.Verdict = job.NotReady
	case http.StatusPreconditionFailed:
		ack.Verdict = job.Resend
	case http.StatusNotFound:
		ack.Verdict, ack.Standing = job.NotFound, job.Aborted
	case http.StatusForbidden:
		ack.Verdict, ack.Standing = job.Forbidden, job.Aborted
	default:
		return job.Ack{}, got.statusError()
	}
	return ack, nil
}

// PatchTrace sends the piece of the job log that begins at byte start; it must not be empty. debug says that the log
// may hold secrets, so that GitLab shows it to fewer people.
//
// Ack.Offset is how much of the log the server now has. A 404 is no order to stop: the job may be there again for the
// next call. An error means that nobody knows whether the server has the piece.
func (j *Job) PatchTrace(ctx context.Context, start int64, chunk []byte, debug bool) (job.Ack, error) {
	ack, err := j.patchTrace(ctx, start, chunk, debug)
	if err != nil {
		return job.Ack{}, fmt.Errorf("send the log of job %d: %w", j.id, err)
	}
	return ack, nil
}

func (j *Job) patchTrace(ctx context.Context, start int64, chunk []byte, debug bool) (job.Ack, error) {
	if len(chunk) == 0 {
		return job.Ack{}, errors.New("there is nothing to send")
	}
	end := start + int64(len(chunk))
	h := http.Header{}
	h.Set(jobToken, j.token.Reveal())
	h.Set("Content-Type", "text/plain")
	// GitLab: neither a unit nor a total, unlike HTTP's own Content-Range; the end is inclusive.
	h.Set("Content-Range", fmt.Sprintf("%d-%d", start, end-1))
	got, err := j.client.do(ctx, call{
		method: http.MethodPatch, path: fmt.Sprintf("jobs/%d/trace", j.id),
		query: url.Values{"debug_trace": {strconv.FormatBool(debug)}}, header: h, body: chunk, secret: j.token,
	})
	if err != nil {
		return job.Ack{}, err
	}
	ack := got.ack()
	switch got.status {
	case http.StatusAccepted:
		ack.Verdict = job.Accepted
		size, ok := got.size()
		if !ok {
			size = end // a server that does not say how much it has took what it was given
		}
		ack.Offset = size
	case http.StatusRequestedRangeNotSatisfiable:
		ack.Verdict = job.OutOfRange
		size, ok := got.size()
		if !ok {
			return job.Ack{}, fmt.Errorf("%w, and it does not say how much it has (Range: %q)",
				got.statusError(), got.header.Get("Range"))
		}
		ack.Offset = size
	case http.StatusNotFound:
		ack.Verdict = job.NotFound
	case http.StatusForbidden:
		ack.Verdict, ack.Standing = job.Forbidden, job.Aborted
	default:
		return job.Ack{}, got.statusError()
	}
	return ack, nil
}

// ack reads what the server's headers say about the job.
func (r *reply) ack() job.Ack {
	var a job.Ack
	switch r.header.Get("Job-Status") {
	case "canceling":
		a.Standing = job.Canceling
	case "canceled", "failed":
		a.Standing = job.Aborted
	}
	if s, err := strconv.Atoi(r.header.Get("X-Gitlab-Trace-Update-Interval")); err == nil && s > 0 {
		a.Interval = time.Duration(min(s, int(maxInterval/time.Second))) * time.Second
	}
	return a
}

// size is how many bytes of the log the server has, from "Range: 0-<size>".
func (r *reply) size() (int64, bool) {
	_, after, ok := strings.Cut(r.header.Get("Range"), "-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(after, 10, 64)
	return n, err == nil && n >= 0
}
