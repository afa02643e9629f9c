package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// chatty prints 3000 lines in three portions, so that the log takes several requests.
func chatty() *job.Spec {
	return spec("seq 1 1000 | sed 's/^/line /'", "sleep 1.5", "seq 1001 2000 | sed 's/^/line /'", "sleep 1.5", "seq 2001 3000 | sed 's/^/line /'")
}

// TestFaultsOfTheServer: whatever the server does to the calls about a job, the log that it has in the end is whole.
func TestFaultsOfTheServer(t *testing.T) {
	t.Parallel()
	const patch, put = coordinator.PatchTrace, coordinator.UpdateJob
	type fault = coordinator.Fault
	tests := []struct {
		name   string
		faults []fault
		check  func(*testing.T, []coordinator.Request)
	}{
		{name: "the log is answered 500 and 503", faults: []fault{
			{Endpoint: patch, Status: 500, Times: 3}, {Endpoint: patch, Status: 503, Times: 7},
		}},
		{name: "states are answered 500 and 503", faults: []fault{
			{Endpoint: put, Status: 500, Times: 2}, {Endpoint: put, State: job.Success, Status: 503, Times: 7},
		}},
		{name: "the end is accepted, but not complete", faults: []fault{
			{Endpoint: put, State: job.Success, Status: 202, Times: 3},
		}, check: func(t *testing.T, list []coordinator.Request) {
			var final []time.Time
			for _, q := range list {
				if q.Endpoint == put && q.Update.State == job.Success {
					final = append(final, q.At)
				}
			}
			if len(final) != 4 || final[1].Sub(final[0]) < time.Second {
				t.Errorf("the end was sent at %v", final)
			}
		}},
		{name: "the log is to be sent again", faults: []fault{
			{Endpoint: put, State: job.Success, Status: 412},
		}, check: func(t *testing.T, list []coordinator.Request) {
			resent := false
			for _, q := range list {
				if q.Status == 412 {
					resent = false
				}
				resent = resent || q.Endpoint == patch && strings.HasPrefix(q.Range, "0-")
			}
			if !resent {
				t.Error("the log was not sent again from its beginning")
			}
		}},
		{name: "pieces are out of range", faults: []fault{
			{Endpoint: patch, Skip: 1, Status: 416, Times: 2},
			{Endpoint: patch, Skip: 2, Status: 416, Header: map[string]string{"Range": "0-10"}},
			{Endpoint: patch, Skip: 3, Status: 416, Header: map[string]string{"Range": "0-99999999"}},
		}},
		{name: "connections break", faults: []fault{
			{Endpoint: patch, Drop: true, Times: 2}, {Endpoint: put, Drop: true}, {Endpoint: put, State: job.Success, Drop: true, Times: 2},
		}},
		{name: "answers are lost", faults: []fault{
			{Endpoint: patch, Drop: true, After: true, Times: 2}, {Endpoint: put, Drop: true, After: true, Times: 2},
		}},
		{name: "answers are late", faults: []fault{
			{Endpoint: patch, Delay: 700 * time.Millisecond, Times: -1}, {Endpoint: put, Delay: 2 * time.Second, Times: -1},
		}},
		{name: "answers are nonsense", faults: []fault{
			{Endpoint: patch, Status: 200, Body: "<html>", Times: 2},
			{Endpoint: put, Status: 418, Body: "<html>", Times: 2},
			{Endpoint: patch, Skip: 2, Status: 202, Header: map[string]string{"X-Gitlab-Trace-Update-Interval": "-5", "Job-Status": "what"}, After: true},
		}},
		{name: "retries are to wait", faults: []fault{
			{Endpoint: patch, Status: 503, Header: map[string]string{"Retry-After": "2"}},
			{Endpoint: put, State: job.Success, Status: 429, Header: map[string]string{"Retry-After": "2"}},
		}, check: func(t *testing.T, list []coordinator.Request) {
			for i, q := range list {
				if q.Status != 503 && q.Status != 429 {
					continue
				}
				for _, next := range list[i+1:] {
					if next.Endpoint == q.Endpoint {
						if wait := next.At.Sub(q.At); wait < 1900*time.Millisecond {
							t.Errorf("%s was tried again after %s", q.Endpoint, wait)
						}
						break
					}
				}
			}
		}},
	}
	r := newRig(t, concurrent(len(tests)))
	for i, tt := range tests {
		s := chatty()
		s.ID = int64(1000 + i)
		for _, f := range tt.faults {
			f.Match = aboutID(s.ID)
			r.Inject(f)
		}
		j := r.enqueue(s)
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			log := r.in(t).succeeds(j)
			numbered(t, log, 3000)
			once(t, log, "Job succeeded")
			if tt.check != nil {
				tt.check(t, j.Requests())
			}
		})
	}
}

// TestFaultsOfRequests: no answer to a request for a job keeps the runner from asking again.
func TestFaultsOfRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.stop()
	for _, f := range []coordinator.Fault{
		{Status: http.StatusForbidden},
		{Drop: true},
		{Status: http.StatusOK, Body: "<html>"},
		{Status: http.StatusCreated, Body: "{"},
		{Status: http.StatusInternalServerError, Times: 3},
		{Status: http.StatusServiceUnavailable, Header: map[string]string{"Retry-After": "1"}},
	} {
		f.Endpoint = coordinator.RequestJob
		r.Inject(f)
	}
	r.start()
	r.succeeds(r.enqueue(spec("true")))
	r.logged("the runner is refused", "asking for jobs works again")
}

// TestServerVanishes: nobody listens for a while. One job ends meanwhile, another goes on.
func TestServerVanishes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ends := r.enqueue(spec(lines(10), "echo first", untilTold, "seq 11 2000 | sed 's/^/line /'"))
	goesOn := r.enqueue(spec("i=0; until test -e go-on; do i=$((i+1)); echo line $i; sleep 1; done", "echo counted to $i"))
	r.until(ends, "\nfirst\n")
	r.until(goesOn, "\nline 2\n")
	r.vanish()
	r.tell(ends)
	r.logged("state=success", "asking for jobs fails") // of the job that ends
	warnings := func() int { return strings.Count(r.log.String(), "the job's log or state cannot be sent, trying on") }
	r.eventually("both jobs have noticed", func() bool { return warnings() == 2 })
	r.comeBack()

	numbered(t, r.succeeds(ends), 2000)
	r.tell(goesOn)
	log := r.succeeds(goesOn)
	_, counted, _ := strings.Cut(log, "\ncounted to ")
	n, err := strconv.Atoi(strings.Fields(counted + " none")[0])
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	numbered(t, log, n)
	r.succeeds(r.enqueue(spec("true")))

	log = r.log.String()
	wants(t, log, "asking for jobs works again", "the job's log and state can be sent again")
	once(t, log, "asking for jobs fails")
	if n := warnings(); n != 2 {
		t.Errorf("%d warnings, want one for each job:\n%s", n, log)
	}
}

// vanish closes the server's port and all connections.
func (r *rig) vanish() {
	r.server.Listener.Close()
	r.server.CloseClientConnections()
	r.server.Close()
	r.port = hold(r.t, strings.TrimPrefix(r.url, "http://"))
}

// comeBack opens the port again.
func (r *rig) comeBack() {
	r.t.Helper()
	r.server = httptest.NewUnstartedServer(r.Coordinator)
	r.server.Listener.Close()
	r.eventually("the port is free", func() (ok bool) {
		l, err := net.Listen("tcp", strings.TrimPrefix(r.url, "http://"))
		r.server.Listener = l
		return err == nil
	})
	r.server.Start()
	r.port()
}

// await lets real time pass, for what happens in other processes.
func await(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
