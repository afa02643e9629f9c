package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

// agent is a runner reduced to its requests.
type agent struct {
	t     *testing.T
	url   string
	token job.Secret
}

// call sends a request with a JSON body (or bytes as they are) and headers in pairs.
func (a agent) call(method, path string, body any, headers ...string) wireMessage {
	a.t.Helper()
	data, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			a.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.url+"/api/v4/"+path, bytes.NewReader(data))
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return do(a.t, req)
}

type object = map[string]any

func (a agent) wants(what, status string, got wireMessage) {
	a.t.Helper()
	if got.first != "HTTP/1.1 "+status {
		a.t.Errorf("%s: %s, want %s: %s", what, got.first, status, got.body)
	}
}

var allFeatures = object{"features": object{"trace_checksum": true, "trace_size": true, "cancel_gracefully": true}}

// request asks for a job and returns it, nil for none.
func (a agent) request() *job.Spec {
	a.t.Helper()
	got := a.call("POST", "jobs/request", object{"token": a.token.Reveal(), "system_id": "s_1", "info": allFeatures})
	if got.first == "HTTP/1.1 204" {
		return nil
	}
	a.wants("request", "201", got)
	var s job.Spec
	if err := json.Unmarshal(got.body, &s); err != nil {
		a.t.Fatal(err)
	}
	return &s
}

func (a agent) patch(s *job.Spec, start int, piece string) wireMessage {
	a.t.Helper()
	return a.call("PATCH", fmt.Sprintf("jobs/%d/trace", s.ID), []byte(piece), "Job-Token", s.Token.Reveal(),
		"Content-Range", fmt.Sprintf("%d-%d", start, start+len(piece)-1))
}

// update sends a state with the checksum of the whole log.
func (a agent) update(s *job.Spec, state job.State, log string, more object) wireMessage {
	a.t.Helper()
	body := object{"token": s.Token.Reveal(), "state": state, "info": allFeatures, "output": object{
		"checksum": fmt.Sprintf("crc32:%08x", crc32.ChecksumIEEE([]byte(log))), "bytesize": len(log),
	}}
	maps.Copy(body, more)
	return a.call("PUT", fmt.Sprintf("jobs/%d", s.ID), body)
}

// newAgent starts a coordinator without long polling, with one runner.
func newAgent(t *testing.T, opts Options) (*Coordinator, agent) {
	t.Helper()
	if opts.LongPoll == 0 {
		opts.LongPoll = -1
	}
	c, url := serve(t, opts)
	r := c.AddRunner(Runner{Tags: []string{"docker", "linux"}, RunUntagged: true})
	return c, agent{t, url, r.Token}
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	c, a := newAgent(t, Options{RegistrationToken: "GRtoken", PersonalToken: "glpat-x"})
	a.wants("wrong token", "403", a.call("POST", "runners", object{"token": "x"}))
	a.wants("neither tags nor untagged", "400", a.call("POST", "runners", object{"token": "GRtoken", "run_untagged": false}))
	a.wants("no JSON", "400", a.call("POST", "runners", []byte("token=GRtoken")))
	got := a.call("POST", "runners", object{"tag_list": " a, b ,", "maximum_timeout": 60}, "Runner-Token", "GRtoken")
	a.wants("register by header", "201", got)
	var registered struct {
		ID    int64
		Token string
	}
	if err := json.Unmarshal(got.body, &registered); err != nil || !strings.HasPrefix(registered.Token, "glrtr-") {
		t.Fatalf("%v %s", err, got.body)
	}
	want := Runner{
		ID: 2, Token: job.Secret(registered.Token), Tags: []string{"a", "b"}, RunUntagged: true, MaximumTimeout: time.Minute,
	}
	if d := cmp.Diff(want, c.Runners()[1]); d != "" {
		t.Error(d)
	}

	token := object{"token": registered.Token}
	reset := a.call("POST", "runners/reset_authentication_token", token)
	a.wants("reset", "201", reset)
	a.wants("the old token", "403", a.call("POST", "runners/verify", token))
	if err := json.Unmarshal(reset.body, &registered); err != nil || !strings.HasPrefix(registered.Token, "glrtr-") {
		t.Fatalf("%v %s", err, reset.body)
	}
	token["token"] = registered.Token
	a.wants("the new token", "200", a.call("POST", "runners/verify", token))
	a.wants("nobody resets", "401", a.call("POST", "runners/2/reset_authentication_token", nil))
	a.wants("somebody else resets", "401", a.call("POST", "runners/2/reset_authentication_token", nil, "Private-Token", "glpat-y"))
	a.wants("reset an unknown one", "404", a.call("POST", "runners/9/reset_authentication_token", nil, "Private-Token", "glpat-x"))
	a.wants("reset no number", "400", a.call("POST", "runners/x/reset_authentication_token", nil, "Private-Token", "glpat-x"))
	c.mu.Lock()
	c.runners[1].TokenLifetime, c.runners[1].expires = time.Hour, time.Now().Add(-time.Hour)
	c.mu.Unlock()
	a.wants("the token has expired", "403", a.call("POST", "runners/verify", token))
	reset = a.call("POST", "runners/2/reset_authentication_token", nil, "Private-Token", "glpat-x")
	a.wants("somebody resets", "201", reset)
	if err := json.Unmarshal(reset.body, &registered); err != nil {
		t.Fatalf("%v %s", err, reset.body)
	}
	token["token"] = registered.Token
	a.wants("the token of somebody", "200", a.call("POST", "runners/verify", token))
	a.wants("unregister an unknown manager", "404", a.call("DELETE", "runners/managers", object{"token": registered.Token, "system_id": "s_x"}))
	a.wants("unregister without a manager", "400", a.call("DELETE", "runners/managers", token))
	a.wants("delete", "204", a.call("DELETE", "runners", token))
	a.wants("verify after that", "403", a.call("POST", "runners/verify", token))
	a.wants("request after that", "403", a.call("POST", "jobs/request", token))

	closed, b := newAgent(t, Options{})
	b.wants("no registration token", "403", b.call("POST", "runners", object{"token": ""}))
	closed.RemoveRunner(b.token)
	b.wants("verify of a removed runner", "403", b.call("POST", "runners/verify", object{"token": b.token.Reveal()}))
}

func TestQueue(t *testing.T) {
	t.Parallel()
	c, a := newAgent(t, Options{})
	tagged := agent{t, a.url, c.AddRunner(Runner{Tags: []string{"gpu"}, MaximumTimeout: time.Minute}).Token}
	c.Enqueue(&job.Spec{JobInfo: job.Info{Name: "untagged"}})
	c.Enqueue(&job.Spec{JobInfo: job.Info{Name: "gpu"}, Steps: []job.Step{{Name: "script", Timeout: 7200}}}, "gpu")
	c.Enqueue(&job.Spec{JobInfo: job.Info{Name: "both"}}, "docker", "linux")
	c.Enqueue(&job.Spec{JobInfo: job.Info{Name: "mixed"}}, "docker", "gpu")

	s := tagged.request()
	if s == nil || s.JobInfo.Name != "gpu" {
		t.Fatalf("the runner with the tag gpu got %+v", s)
	}
	if s.RunnerInfo.Timeout != 60 || s.Steps[0].Timeout != 60 || s.Steps[0].When != "on_success" {
		t.Errorf("maximum_timeout does not count: %+v %+v", s.RunnerInfo, s.Steps)
	}
	if s := tagged.request(); s != nil {
		t.Errorf("it also got %+v", s)
	}
	c.PauseRunner(a.token, true)
	if s := a.request(); s != nil {
		t.Errorf("a paused runner got %+v", s)
	}
	c.PauseRunner(a.token, false)
	for _, want := range []string{"untagged", "both"} {
		if s := a.request(); s == nil || s.JobInfo.Name != want {
			t.Errorf("got %+v, want %s", s, want)
		}
	}
	if s := a.request(); s != nil {
		t.Errorf("nobody has both tags of %+v", s)
	}
}

func TestJobAuthorization(t *testing.T) {
	t.Parallel()
	c, a := newAgent(t, Options{})
	j := c.Enqueue(&job.Spec{})
	before := &job.Spec{ID: j.ID(), Token: j.Token()}
	a.wants("before it is handed out", "403", a.update(before, job.Running, "", nil))
	s := a.request()
	wrong := &job.Spec{ID: s.ID, Token: "glcbt-wrong"}
	unknown := &job.Spec{ID: 99, Token: s.Token}
	a.wants("update, wrong token", "403", a.update(wrong, job.Running, "", nil))
	a.wants("update, unknown job", "404", a.update(unknown, job.Running, "", nil))
	a.wants("update, no JSON", "400", a.call("PUT", fmt.Sprintf("jobs/%d", s.ID), []byte("{")))
	a.wants("update, unknown state", "400", a.update(s, "pending", "", nil))
	a.wants("patch, wrong token", "403", a.patch(wrong, 0, "x"))
	a.wants("patch, unknown job", "404", a.patch(unknown, 0, "x"))
	a.wants("upload, wrong token", "403", a.call("POST", fmt.Sprintf("jobs/%d/artifacts", s.ID), nil, "Job-Token", "x"))
	a.wants("download of nothing", "404", a.call("GET", fmt.Sprintf("jobs/%d/artifacts", s.ID), nil, "Job-Token", s.Token.Reveal()))
	a.wants("token in the header", "200", a.call("PUT", fmt.Sprintf("jobs/%d", s.ID), object{"state": "running"}, "Job-Token", s.Token.Reveal()))
	a.wants("the end", "200", a.update(s, job.Success, "", nil))
	a.wants("the end again", "403", a.update(s, job.Success, "", nil))
	if len(j.Trace()) != 0 {
		t.Errorf("trace: %q", j.Trace())
	}
	if got := a.call("GET", "version", nil); got.first != "HTTP/1.1 404" {
		t.Errorf("unknown endpoint: %s", got.first)
	}
}

func TestTrace(t *testing.T) {
	t.Parallel()
	c, a := newAgent(t, Options{UpdateInterval: 7 * time.Second})
	j := c.Enqueue(&job.Spec{})
	s := a.request()
	check := func(what, status, wantRange string, got wireMessage) {
		t.Helper()
		a.wants(what, status, got)
		if r := got.header.Get("Range"); r != wantRange {
			t.Errorf("%s: Range %q, want %q", what, r, wantRange)
		}
		if i := got.header.Get("X-GitLab-Trace-Update-Interval"); i != "7" {
			t.Errorf("%s: interval %q", what, i)
		}
	}
	check("first", "202", "0-5", a.patch(s, 0, "first"))
	check("gap", "416", "0-5", a.patch(s, 9, "x"))
	check("overlap", "416", "0-5", a.patch(s, 3, "x"))
	check("nothing", "202", "0-5", a.patch(s, 5, ""))
	check("second", "202", "0-11", a.patch(s, 5, "second"))
	check("no range", "400", "", a.call("PATCH", fmt.Sprintf("jobs/%d/trace", s.ID), []byte("x"), "Job-Token", s.Token.Reveal()))
	if string(j.Trace()) != "firstsecond" {
		t.Errorf("trace %q", j.Trace())
	}

	a.wants("another checksum", "412", a.update(s, job.Success, "firstsecons", nil))
	if len(j.Trace()) != 0 {
		t.Error("the log is still there after 412")
	}
	check("again, from the start", "202", "0-11", a.patch(s, 0, "firstsecond"))
	a.wants("another size", "412", a.update(s, job.Success, "firstsecond", object{"output": object{
		"checksum": fmt.Sprintf("crc32:%08x", crc32.ChecksumIEEE([]byte("firstsecond"))), "bytesize": 10,
	}}))
	check("again, from the start", "202", "0-11", a.patch(s, 0, "firstsecond"))
	a.wants("the end", "200", a.update(s, job.Success, "firstsecond", nil))

	// A runner that declares no checksums is believed.
	c.Enqueue(&job.Spec{})
	s = a.request()
	a.patch(s, 0, "log")
	a.wants("undeclared", "200", a.update(s, job.Success, "other", object{"info": object{"features": object{}}}))
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		before func(*Job)
		state  job.State
		more   object
		want   Outcome
	}{
		{"success", nil, job.Success, nil, Outcome{State: job.Success}},
		{
			"failure", nil, job.Failed,
			object{"failure_reason": "script_failure", "exit_code": 3},
			Outcome{State: job.Failed, FailureReason: job.ScriptFailure, ExitCode: 3},
		},
		{
			"unlisted reason", nil, job.Failed,
			object{"failure_reason": "bad_weather"},
			Outcome{State: job.Failed, FailureReason: job.UnknownFailure},
		},
		{"canceled gracefully", func(j *Job) { j.Cancel(true) }, job.Failed, nil, Outcome{State: Canceled}},
		{"success although canceling", func(j *Job) { j.Cancel(true); j.Cancel(true) }, job.Success, nil, Outcome{State: Canceled}},
		{"canceled at once", func(j *Job) { j.Cancel(true); j.Cancel(false) }, job.Success, nil, Outcome{State: Canceled}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, a := newAgent(t, Options{})
			j := c.Enqueue(&job.Spec{})
			s := a.request()
			if tt.before != nil {
				tt.before(j)
			}
			a.update(s, tt.state, "", tt.more)
			got, err := j.Wait(t.Context())
			if d := cmp.Diff(tt.want, got); d != "" || err != nil {
				t.Error(err, d)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	c, a := newAgent(t, Options{})
	j := c.Enqueue(&job.Spec{})
	j.Cancel(true)
	if j.State() != Canceled || a.request() != nil {
		t.Errorf("a job canceled in the queue is %s, or was handed out", j.State())
	}

	// Without cancel_gracefully there is no graceful cancel.
	j = c.Enqueue(&job.Spec{})
	got := a.call("POST", "jobs/request", object{"token": a.token.Reveal(), "info": object{"features": object{}}})
	a.wants("request", "201", got)
	j.Cancel(true)
	got = a.patch(&job.Spec{ID: j.ID(), Token: j.Token()}, 0, "x")
	a.wants("patch", "403", got)
	if s := got.header.Get("Job-Status"); s != "canceled" {
		t.Errorf("Job-Status %s", s)
	}
}

func upload(t *testing.T, part, content string) (body []byte, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	f, err := w.CreateFormFile(part, "a.zip")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), w.FormDataContentType()
}

func TestArtifactLimits(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		limit         int64
		part, content string
		status        string
	}{
		{"fits", 5, "file", "12345", "201"},
		{"too large", 5, "file", "123456", "413"},
		{"disabled", -1, "file", "1", "405"},
		{"no file", 5, "other", "1", "400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, a := newAgent(t, Options{MaxArtifact: tt.limit})
			c.Enqueue(&job.Spec{})
			s := a.request()
			body, contentType := upload(t, tt.part, tt.content)
			path := fmt.Sprintf("jobs/%d/artifacts?artifact_type=archive", s.ID)
			a.wants("upload", tt.status, a.call("POST", path, body, "Job-Token", s.Token.Reveal(), "Content-Type", contentType))
			a.wants("no multipart", map[string]string{"405": "405"}[tt.status]+map[string]string{"201": "400", "413": "400", "400": "400"}[tt.status],
				a.call("POST", path, body, "Job-Token", s.Token.Reveal()))
		})
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	c, a := newAgent(t, Options{})
	j := c.Enqueue(&job.Spec{})
	c.Inject(Fault{Endpoint: RequestJob, Status: 409})
	a.wants("request", "409", a.call("POST", "jobs/request", object{"token": a.token.Reveal()}))
	s := a.request()

	c.Inject(Fault{Endpoint: PatchTrace, Status: 500, Times: 2, Body: "boom", Header: map[string]string{"Retry-After": "1"}})
	for range 2 {
		got := a.patch(s, 0, "x")
		a.wants("patch", "500", got)
		if got.header.Get("Retry-After") != "1" || string(got.body) != "boom" || got.header.Get("Job-Status") != "running" {
			t.Errorf("%v %s", got.header, got.body)
		}
	}
	a.wants("after the fault", "202", a.patch(s, 0, "log"))

	c.Inject(Fault{Endpoint: PatchTrace, Status: 416})
	if got := a.patch(s, 3, "x"); got.header.Get("Range") != "0-3" {
		t.Errorf("416 with Range %q", got.header.Get("Range"))
	}

	c.Inject(Fault{Endpoint: PatchTrace, Status: 503, Skip: 1})
	a.wants("skipped", "202", a.patch(s, 3, "x"))
	a.wants("not skipped", "503", a.patch(s, 4, "x"))

	c.Inject(Fault{Endpoint: UpdateJob, Status: 202})
	if got := a.update(s, job.Success, "logx", nil); string(got.body) != "202" {
		t.Errorf("202 with body %q", got.body)
	}
	c.Inject(Fault{Endpoint: UpdateJob, Status: 412})
	a.wants("412", "412", a.update(s, job.Success, "logx", nil))
	if len(j.Trace()) != 0 {
		t.Error("the log is still there after 412")
	}
	a.wants("again", "202", a.patch(s, 0, "logx"))

	remove := c.Inject(Fault{Times: -1, Status: 502, Match: func(r *http.Request) bool { return r.Method == "PUT" }})
	for range 3 {
		a.wants("for ever", "502", a.update(s, job.Running, "", nil))
	}
	remove()

	c.Inject(Fault{Endpoint: UpdateJob, Drop: true, After: true})
	if err := a.dropped(s); err == nil {
		t.Error("the connection was not dropped")
	}
	if j.State() != job.Success {
		t.Errorf("with After, the request was not carried out: the job is %s", j.State())
	}

	j = c.Enqueue(&job.Spec{})
	s = a.request()
	c.Inject(Fault{Endpoint: UpdateJob, Drop: true})
	if err := a.dropped(s); err == nil || j.State() != job.Running {
		t.Errorf("error %v, state %s", err, j.State())
	}
	var statuses []int
	for _, r := range j.Requests() {
		statuses = append(statuses, r.Status)
	}
	if d := cmp.Diff([]int{0}, statuses); d != "" {
		t.Error(d)
	}

	c.Close()
	a.wants("closed", "503", a.update(s, job.Running, "", nil))
}

// dropped sends a final update and returns the error of the transport. Its client does not try a second time.
func (a agent) dropped(s *job.Spec) error {
	body := strings.NewReader(fmt.Sprintf(`{"token":%q,"state":"success"}`, s.Token.Reveal()))
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodPut, fmt.Sprintf("%s/api/v4/jobs/%d", a.url, s.ID), body)
	if err != nil {
		a.t.Fatal(err)
	}
	req.GetBody = nil
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// gone is a connection whose client has left.
type gone struct{ *httptest.ResponseRecorder }

func (gone) FlushError() error { return errors.New("broken pipe") }

func TestUndeliveredJobIsPutBack(t *testing.T) {
	t.Parallel()
	c, a := newAgent(t, Options{})
	first := c.Enqueue(&job.Spec{})
	c.Enqueue(&job.Spec{})
	body := fmt.Sprintf(`{"token":%q}`, a.token.Reveal())
	c.ServeHTTP(gone{httptest.NewRecorder()}, httptest.NewRequest(http.MethodPost, "/api/v4/jobs/request", strings.NewReader(body)))
	if first.State() != Pending || !first.Times().HandedOut.IsZero() {
		t.Errorf("the job is %s, %+v", first.State(), first.Times())
	}
	if s := a.request(); s == nil || s.ID != first.ID() || len(s.Variables) != len(first.Spec().Variables) {
		t.Errorf("the next runner got %+v", s)
	}
}

// TestConcurrency lets many runners, watchers and cancels at one coordinator; the race detector watches.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	const runners, jobs = 8, 40
	c, a := newAgent(t, Options{LongPoll: 200 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var all []*Job
	var wg sync.WaitGroup
	for i := range jobs {
		j := c.Enqueue(&job.Spec{JobInfo: job.Info{Name: fmt.Sprint(i)}})
		all = append(all, j)
		wg.Go(func() {
			var log bytes.Buffer
			if err := j.Follow(ctx, &log); err != nil || log.String() != string(j.Trace()) {
				t.Errorf("follow: %v, %q of %q", err, log.String(), j.Trace())
			}
		})
	}
	var mu sync.Mutex
	seen := map[int64]int{}
	for range runners {
		wg.Go(func() {
			for s := a.request(); s != nil; s = a.request() {
				mu.Lock()
				seen[s.ID]++
				mu.Unlock()
				log := ""
				for k := range 5 {
					piece := fmt.Sprintf("%s line %d\n", s.JobInfo.Name, k)
					a.patch(s, len(log), piece)
					log += piece
				}
				a.wants("final update", "200", a.update(s, job.Success, log, nil))
			}
		})
	}
	for _, j := range all {
		if o, err := j.Wait(ctx); err != nil || o.State != job.Success {
			t.Errorf("job %d: %+v %v", j.ID(), o, err)
		}
		j.Cancel(true)
		j.Requests()
		j.Times()
	}
	wg.Wait()
	if len(seen) != jobs {
		t.Errorf("%d of %d jobs were handed out", len(seen), jobs)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("job %d was handed out %d times", id, n)
		}
	}
}
