package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	control "github.com/moby/buildkit/api/services/control"

	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/progress"
)

// buildAnswer tells the client of its build: in the classic builder's words, or in BuildKit's own messages, with the
// names that the Dockerfile has.
type buildAnswer struct {
	c     *call
	b     *buildRequest
	file  *checkedFile
	held  bytes.Buffer // what is told as soon as the client has sent everything
	open  bool
	steps *progress.Classic // nil for a client that reads BuildKit's messages
	quiet bytes.Buffer      // what a quiet client reads only if the build fails
	id    string            // of the image
	names replacer
	cause func(err error) error // what is behind an error of the Engine's connection; may be nil
	files *layercache.Collector // of the build's context
}

// replacer turns the Engine's text into the client's.
type replacer func(text string) string

// Replace applies it.
func (r replacer) Replace(text string) string { return r(text) }

func newBuildAnswer(c *call, b *buildRequest) *buildAnswer {
	return &buildAnswer{c: c, b: b, files: c.collector()}
}

// The messages of a build's answer.
const (
	traceMessage = "moby.buildkit.trace"
	imageMessage = "moby.image.id"
)

// buildMessage is a line of the Engine's answer.
type buildMessage struct {
	ID          string          `json:"id,omitempty"`
	Stream      string          `json:"stream,omitempty"`
	Error       string          `json:"error,omitempty"`
	ErrorDetail *buildError     `json:"errorDetail,omitempty"`
	Aux         json.RawMessage `json:"aux,omitempty"`
}

type buildError struct {
	Code    int    `json:"code,omitempty"`
	Message string `json:"message"`
}

// hold keeps a line of a pull until the client can read it: some clients read nothing before they have sent everything.
func (a *buildAnswer) hold(line []byte) error {
	if !bytes.Contains(line, []byte(`"progressDetail":{"current"`)) {
		a.held.Write(bytes.TrimSpace(line))
		a.held.WriteString("\r\n")
	}
	return nil
}

// relay tells what the Engine tells.
func (a *buildAnswer) relay(resp *http.Response) error {
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return a.fail(readError(resp))
	}
	a.begin()
	dec := json.NewDecoder(resp.Body)
	for {
		var m buildMessage
		err := dec.Decode(&m)
		if err == io.EOF {
			break
		}
		if err != nil && a.cause != nil {
			err = a.cause(err)
		}
		if err == nil {
			err = a.take(&m)
		}
		if err != nil {
			return a.fail(err)
		}
		if m.Error != "" || m.ErrorDetail != nil {
			return a.failed(&m)
		}
	}
	return a.succeed()
}

// begin sends the head of the answer, and what was held.
func (a *buildAnswer) begin() {
	a.names = a.replacer()
	if a.b.classic && a.file != nil {
		a.steps = progress.NewClassic(a.file.file, a.file.ids, a.stream)
	}
	a.c.setHeaders()
	a.c.w.Header().Set("Content-Type", "application/json")
	a.c.w.WriteHeader(http.StatusOK)
	a.open = true
	if a.b.quiet {
		a.quiet.Write(a.held.Bytes())
		return
	}
	_, _ = a.c.w.Write(a.held.Bytes())
	_ = http.NewResponseController(a.c.w).Flush()
}

// replacer turns names of ours into those that the client knows.
func (a *buildAnswer) replacer() replacer {
	var pairs []string
	if a.file != nil {
		for ours, written := range a.file.file.Written() {
			pairs = append(pairs, "docker.io/"+ours, written, ours, written)
		}
	}
	for _, t := range a.b.tags {
		if t.stored != "" {
			pairs = append(pairs, "docker.io/"+t.stored, t.written, t.stored, t.written)
		}
	}
	names := strings.NewReplacer(pairs...)
	return func(text string) string { return hideAliases(names.Replace(text)) }
}

// anyAlias is a name that a guard has given to a base.
var anyAlias = regexp.MustCompile(`(?:docker\.io/)?` + strings.ReplaceAll(regexp.QuoteMeta(ledger.TemporaryName("SCOPE", "id", "")), "SCOPE", `[a-z0-9]+`) + `[0-9a-f]{64}`)

// hideAliases takes out the names of other jobs' guards: BuildKit tells each build of a step that several have in common
// in the words of the first.
func hideAliases(text string) string { return anyAlias.ReplaceAllString(text, "the base image") }

// take reads one message.
func (a *buildAnswer) take(m *buildMessage) error {
	switch {
	case m.ID == traceMessage:
		status, err := m.status()
		if err != nil {
			return err
		}
		a.b.vertices.Take(status, a.c.built)
		if !a.b.classic {
			return a.trace(m, status)
		}
		if a.steps != nil { // without a file there are none to tell of
			a.steps.Take(status)
		}
	case m.ID == imageMessage:
		var result struct{ ID string }
		if err := json.Unmarshal(m.Aux, &result); err != nil {
			return fmt.Errorf("read the Engine's answer: %w", err)
		}
		a.id = result.ID
		if !a.b.classic {
			a.send(m)
		}
	}
	return nil // the names of the image are told when it has them all
}

// status is what a message of BuildKit's trace says.
func (m *buildMessage) status() (*control.StatusResponse, error) {
	var data []byte
	var status control.StatusResponse
	if err := json.Unmarshal(m.Aux, &data); err != nil {
		return nil, fmt.Errorf("read the Engine's answer: %w", err)
	}
	if err := status.UnmarshalVT(data); err != nil {
		return nil, fmt.Errorf("read the Engine's answer: %w", err)
	}
	return &status, nil
}

// trace passes BuildKit's own message on, with the names that the client knows.
func (a *buildAnswer) trace(m *buildMessage, status *control.StatusResponse) error {
	for _, v := range status.Vertexes {
		v.Name, v.Error = a.names.Replace(v.Name), a.names.Replace(v.Error)
	}
	for _, s := range status.Statuses {
		s.ID, s.Name = a.names.Replace(s.ID), a.names.Replace(s.Name)
	}
	data, err := status.MarshalVT()
	if err != nil {
		return fmt.Errorf("write a build's answer: %w", err)
	}
	if m.Aux, err = json.Marshal(data); err != nil {
		return fmt.Errorf("write a build's answer: %w", err)
	}
	a.send(m)
	return nil
}

// send writes a message. That the client has gone shows in the call's context.
func (a *buildAnswer) send(m *buildMessage) {
	data, err := json.Marshal(m)
	if err != nil {
		return // it holds nothing that cannot be encoded
	}
	data = append(data, '\r', '\n')
	if a.b.quiet && m.Aux == nil {
		a.quiet.Write(data)
		return
	}
	_, _ = a.c.w.Write(data)
	_ = http.NewResponseController(a.c.w).Flush()
}

// stream writes text for the client's terminal.
func (a *buildAnswer) stream(text string) { a.send(&buildMessage{Stream: a.names.Replace(text)}) }

// succeed tells of the image.
func (a *buildAnswer) succeed() error {
	if a.id == "" && !a.b.sent {
		return a.fail(errors.New("the Engine told of no image"))
	}
	tags := a.b.tags
	if err := a.b.finish(a.id); err != nil {
		return a.fail(err)
	}
	if a.steps != nil {
		a.steps.Finish()
	}
	a.explain(true)
	if a.b.classic {
		aux, err := json.Marshal(map[string]string{"ID": a.id})
		if err != nil {
			return err
		}
		a.send(&buildMessage{Aux: aux})
		a.stream("Successfully built " + progress.ShortID(a.id) + "\n")
	}
	for _, t := range tags {
		a.stream("Successfully tagged " + t.written + "\n")
	}
	if a.b.quiet {
		a.b.quiet = false
		a.stream(a.id + "\n")
	}
	return nil
}

// explain has the job's author told what of the build was cached.
func (a *buildAnswer) explain(ok bool) {
	a.c.explain(buildRecord{file: a.file, by: a.b, steps: &a.b.vertices, files: a.files, names: shownNames(a.c.query["t"]), image: a.id, ok: ok})
}

// exitCodes are how the versions of BuildKit tell of a step that failed.
var exitCodes = regexp.MustCompile(`(?s)(?:executor failed running \[(.*)\]: exit code: |process ("(?:[^"\\]|\\.)*") did not complete successfully: exit code: )(\d+)`)

// engineFolder is where the Engine has a context for itself.
var engineFolder = regexp.MustCompile(`(/[^\s:]*)?/buildkit-mount\d+/`)

// failed tells of the error that ended the build.
func (a *buildAnswer) failed(m *buildMessage) error {
	if m.ErrorDetail == nil {
		m.ErrorDetail = &buildError{Message: m.Error}
	}
	message := engineFolder.ReplaceAllString(a.names.Replace(m.ErrorDetail.Message), "")
	code := m.ErrorDetail.Code
	if found := exitCodes.FindStringSubmatch(message); found != nil && a.b.classic {
		command := found[1]
		if quoted, err := strconv.Unquote(found[2]); err == nil {
			command = quoted
		}
		code, _ = strconv.Atoi(found[3]) // digits; out of range is no exit code
		message = fmt.Sprintf("The command '%s' returned a non-zero code: %d", command, code)
	}
	if a.steps != nil {
		a.steps.Fail()
	}
	a.explain(false)
	return a.end(&buildMessage{Error: message, ErrorDetail: &buildError{code, message}})
}

// end writes the last message of a build that failed.
func (a *buildAnswer) end(m *buildMessage) error {
	_ = a.b.finish("") // there is nothing to be told of
	if a.b.quiet {
		a.b.quiet = false
		_, _ = a.c.w.Write(a.quiet.Bytes())
	}
	a.send(m)
	return nil
}

// fail tells the client of an error of ours, or of the Engine, in the way that is left.
func (a *buildAnswer) fail(err error) error {
	if !a.open {
		_ = a.b.finish("")
		var e *apiError
		if errors.As(err, &e) {
			return &apiError{e.Status, a.replacer().Replace(e.Message)}
		}
		return err
	}
	_, message := statusOf(err)
	message = a.names.Replace(message)
	var d *Denial
	if errors.As(err, &d) {
		a.c.denied(d)
		a.c.report(message)
	}
	return a.end(&buildMessage{Error: message, ErrorDetail: &buildError{Message: message}})
}
