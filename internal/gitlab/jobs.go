package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/slipway-ci/slipway/internal/job"
)

type jobRequest struct {
	Info       info   `json:"info"`
	Token      string `json:"token"`
	SystemID   string `json:"system_id,omitempty"`
	LastUpdate string `json:"last_update,omitempty"`
	Session    *Door  `json:"session,omitempty"`
}

// Door is where GitLab may connect people with the job's web terminal.
type Door struct {
	URL           string `json:"url"`           // https
	Certificate   string `json:"certificate"`   // of that server, in PEM
	Authorization string `json:"authorization"` // the header that it asks for
}

// PayloadError is a job that the server has handed out in a form that cannot be read. The server takes it for running:
// somebody must report that it failed (Client.Job(ID, Token).Update).
type PayloadError struct {
	ID    int64
	Token job.Secret
	Err   error // why
}

func (e *PayloadError) Error() string {
	return fmt.Sprintf("read the payload of job %d: %v", e.ID, e.Err)
}

// Unwrap gives why the payload cannot be read.
func (e *PayloadError) Unwrap() error { return e.Err }

// RequestJob asks for a job. It returns nil and no error when there is none. A server may hold the request for as
// long as there is none ("long polling", about a minute); ctx ends the wait. door is the job's, should there be one; nil =
// it has no web terminal.
//
// The error is, for errors.Is, job.ErrForbidden (the token is not accepted), job.ErrConflict (try again soon) or
// job.ErrPushback (ask less often), or, for errors.As, a *PayloadError.
func (c *Client) RequestJob(ctx context.Context, door *Door) (*job.Spec, error) {
	got, err := c.runnerCall(ctx, http.MethodPost, "jobs/request", jobRequest{
		Info: c.info, Token: c.token.Reveal(), SystemID: c.systemID, LastUpdate: c.getLastUpdate(), Session: door,
	})
	if err == nil {
		switch got.status {
		case http.StatusNoContent:
			return nil, nil
		case http.StatusCreated:
			spec, err := got.spec()
			if spec != nil {
				spec.RequestID = got.header.Get("X-Request-Id")
			}
			return spec, err
		}
		err = got.statusError()
	}
	return nil, fmt.Errorf("request a job: %w", err)
}

// spec reads the payload of a job.
func (r *reply) spec() (*job.Spec, error) {
	var spec job.Spec
	err := r.decode(&spec)
	if err == nil && (spec.ID <= 0 || spec.Token == "") {
		err = errors.New("the payload lacks the job's ID or token")
	}
	if err == nil {
		return &spec, nil
	}
	if id, token := salvage(r.body); id > 0 && token != "" {
		return nil, &PayloadError{ID: id, Token: token, Err: err}
	}
	return nil, fmt.Errorf("request a job: %w", err)
}

// salvage finds the ID and the token of a job in a payload that cannot be read as a whole, even in one that breaks
// off: both stand near its beginning.
func salvage(payload []byte) (id int64, token job.Secret) {
	dec := json.NewDecoder(bytes.NewReader(payload))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return 0, ""
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			break
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			break
		}
		switch key {
		case "id":
			// A number in quotes is readable too.
			id, _ = strconv.ParseInt(string(bytes.Trim(value, `"`)), 10, 64)
		case "token":
			var s string
			_ = json.Unmarshal(value, &s) // not a string: no token
			token = job.Secret(s)
		}
	}
	return id, token
}
