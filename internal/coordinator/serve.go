package coordinator

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// Endpoint names one call of the API, for faults and recorded requests.
type Endpoint string

// The endpoints.
const (
	RegisterRunner    Endpoint = "POST runners"
	VerifyRunner      Endpoint = "POST verify"
	DeleteRunner      Endpoint = "DELETE runners"
	DeleteManager     Endpoint = "DELETE managers"
	ResetToken        Endpoint = "POST reset"
	RequestJob        Endpoint = "POST request"
	UpdateJob         Endpoint = "PUT job"
	PatchTrace        Endpoint = "PATCH trace"
	UploadArtifacts   Endpoint = "POST artifacts"
	DownloadArtifacts Endpoint = "GET artifacts"
	Git               Endpoint = "git" // everything below a project's path
)

// The largest bodies that are read into memory, in bytes.
const (
	maxPiece = 64 << 20 // of a log; a runner sends at most 1 MiB
	maxJSON  = 4 << 20
)

// exchange is one request on its way to its answer.
type exchange struct {
	endpoint Endpoint
	w        http.ResponseWriter
	r        *http.Request
	body     []byte // read already, but for uploads and Git
	job      *Job   // that the path names; nil for none
	rec      *Request
}

// reply is an answer to be written when no lock is held any more. The zero reply is for handlers that wrote their own.
type reply struct {
	status      int
	header      map[string]string
	contentType string
	body        []byte
	undelivered func() // called when the answer could not be written
}

// text and jsonReply make replies; message is how GitLab words refusals.
func text(status int, body string) reply {
	return reply{status: status, contentType: "text/plain", body: []byte(body)}
}

func jsonReply(status int, v any) reply {
	b, err := json.Marshal(v)
	if err != nil {
		return text(http.StatusInternalServerError, err.Error())
	}
	return reply{status: status, contentType: "application/json", body: b}
}

func message(status int, detail string) reply {
	msg := strconv.Itoa(status) + " " + strings.TrimPrefix(http.StatusText(status), "Requested ")
	if detail != "" {
		msg += " - " + detail
	}
	return jsonReply(status, map[string]string{"message": msg})
}

// with adds headers to a reply.
func (rep reply) with(header map[string]string) reply {
	merged := map[string]string{}
	for _, h := range []map[string]string{rep.header, header} {
		maps.Copy(merged, h)
	}
	rep.header = merged
	return rep
}

// serve is what all endpoints have in common: request IDs, the body, recording, faults and the writing of the answer.
func (c *Coordinator) serve(e Endpoint, handle func(*exchange) reply) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := r.Header.Get("X-Request-Id")
		if id == "" {
			id = strings.ToLower(rand.Text())
		}
		w.Header().Set("X-Request-Id", id)
		watched := &watchedWriter{ResponseWriter: w}
		x := &exchange{endpoint: e, w: watched, r: r}
		rep := c.answer(x, handle)
		if rep.status != 0 {
			c.recorded(x, rep.status)
			if err := rep.write(watched); err != nil && rep.undelivered != nil {
				rep.undelivered()
			}
		}
		c.opts.Log.Debug("request", "endpoint", string(e), "path", r.URL.Path, "status", watched.status,
			"duration", time.Since(start))
	}
}

func (c *Coordinator) answer(x *exchange, handle func(*exchange) reply) reply {
	select {
	case <-c.closed:
		return message(http.StatusServiceUnavailable, "")
	default:
	}
	if x.endpoint != UploadArtifacts && x.endpoint != Git {
		limit := int64(maxJSON)
		if x.endpoint == PatchTrace {
			limit = maxPiece
		}
		var err error
		x.body, err = io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, limit))
		if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
			return message(http.StatusRequestEntityTooLarge, "")
		} else if err != nil {
			return message(http.StatusBadRequest, "the body ended early")
		}
	}
	if id, err := strconv.ParseInt(x.r.PathValue("id"), 10, 64); err == nil {
		c.mu.Lock()
		x.job = c.jobs[id]
		c.mu.Unlock()
	}
	c.record(x)
	if f, ok := c.takeFault(x); ok {
		return c.suffer(x, f, handle)
	}
	return handle(x)
}

func (rep reply) write(w http.ResponseWriter) error {
	for k, v := range rep.header {
		w.Header().Set(k, v)
	}
	if rep.contentType != "" && len(rep.body) > 0 {
		w.Header().Set("Content-Type", rep.contentType)
	}
	if len(rep.body) > 0 {
		w.Header().Set("Content-Length", strconv.Itoa(len(rep.body)))
	}
	w.WriteHeader(rep.status)
	if _, err := w.Write(rep.body); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		return err
	}
	if err := http.NewResponseController(w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// watchedWriter remembers the status that was sent.
type watchedWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader sends the status.
func (w *watchedWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (w *watchedWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// baseURL is the server's address as runners and jobs are to use it.
func (c *Coordinator) baseURL(r *http.Request) string {
	if c.opts.URL != "" {
		return c.opts.URL
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

func sameToken(want job.Secret, got string) bool {
	return want != "" && subtle.ConstantTimeCompare([]byte(want.Reveal()), []byte(got)) == 1
}

// newToken makes up a token: prefix and 26 random characters.
func newToken(prefix string) job.Secret { return job.Secret(prefix + rand.Text()) }
