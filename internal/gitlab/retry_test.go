package gitlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// pipeNet is a network of one server, in memory, for the fake time of synctest.
type pipeNet struct {
	conns chan net.Conn
	done  chan struct{}
	dials int
}

func (p *pipeNet) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipeNet) Close() error   { close(p.done); return nil }
func (p *pipeNet) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipeNet) dial(context.Context, string, string) (net.Conn, error) {
	p.dials++
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours, nil
}

// serveInBubble starts a server and a client with the client's real transport, all in the bubble's time.
func serveInBubble(t *testing.T, o Options, h http.HandlerFunc) (*Client, *pipeNet) {
	t.Helper()
	n := &pipeNet{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: h}
	go srv.Serve(n)
	o.URL, o.Token = "http://localhost", wireToken
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.http.Transport.(*transport).inner.DialContext = n.dial
	t.Cleanup(func() {
		c.Close()
		srv.Close()
	})
	return c, n
}

// failing answers n times with a status and headers, then with 204.
func failing(n, status int, header func() http.Header) (http.HandlerFunc, *int) {
	calls := 0
	return func(w http.ResponseWriter, _ *http.Request) {
		calls++
		if calls > n {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if header != nil {
			maps.Copy(w.Header(), header())
		}
		w.WriteHeader(status)
	}, &calls
}

func TestRetryWaits(t *testing.T) {
	t.Parallel()
	head := func(kv ...string) func() http.Header {
		h := http.Header{}
		for pair := range slices.Chunk(kv, 2) {
			h.Set(pair[0], pair[1])
		}
		return func() http.Header { return h }
	}
	reset := func(in time.Duration, more ...string) func() http.Header {
		return func() http.Header {
			h := head(more...)()
			h.Set("RateLimit-ResetTime", time.Now().Add(in).UTC().Format(http.TimeFormat))
			return h
		}
	}
	const ms = time.Millisecond
	tests := []struct {
		name     string
		fails    int
		status   int
		header   func() http.Header
		min, max time.Duration // waited in all
		calls    int
		pushback bool
	}{
		{name: "once", fails: 1, status: 503, min: 100 * ms, max: 150 * ms, calls: 2},
		{name: "twice", fails: 2, status: 503, min: 300 * ms, max: 450 * ms, calls: 3},
		{name: "four times", fails: 4, status: 500, min: 1500 * ms, max: 2250 * ms, calls: 5},
		{name: "for ever", fails: 99, status: 502, min: 1500 * ms, max: 2250 * ms, calls: 5, pushback: true},
		{name: "Retry-After", fails: 1, status: 429, header: head("Retry-After", "7"), min: 7000 * ms, max: 7000 * ms, calls: 2},
		{
			name: "Retry-After for ever", fails: 99, status: 429, header: head("Retry-After", "7"),
			min: 28_000 * ms, max: 28_000 * ms, calls: 5, pushback: true,
		},
		{name: "reset time", fails: 1, status: 429, header: reset(13 * time.Second), min: 13_000 * ms, max: 13_000 * ms, calls: 2},
		{
			name: "reset time comes first", fails: 1, status: 429, header: reset(13*time.Second, "Retry-After", "7"),
			min: 13_000 * ms, max: 13_000 * ms, calls: 2,
		},
		{
			name: "reset time has passed", fails: 1, status: 429, header: reset(-time.Minute, "Retry-After", "7"),
			min: 7000 * ms, max: 7000 * ms, calls: 2,
		},
		{name: "the server's clock is a day ahead", fails: 1, status: 429, header: skewed(24*time.Hour, 13*time.Second), min: 13_000 * ms, max: 13_000 * ms, calls: 2},
		{name: "the server's clock is a day behind", fails: 1, status: 429, header: skewed(-24*time.Hour, 13*time.Second), min: 13_000 * ms, max: 13_000 * ms, calls: 2},
		{
			name: "nonsense", fails: 1, status: 429, header: head("Retry-After", "soon", "RateLimit-ResetTime", "later"),
			min: 100 * ms, max: 150 * ms, calls: 2,
		},
		{name: "negative", fails: 1, status: 429, header: head("Retry-After", "-7"), min: 100 * ms, max: 150 * ms, calls: 2},
		{
			name: "too long", fails: 1, status: 503, header: head("Retry-After", "99999999999"),
			min: time.Hour, max: time.Hour, calls: 2,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h, calls := failing(tt.fails, tt.status, tt.header)
				c, _ := serveInBubble(t, Options{}, h)
				start := time.Now()
				spec, err := c.RequestJob(t.Context(), nil)
				if took := time.Since(start); took < tt.min || took > tt.max {
					t.Errorf("took %v, want %v to %v", took, tt.min, tt.max)
				}
				if *calls != tt.calls {
					t.Errorf("%d calls, want %d", *calls, tt.calls)
				}
				if spec != nil || errors.Is(err, job.ErrPushback) != tt.pushback || !tt.pushback && err != nil {
					t.Errorf("result %v, %v", spec, err)
				}
			})
		})
	}
}

func TestBackoffHasAnEnd(t *testing.T) {
	t.Parallel()
	for attempt := 1; attempt < 20; attempt++ {
		d, told := retryWait(http.Header{}, attempt)
		if told || d < minBackoff || d > maxBackoff {
			t.Errorf("attempt %d: %v, %v", attempt, d, told)
		}
	}
}

func TestRetryableStatuses(t *testing.T) {
	t.Parallel()
	var got []int
	for status := 100; status < 600; status++ {
		if retryable(status) {
			got = append(got, status)
		}
	}
	want := []int{408, 429, 500, 502, 503, 504}
	for status := 512; status < 600; status++ {
		want = append(want, status)
	}
	if !slices.Equal(got, want) {
		t.Errorf("retryable: %v, want %v", got, want)
	}
}

// TestRetryIsWhole: every attempt carries the whole request.
func TestRetryIsWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		c, _ := serveInBubble(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			seen = append(seen, fmt.Sprint(r.Method, r.RequestURI, r.Header, string(b)))
			w.WriteHeader(http.StatusBadGateway)
		})
		_, err := c.Job(7, "t").PatchTrace(t.Context(), 3, []byte("log"), true)
		if !errors.Is(err, job.ErrPushback) {
			t.Errorf("error %v", err)
		}
		if len(seen) != 5 || len(slices.Compact(slices.Clone(seen))) != 1 || !strings.HasSuffix(seen[0], "log") {
			t.Errorf("attempts differ:\n%s", strings.Join(seen, "\n"))
		}
	})
}

func TestRetryHeedsTheContext(t *testing.T) {
	t.Parallel()
	slow := func() http.Header { return http.Header{"Retry-After": {"600"}} }
	cause := errors.New("enough")
	t.Run("canceled", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h, calls := failing(99, 503, slow)
			c, _ := serveInBubble(t, Options{}, h)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(cause) })
			start := time.Now()
			_, err := c.RequestJob(ctx, nil)
			if !errors.Is(err, cause) || time.Since(start) != time.Second || *calls != 1 {
				t.Errorf("error %v after %v and %d calls", err, time.Since(start), *calls)
			}
		})
	})
	t.Run("deadline before the next attempt", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h, calls := failing(99, 503, slow)
			c, _ := serveInBubble(t, Options{}, h)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			start := time.Now()
			_, err := c.RequestJob(ctx, nil)
			if !errors.Is(err, job.ErrPushback) || time.Since(start) != 0 || *calls != 1 {
				t.Errorf("error %v after %v and %d calls", err, time.Since(start), *calls)
			}
		})
	})
}

// TestTransportErrorIsFinal: nobody knows whether the server has seen the call.
func TestTransportErrorIsFinal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		c, _ := serveInBubble(t, Options{}, func(http.ResponseWriter, *http.Request) {
			calls++
			panic(http.ErrAbortHandler)
		})
		_, err := c.RequestJob(t.Context(), nil)
		if err == nil || errors.Is(err, job.ErrPushback) || calls != 1 {
			t.Errorf("error %v after %d calls", err, calls)
		}
	})
}

// TestRetryLog: a limit that the server sets is a warning, our own back-off is not.
func TestRetryLog(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		header http.Header
		level  string
	}{
		{"told", http.Header{"Retry-After": {"7"}}, "WARN"},
		{"own", nil, "DEBUG"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log logBuffer
				h, _ := failing(2, 503, func() http.Header { return tt.header })
				c, _ := serveInBubble(t, Options{Log: log.logger()}, h)
				if _, err := c.RequestJob(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				line := `"level":"` + tt.level + `","msg":"the server asks to try again later"`
				if n := strings.Count(log.String(), line); n != 2 {
					t.Errorf("%d lines %s in\n%s", n, line, log.String())
				}
			})
		})
	}
}

// TestLongPoll: a held request is waited for, a dead server is given up.
func TestLongPoll(t *testing.T) {
	t.Parallel()
	tests := []struct {
		held time.Duration
		fine bool
	}{
		{50 * time.Second, true},
		{9 * time.Minute, true},
		{11 * time.Minute, false},
	}
	for _, tt := range tests {
		t.Run(tt.held.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, _ := serveInBubble(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body) // without it the server does not notice that the client has gone
					select {
					case <-time.After(tt.held):
						w.WriteHeader(http.StatusNoContent)
					case <-r.Context().Done():
					}
				})
				start := time.Now()
				_, err := c.RequestJob(t.Context(), nil)
				if (err == nil) != tt.fine {
					t.Errorf("error %v", err)
				}
				if took := time.Since(start); took != min(tt.held, 10*time.Minute) {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// TestConnectionAge: a connection in steady use is replaced when it is older than the limit.
func TestConnectionAge(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		maxAge time.Duration
		dials  int // in 40 minutes
	}{
		{"default", 0, 3},
		{"5m", 5 * time.Minute, 8},
		{"1h", time.Hour, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, n := serveInBubble(t, Options{ConnectionMaxAge: tt.maxAge}, answer(204, asJSON, ""))
				for range 40 {
					if _, err := c.RequestJob(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
					<-time.After(time.Minute)
				}
				if n.dials != tt.dials {
					t.Errorf("%d connections, want %d", n.dials, tt.dials)
				}
			})
		})
	}
}

// skewed is an answer of a server whose clock differs by that much from this machine's.
func skewed(by, reset time.Duration) func() http.Header {
	return func() http.Header {
		now := time.Now().UTC().Add(by)
		return http.Header{"Date": {now.Format(http.TimeFormat)}, "Ratelimit-Resettime": {now.Add(reset).Format(time.RFC1123)}}
	}
}
