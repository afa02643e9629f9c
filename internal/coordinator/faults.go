package coordinator

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// Fault makes an endpoint misbehave. With a Delay alone the request is answered as ever, only later.
type Fault struct {
	Endpoint Endpoint                 // empty = every endpoint
	Match    func(*http.Request) bool // nil = every request to the endpoint; its body is gone
	State    job.State                // only updates that say so, and not the signs of life between them; "" = every update
	Skip     int                      // so many matching requests pass unharmed first
	Times    int                      // how many requests are hit; 0 = one, negative = all

	Delay time.Duration
	// Status to answer with. A 412 for an update throws the log away, as a real one does; a 416 names the real range
	// unless Header has another.
	Status int
	Header map[string]string
	Body   string // empty = what GitLab says with the status
	Drop   bool   // close the connection without an answer
	// After does what the request asks for first: only the answer is lost or replaced.
	After bool
}

// Inject adds a fault. Of several that match, the oldest strikes. The function that it returns takes the fault away.
func (c *Coordinator) Inject(f Fault) (remove func()) {
	if f.Times == 0 {
		f.Times = 1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &f)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.faults = slices.DeleteFunc(c.faults, func(g *Fault) bool { return g == &f })
	}
}

// takeFault finds the fault that strikes the request, if any.
func (c *Coordinator) takeFault(x *exchange) (Fault, bool) {
	c.mu.Lock()
	faults := slices.Clone(c.faults)
	c.mu.Unlock()
	// Match is the test's own code, and may ask the coordinator: no lock here.
	faults = slices.DeleteFunc(faults, func(f *Fault) bool {
		return f.Endpoint != "" && f.Endpoint != x.endpoint || f.Match != nil && !f.Match(x.r) ||
			f.State != "" && (x.rec == nil || x.rec.Update.State != f.State)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range faults {
		i := slices.Index(c.faults, f)
		switch {
		case i < 0: // used up or removed meanwhile
			continue
		case f.Skip > 0:
			f.Skip--
			continue
		case f.Times > 0:
			f.Times--
		}
		if f.Times == 0 {
			c.faults = slices.Delete(c.faults, i, i+1)
		}
		return *f, true
	}
	return Fault{}, false
}

// suffer answers a request that a fault strikes.
func (c *Coordinator) suffer(x *exchange, f Fault, handle func(*exchange) reply) reply {
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-x.r.Context().Done():
			return reply{}
		case <-c.closed:
			return message(http.StatusServiceUnavailable, "")
		}
	}
	if !f.Drop && f.Status == 0 {
		return handle(x)
	}
	if f.After {
		lost := *x
		lost.w = discard{}
		handle(&lost)
	}
	if f.Drop {
		conn, _, err := http.NewResponseController(x.w).Hijack()
		if err != nil {
			return text(http.StatusInternalServerError, "drop the connection: "+err.Error())
		}
		conn.Close() // nothing to be done about an error
		return reply{}
	}
	rep := message(f.Status, "")
	switch {
	case f.Body != "":
		rep = text(f.Status, f.Body)
	case f.Status < 300:
		rep = text(f.Status, strconv.Itoa(f.Status))
	}
	if x.job != nil {
		c.mu.Lock()
		rep = rep.with(x.job.header())
		switch {
		case x.endpoint == UpdateJob && f.Status == http.StatusPreconditionFailed:
			x.job.resetTrace()
		case x.endpoint == PatchTrace && f.Status == http.StatusRequestedRangeNotSatisfiable:
			rep = rep.with(map[string]string{"Range": x.job.traceRange()})
		}
		c.mu.Unlock()
	}
	return rep.with(f.Header)
}

// discard takes an answer that nobody shall see.
type discard struct{}

// Header returns headers that lead nowhere.
func (discard) Header() http.Header { return http.Header{} }

// Write throws away.
func (discard) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader throws away.
func (discard) WriteHeader(int) {}
