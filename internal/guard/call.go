package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/wire"
)

// call is one request of a client while it is decided upon and answered.
type call struct {
	*Guard
	w       http.ResponseWriter
	r       *http.Request
	ctx     context.Context
	row     string            // "POST /containers/{id}/start"
	vars    map[string]string // what the path's wildcards stand for
	query   url.Values        // as the client wrote it: a handler forwards only the keys that it names
	version apiVersion        // of the client
	ref, id string            // what the client calls the container of the call, and its full ID
	large   bool              // it has one of the places for calls that take much memory
}

// serve takes each request of the job.
func (g *Guard) serve(w http.ResponseWriter, r *http.Request) {
	g.calls.Add(1)
	defer g.calls.Done()
	c := &call{Guard: g, w: w, r: r, ctx: r.Context(), row: r.Method + " " + printable(r.URL.Path)}
	defer c.leavePlace()
	err := c.handle()
	switch {
	case err == nil:
		g.log.Debug("allowed", "call", c.row)
	case errors.Is(err, errAnswered):
		g.log.Debug("answered", "call", c.row, "error", err)
	default:
		c.fail(err)
	}
}

// errAnswered marks an error that came when the client had the head of its answer already.
var errAnswered = errors.New("the answer was cut")

func (c *call) handle() error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	version, path, err := wire.Path(c.r)
	if err != nil {
		return err
	}
	if path == "" {
		return &apiError{http.StatusNotFound, "page not found"}
	}
	rt, vars, ok := c.router.find(c.r.Method, path)
	if !ok {
		return c.unknown(path)
	}
	c.row, c.vars = rt.method+" "+rt.pattern, vars
	if c.version, err = checkVersion(version, c.engine.version); err != nil {
		return err
	}
	if c.query, err = wire.Query(c.r.URL.RawQuery); err != nil {
		return err
	}
	if err := c.noForm(); err != nil {
		return err
	}
	return rt.handle(c)
}

// noForm refuses bodies that are forms, whatever the call. No client of Docker's sends one, the Engine lets their fields
// win over the query, and a job's author who tries should read why it does nothing.
func (c *call) noForm() error {
	if c.r.ContentLength == 0 {
		return nil
	}
	for _, h := range c.r.Header.Values("Content-Type") {
		h = strings.ToLower(strings.TrimSpace(h))
		if strings.HasPrefix(h, "application/x-www-form-urlencoded") || strings.HasPrefix(h, "multipart/") {
			return c.refuse(deny("form-body", "send parameters in the query, and bodies as application/json", "the body is a form"))
		}
	}
	return nil
}

// flag reads a boolean of the query as the Engine does.
func (c *call) flag(key string) bool {
	switch strings.ToLower(strings.TrimSpace(c.query.Get(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// number reads a whole number of the query; it is 0 if there is none.
func (c *call) number(key string) (int, error) {
	v := c.query.Get(key)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, badRequest("slipway: %s=%q is no number", key, printable(v))
	}
	return n, nil
}

// numbers checks that query keys are numbers, and picks them.
func (c *call) numbers(keys ...string) (url.Values, error) {
	for _, k := range keys {
		if _, err := c.number(k); err != nil {
			return nil, err
		}
	}
	return c.pick(keys...), nil
}

// pick copies the named keys of the client's query, where they are set: a handler's whole query must come from here or
// from its own words.
func (c *call) pick(keys ...string) url.Values {
	out := url.Values{}
	for _, k := range keys {
		if v := c.query[k]; len(v) > 0 {
			out[k] = v
		}
	}
	return out
}

// readFilters reads the filters of a list; keys that are not among allowed are refused.
func (c *call) readFilters(allowed ...string) (wire.Filters, error) {
	return wire.ReadFilters(c.query.Get("filters"), allowed...)
}

// The sizes of bodies that are read whole.
const (
	smallBody  = 256 << 10
	execBody   = 1 << 20
	createBody = 4 << 20

	usualBody = 16 << 10 // a client's usual create is a quarter of it
)

// maxLarge is how many calls with larger bodies than usual, or with lists of all containers, are at work at once. The
// others wait: a job has hundreds of connections, and the memory that it all is decoded into is that of all jobs' guards.
const maxLarge = 16

// waitPlace waits for one of the places for calls that take much memory. The call keeps it to its end, or until it leaves
// it.
func (c *call) waitPlace() error {
	if c.large {
		return nil
	}
	select {
	case c.Guard.large <- struct{}{}:
		c.large = true
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

func (c *call) leavePlace() {
	if c.large {
		c.large = false
		<-c.Guard.large
	}
}

// decode reads a JSON body of at most limit bytes. An empty body leaves v as it is.
func (c *call) decode(v any, limit int64) error {
	if n := c.r.ContentLength; n < 0 || n > usualBody {
		if err := c.waitPlace(); err != nil {
			return err
		}
	}
	data, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, limit))
	if err != nil {
		return badRequest("slipway: the body cannot be read: %v", err)
	}
	if len(data) == 0 {
		return nil
	}
	if err := c.wantType("application/json"); err != nil {
		return err
	}
	return wire.Decode(data, v)
}

// noBody refuses a body where the Engine has no use for one. Some clients send an empty object with every call.
func (c *call) noBody() error {
	if c.r.ContentLength == 0 {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(c.r.Body, 64))
	if err != nil {
		return badRequest("slipway: the body cannot be read: %v", err)
	}
	switch string(bytes.TrimSpace(data)) {
	case "", "{}", "null":
		return nil
	}
	return badRequest("slipway: this call takes no body")
}

// wantType refuses bodies of another type: the Engine reads parameters out of forms, and they win over the query.
func (c *call) wantType(types ...string) error {
	h := c.r.Header.Values("Content-Type")
	if len(h) == 0 {
		return nil
	}
	got, _, err := mime.ParseMediaType(h[0])
	if err != nil || len(h) > 1 || !slices.Contains(types, got) {
		return &apiError{http.StatusUnsupportedMediaType, "slipway: the body's Content-Type must be " + strings.Join(types, " or ")}
	}
	return nil
}

// refuse ends a call by a rule. In audit mode it records what would have been refused and returns nil: the caller goes
// on with what the client asked for.
func (c *call) refuse(d *Denial) error {
	if !c.policy.Audit {
		return d
	}
	c.log.Warn("would be denied", "call", c.row, "rule", d.Rule, "what", d.What)
	c.count(d.Rule, true)
	c.report("audit: would be " + d.Error())
	return nil
}

// unknown refuses a call that is in no row of the table.
func (c *call) unknown(path string) error {
	d := deny("unknown-call", "", "%s %s is no call that a job may make", printable(c.r.Method), printable(path))
	for prefix, cure := range refusedGroups {
		if strings.HasPrefix(path, prefix) {
			d.Rule, d.Cure = "group-refused", cure
		}
	}
	if err := c.refuse(d); err != nil {
		return err
	}
	return c.passThrough(path)
}

// denied tells the operator of a refusal.
func (c *call) denied(d *Denial) {
	c.log.Warn("denied", "call", c.row, "rule", d.Rule, "what", d.What)
	c.count(d.Rule, false)
}

// fail tells the client and, if the guard refused, the operator and the job's author.
func (c *call) fail(err error) {
	status, message := statusOf(err)
	var d *Denial
	switch {
	case errors.As(err, &d):
		c.denied(d)
		c.report(d.Error())
	case status == http.StatusBadGateway && c.ctx.Err() == nil:
		c.log.Warn("failed", "call", c.row, "error", err)
	default:
		c.log.Debug("answered", "call", c.row, "status", status, "message", message)
	}
	// What the client still sends is not read: the connection cannot be used again.
	if c.r.ContentLength != 0 {
		c.w.Header().Set("Connection", "close")
	}
	c.json(status, map[string]string{"message": message})
}

// json answers with a document of our own.
func (c *call) json(status int, v any) {
	data, err := json.Marshal(v)
	if err != nil { // a value of ours that cannot be encoded
		status, data = http.StatusInternalServerError, []byte(`{"message":"slipway: the answer cannot be encoded"}`)
		c.log.Error("the answer cannot be encoded", "call", c.row, "error", err)
	}
	c.setHeaders()
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(append(data, '\n')) // a client that is gone needs no answer
}

// empty answers without a body.
func (c *call) empty(status int) {
	c.setHeaders()
	c.w.WriteHeader(status)
}

// setHeaders tells clients what they look for in every answer.
func (c *call) setHeaders() {
	maps.Copy(c.w.Header(), http.Header{
		"Api-Version": {c.engine.version.String()}, "Ostype": {"linux"}, "Docker-Experimental": {"false"}, "Server": {"slipway"},
	})
}

// printable is a client's text in a message.
func printable(s string) string { return wire.Printable(s) }

// once tells the job's author a line once per guard.
func (g *Guard) once(key, line string) {
	if g.objects.firstTime(key) {
		g.report(line)
		g.log.Log(context.Background(), slog.LevelInfo, line)
	}
}

// engineTimeout bounds what is completed at the Engine though its client may have gone.
const engineTimeout = time.Minute

// detached is the context of what must be done to its end even if the client goes away: what it makes must be on record.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), engineTimeout)
}

// lifeTimeout bounds what goes on at the Engine without its client: as long as a container may take to stop, and more.
const lifeTimeout = 5 * time.Minute

// lasting is the context of what goes on though its client may have gone, but not longer than the guard: it makes nothing
// that would have to be recorded.
func (c *call) lasting() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Guard.ctx, lifeTimeout)
}
