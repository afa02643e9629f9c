package gitlab

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

const (
	maxAttempts = 5
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 60 * time.Second
	// maxTold bounds the wait that a server can ask for.
	maxTold = time.Hour
)

// retryable reports whether a status may be gone when the call is sent again.
//
// GitLab: 512 and more are what proxies in front of it make up.
func retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return status >= 512
}

// do sends a call, and again while the server answers with a retryable status: five times in all, after which the
// last answer is returned. An error means that there was no answer; such a call is not sent again, because nobody
// knows whether the server has taken it.
func (c *Client) do(ctx context.Context, r call) (*reply, error) {
	requestID := newRequestID()
	for attempt := 1; ; attempt++ {
		got, err := c.once(ctx, r, requestID)
		if err != nil {
			return nil, err
		}
		if !retryable(got.status) || attempt == maxAttempts {
			return got, nil
		}
		wait, told := retryWait(got.header, attempt)
		if end, ok := ctx.Deadline(); ok && time.Until(end) < wait {
			return got, nil // there will be no time for another attempt: say now what is wrong
		}
		level := slog.LevelDebug
		if told {
			level = slog.LevelWarn // the server limits us: whoever runs this machine should know
		}
		c.log.Log(ctx, level, "the server asks to try again later", "method", r.method, "path", r.path,
			"status", got.status, "attempt", attempt, "wait", wait, "request_id", requestID)
		if err := sleep(ctx, wait); err != nil {
			return nil, fmt.Errorf("wait to try again after status %d: %w", got.status, err)
		}
	}
}

// retryWait is how long to wait after the given attempt, and whether the server said so. By whose clock the server names a time, its
// own, it says in the same answer: this machine's may be wrong by hours.
func retryWait(h http.Header, attempt int) (wait time.Duration, told bool) {
	if t, err := time.Parse(time.RFC1123, h.Get("RateLimit-ResetTime")); err == nil {
		now, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			now = time.Now()
		}
		if d := t.Sub(now); d > 0 {
			return min(d, maxTold), true
		}
	}
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil && s > 0 {
		return time.Duration(min(s, int(maxTold/time.Second))) * time.Second, true
	}
	d := minBackoff << (attempt - 1)
	return min(d+rand.N(d/2), maxBackoff), false
}

// sleep waits, at most until ctx ends, and then says why that ended.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
