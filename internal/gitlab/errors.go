package gitlab

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// maxMessage bounds how much of a server's message an error shows, in bytes.
const maxMessage = 1000

// StatusError is an answer with a status that the call cannot use. It unwraps to job.ErrForbidden (403),
// job.ErrConflict (409) or job.ErrPushback (a status worth a retry, after all retries).
type StatusError struct {
	Status  int
	Message string // the server's own words, may be empty
}

// Error gives the meaning if there is one, the status and the server's message.
func (e *StatusError) Error() string {
	s := strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status)))
	switch {
	case e.Message == "", e.Message == strconv.Itoa(e.Status):
	case strings.HasPrefix(e.Message, s): // GitLab repeats the status in most of its messages
		s = e.Message
	default:
		s += ": " + e.Message
	}
	if cause := e.Unwrap(); cause != nil {
		return fmt.Sprintf("%v (%s)", cause, s)
	}
	return s
}

// Unwrap gives what the status means to a runner, nil if nothing special.
func (e *StatusError) Unwrap() error {
	switch {
	case e.Status == http.StatusForbidden:
		return job.ErrForbidden
	case e.Status == http.StatusConflict:
		return job.ErrConflict
	case retryable(e.Status):
		return job.ErrPushback
	}
	return nil
}

// statusError makes an error of an answer.
func (r *reply) statusError() error {
	e := &StatusError{Status: r.status, Message: r.message()}
	if to := r.header.Get("Location"); r.status/100 == 3 && to != "" {
		e.Message = fmt.Sprintf("the server redirects to %s, which may be the right url for the runner", to)
	}
	if r.secret != "" {
		e.Message = strings.ReplaceAll(e.Message, r.secret.Reveal(), r.secret.String())
	}
	e.Message = strings.ToValidUTF8(e.Message[:min(len(e.Message), maxMessage)], "")
	return e
}

// message is the text of an error answer.
//
// GitLab: {"message": "text"}, {"message": {"field": ["text", …]}}, or {"error": "text"} when a parameter is wrong.
func (r *reply) message() string {
	var body struct {
		Message json.RawMessage `json:"message"`
		Error   string          `json:"error"`
	}
	if !r.isJSON() || json.Unmarshal(r.body, &body) != nil {
		return ""
	}
	var text string
	if json.Unmarshal(body.Message, &text) == nil && text != "" {
		return text
	}
	var fields map[string]any
	if json.Unmarshal(body.Message, &fields) != nil {
		return body.Error
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		list, ok := fields[k].([]any)
		if !ok {
			list = []any{fields[k]}
		}
		for _, v := range list {
			out = append(out, fmt.Sprintf("%s: %v", k, v))
		}
	}
	return strings.Join(out, ", ")
}

// HTTPStatus is the status, for those who do not import this package.
func (e *StatusError) HTTPStatus() int { return e.Status }
