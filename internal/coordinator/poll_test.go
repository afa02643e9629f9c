package coordinator

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// answered is when and how a held request was answered.
type answered struct {
	after time.Duration
	*httptest.ResponseRecorder
}

// poll asks for a job with that last_update, in the background.
func poll(ctx context.Context, c *Coordinator, token job.Secret, lastUpdate string) <-chan answered {
	done := make(chan answered, 1)
	body := `{"token":"` + token.Reveal() + `","last_update":"` + lastUpdate + `"}`
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/api/v4/jobs/request", strings.NewReader(body))
	go func() {
		start := time.Now()
		w := httptest.NewRecorder()
		w.Code = 0
		c.ServeHTTP(w, r)
		done <- answered{time.Since(start), w}
	}()
	return done
}

func TestLongPoll(t *testing.T) {
	t.Parallel()
	const never = "" // a last_update that is not the current one
	tests := []struct {
		name       string
		poll       time.Duration
		lastUpdate string
		// meanwhile happens 10 s after the request
		meanwhile  func(c *Coordinator, token job.Secret, leave func())
		wantAfter  time.Duration
		wantStatus int
		wantUpdate string
	}{
		{"nothing comes", 0, "1", nil, DefaultLongPoll, 204, "1"},
		{"own length", 20 * time.Second, "1", nil, 20 * time.Second, 204, "1"},
		{"off", -1, "1", nil, 0, 204, "1"},
		{"the runner knows something older", 0, never, nil, 0, 204, "1"},
		{"a job comes", 0, "1", func(c *Coordinator, _ job.Secret, _ func()) {
			c.Enqueue(&job.Spec{}, "docker")
		}, 10 * time.Second, 201, "2"},
		{"a job for others comes", 0, "1", func(c *Coordinator, _ job.Secret, _ func()) {
			c.Enqueue(&job.Spec{}, "gpu")
		}, DefaultLongPoll, 204, "1"},
		{"a job comes and goes", 0, "1", func(c *Coordinator, _ job.Secret, _ func()) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.runners[0].tick()
		}, 10 * time.Second, 204, "2"},
		{"the runner is removed", 0, "1", func(c *Coordinator, token job.Secret, _ func()) {
			c.RemoveRunner(token)
		}, 10 * time.Second, 403, ""},
		{"the coordinator closes", 0, "1", func(c *Coordinator, _ job.Secret, _ func()) {
			c.Close()
			c.Close()
		}, 10 * time.Second, 204, "1"},
		{"the client leaves", 0, "1", func(_ *Coordinator, _ job.Secret, leave func()) {
			leave()
		}, 10 * time.Second, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := New(Options{LongPoll: tt.poll})
				r := c.AddRunner(Runner{Tags: []string{"docker"}})
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				done := poll(ctx, c, r.Token, tt.lastUpdate)
				if tt.meanwhile != nil {
					time.AfterFunc(10*time.Second, func() { tt.meanwhile(c, r.Token, leave) })
				}
				got := <-done
				if got.after != tt.wantAfter || got.Code != tt.wantStatus {
					t.Errorf("%d after %s, want %d after %s", got.Code, got.after, tt.wantStatus, tt.wantAfter)
				}
				if u := got.Header().Get("X-GitLab-Last-Update"); u != tt.wantUpdate {
					t.Errorf("last update %q, want %q", u, tt.wantUpdate)
				}
			})
		})
	}
}

// pipes is a listener whose connections are pipes, so that time in them is synctest's.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error {
	close(p)
	return nil
}
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p <- server
	return client, nil
}

// TestLongPollOverHTTP: of two held runners one hangs up; the other one gets the job.
func TestLongPollOverHTTP(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{})
		r := c.AddRunner(Runner{RunUntagged: true})
		listener := make(pipes)
		server := &http.Server{Handler: c}
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()
		transport := &http.Transport{DialContext: listener.dial}
		ask := func(ctx context.Context) (int, error) {
			body := strings.NewReader(`{"token":"` + r.Token.Reveal() + `","last_update":"1"}`)
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gitlab/api/v4/jobs/request", body)
			if err != nil {
				return 0, err
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				return 0, err
			}
			defer resp.Body.Close()
			return resp.StatusCode, nil
		}
		first, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := ask(first)
			left <- err
		}()
		synctest.Wait() // the first one is held, and would be served first
		status := make(chan int, 1)
		go func() {
			s, err := ask(t.Context())
			if err != nil {
				t.Error(err)
			}
			status <- s
		}()
		time.Sleep(30 * time.Second) // synctest's
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the first request ended with %v", err)
		}
		synctest.Wait()
		j := c.Enqueue(&job.Spec{})
		if s := <-status; s != http.StatusCreated {
			t.Errorf("the second runner got %d", s)
		}
		if err := j.Started(t.Context()); err != nil || j.State() != job.Running {
			t.Errorf("%v, the job is %s", err, j.State())
		}
		transport.CloseIdleConnections()
		c.Close()
		server.Close()
		<-served
	})
}

func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{LongPoll: -1})
		r := c.AddRunner(Runner{})
		c.Inject(Fault{Endpoint: RequestJob, Delay: 5 * time.Second, Times: 3})
		if got := <-poll(t.Context(), c, r.Token, ""); got.after != 5*time.Second || got.Code != 204 {
			t.Errorf("%d after %s", got.Code, got.after)
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if got := <-poll(ctx, c, r.Token, ""); got.after != time.Second || got.Code != 0 {
			t.Errorf("client gone: %d after %s", got.Code, got.after)
		}
		time.AfterFunc(2*time.Second, c.Close)
		if got := <-poll(t.Context(), c, r.Token, ""); got.after != 2*time.Second || got.Code != 503 {
			t.Errorf("closed: %d after %s", got.Code, got.after)
		}
	})
}

func TestTokenExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{LongPoll: -1})
		r := c.AddRunner(Runner{TokenLifetime: time.Hour})
		if got := <-poll(t.Context(), c, r.Token, ""); got.Code != 204 {
			t.Errorf("%d, want 204", got.Code)
		}
		body := strings.NewReader(`{"token":"` + r.Token.Reveal() + `"}`)
		w := httptest.NewRecorder()
		c.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/v4/runners/verify", body))
		if want := `"token_expires_at":"2000-01-01T01:00:00Z"`; !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s lacks %s", w.Body, want)
		}
		time.Sleep(time.Hour) // synctest's
		if got := <-poll(t.Context(), c, r.Token, ""); got.Code != 403 {
			t.Errorf("%d, want 403", got.Code)
		}
	})
}

func TestWaitAndFollowEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{})
		j := c.Enqueue(&job.Spec{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := j.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait: %v", err)
		}
		time.AfterFunc(time.Minute, c.Close)
		if err := j.Follow(t.Context(), t.Output()); !errors.Is(err, ErrClosed) {
			t.Errorf("follow: %v", err)
		}
		j.Cancel(false)
		if o, err := j.Wait(t.Context()); err != nil || o.State != Canceled {
			t.Errorf("a job that ended: %+v %v", o, err)
		}
	})
}
