package coordinator

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// Request is one call about a job, kept for assertions.
type Request struct {
	At       time.Time // arrival, after the body was read
	Endpoint Endpoint
	Header   http.Header
	Update   job.Update // of PUT job
	Range    string     // Content-Range of PATCH trace
	Size     int        // of the body in bytes; 0 for uploads
	Debug    bool       // debug_trace of PATCH trace
	Status   int        // of the answer; 0 = none yet, or the connection was dropped
}

// updateBody is what PUT /jobs/:id sends.
type updateBody struct {
	Token         string     `json:"token"`
	State         job.State  `json:"state"`
	FailureReason job.Reason `json:"failure_reason"`
	Checksum      string     `json:"checksum"` // GitLab: older runners send it here only
	Output        struct {
		Checksum string `json:"checksum"`
		ByteSize int64  `json:"bytesize"`
	} `json:"output"`
	ExitCode int  `json:"exit_code"`
	Info     Info `json:"info"`
}

func (x *exchange) parseUpdate() (updateBody, error) {
	var body updateBody
	err := json.Unmarshal(x.body, &body)
	if body.Output.Checksum == "" {
		body.Output.Checksum = body.Checksum
	}
	if body.Token == "" {
		body.Token = x.r.Header.Get("Job-Token")
	}
	return body, err
}

// record keeps a call about a known job, whatever becomes of it.
func (c *Coordinator) record(x *exchange) {
	if x.job == nil {
		return
	}
	x.rec = &Request{At: time.Now(), Endpoint: x.endpoint, Header: x.r.Header.Clone(), Size: len(x.body)}
	switch x.endpoint {
	case UpdateJob:
		if body, err := x.parseUpdate(); err == nil {
			x.rec.Update = job.Update{
				State: body.State, Reason: body.FailureReason, ExitCode: body.ExitCode,
				Checksum: body.Output.Checksum, ByteSize: body.Output.ByteSize,
			}
		}
	case PatchTrace:
		x.rec.Range = x.r.Header.Get("Content-Range")
		x.rec.Debug = x.r.URL.Query().Get("debug_trace") == "true"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x.job.requests = append(x.job.requests, x.rec)
}

// recorded adds how the call is going to be answered.
func (c *Coordinator) recorded(x *exchange, status int) {
	if x.rec == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x.rec.Status = status
}

// Requests are the calls about the job, in the order they came.
func (j *Job) Requests() []Request {
	return read(j, func() []Request {
		out := make([]Request, len(j.requests))
		for i, r := range j.requests {
			out[i] = *r
		}
		return out
	})
}

// Updates are the updates among the requests, in the order they came.
func (j *Job) Updates() []job.Update {
	var out []job.Update
	for _, r := range j.Requests() {
		if r.Endpoint == UpdateJob {
			out = append(out, r.Update)
		}
	}
	return out
}
