package runner

import "time"

// The back-off after a failed request doubles from the first to the last of these.
const (
	backoffMin = time.Second
	backoffMax = 30 * time.Second
)

// health is what the last answers say about a runner's token and its server. Its methods return what is worth a line
// in the log, so that a server that is away for an hour costs two lines.
type health struct {
	since   time.Time     // when the trouble began; zero = none
	until   time.Time     // no request before
	backoff time.Duration // the last one
	refused int           // refusals since the token was last accepted
	paused  bool          // for too many of them
}

// ok notes that the server answered as it should. It reports whether, and for how long, it had not.
func (h *health) ok(now time.Time) (trouble time.Duration, recovered bool) {
	if !h.since.IsZero() {
		trouble, recovered = now.Sub(h.since), true
	}
	*h = health{}
	return trouble, recovered
}

// failed notes a failure that says nothing about the token. It reports whether the trouble begins with it.
func (h *health) failed(now time.Time) (first bool) {
	if now.Before(h.until) {
		return false // a further request of the same moment
	}
	h.backoff = min(max(2*h.backoff, backoffMin), backoffMax)
	h.until = now.Add(h.backoff)
	return h.begin(now)
}

// refuse notes that the token was not accepted. After limit refusals the runner pauses for the interval, and after
// each further one too, until the token is accepted.
func (h *health) refuse(now time.Time, limit int, interval time.Duration) (first, paused bool) {
	if h.paused && now.Before(h.until) {
		return false, false
	}
	h.refused++
	h.paused = h.refused >= limit
	if h.paused {
		h.until = now.Add(interval)
	}
	return h.begin(now), h.paused
}

func (h *health) begin(now time.Time) (first bool) {
	first = h.since.IsZero()
	if first {
		h.since = now
	}
	return first
}

// retry ends a pause: someone had a look at the configuration.
func (h *health) retry() {
	if h.paused {
		h.until = time.Time{}
	}
}
