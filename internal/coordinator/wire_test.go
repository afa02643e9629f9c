package coordinator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

// What the recorded requests use.
const (
	wireURL    = "http://172.17.0.1:8929"
	wireRunner = "glrt-t1_rigtoken0000000001"
	wireSystem = "s_1746f8786189"
)

// message of HTTP as recorded from GitLab's own runner, or as answered.
type wireMessage struct {
	first  string // request or status line
	header http.Header
	body   []byte
}

// readWire reads one recorded request and its answer.
func readWire(t *testing.T, name string) (request, answer wireMessage) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "wire", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.LastIndex(data, []byte("\n\n< HTTP/"))
	if i < 0 {
		t.Fatalf("%s has no answer", name)
	}
	request = parseWire(t, "> ", data[:i])
	answer = parseWire(t, "< ", data[i+2:])
	if n, err := strconv.Atoi(request.header.Get("Content-Length")); err == nil && n <= len(request.body) {
		request.body = request.body[:n]
	}
	return request, answer
}

func parseWire(t *testing.T, mark string, data []byte) wireMessage {
	t.Helper()
	head, body, ok := bytes.Cut(data, []byte("\n"+strings.TrimSpace(mark)+"\n"))
	if !ok {
		t.Fatalf("no end of headers in %.200q", data)
	}
	m := wireMessage{header: http.Header{}, body: body}
	for line := range strings.Lines(string(head)) {
		line = strings.TrimSuffix(strings.TrimPrefix(line, mark), "\n")
		key, value, isHeader := strings.Cut(line, ": ")
		if m.first == "" {
			m.first = line
		} else if isHeader {
			m.header.Set(key, value)
		}
	}
	return m
}

// send sends a recorded request. Replacements, old and new in turn, are made in its target, headers and body.
func (m wireMessage) send(t *testing.T, url string, replacements ...string) wireMessage {
	t.Helper()
	rewrite := strings.NewReplacer(replacements...)
	method, target, _ := strings.Cut(strings.TrimSuffix(m.first, " HTTP/1.1"), " ")
	req, err := http.NewRequestWithContext(t.Context(), method, url+rewrite.Replace(target),
		strings.NewReader(rewrite.Replace(string(m.body))))
	if err != nil {
		t.Fatal(err)
	}
	for key, values := range m.header {
		switch key {
		case "Host", "Content-Length", "Accept-Encoding":
		case "Transfer-Encoding":
			req.ContentLength = -1
		default:
			req.Header.Set(key, rewrite.Replace(values[0]))
		}
	}
	return do(t, req)
}

func do(t *testing.T, req *http.Request) wireMessage {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Header.Del("Date")
	return wireMessage{first: fmt.Sprintf("HTTP/1.1 %d", resp.StatusCode), header: resp.Header, body: body}
}

// sameAnswer compares status, recorded headers and body.
func sameAnswer(t *testing.T, what string, want, got wireMessage) {
	t.Helper()
	if want.first != got.first {
		t.Fatalf("%s: %s, want %s: %s", what, got.first, want.first, got.body)
	}
	for key := range want.header {
		if d := cmp.Diff(want.header.Get(key), got.header.Get(key)); d != "" {
			t.Errorf("%s: header %s: %s", what, key, d)
		}
	}
	if d := cmp.Diff(string(want.body), string(got.body)); d != "" {
		t.Errorf("%s: body: %s", what, d)
	}
}

// serve starts a coordinator behind a real server.
func serve(t *testing.T, opts Options) (*Coordinator, string) {
	t.Helper()
	c := New(opts)
	server := httptest.NewServer(c)
	t.Cleanup(func() {
		c.Close()
		server.Close()
	})
	return c, server.URL
}

// wireJob is the job that most recorded requests are about, with that number.
func wireJob(id int64) *job.Spec {
	return &job.Spec{
		ID: id, Token: job.Secret(fmt.Sprintf("glcbt-64_job%dsecrettoken", id)), AllowGitFetch: true,
		JobInfo: job.Info{Name: "exit3", Stage: "build", PipelineID: 1, ProjectFullPath: "group/demo"},
		GitInfo: job.Git{
			Ref: "main", SHA: "c77f8953937829f01275022ae16dc06884e29cf5", Depth: 20, Protected: new(true),
			Refspecs: []string{"+refs/pipelines/1:refs/pipelines/1", "+refs/heads/main:refs/remotes/origin/main"},
		},
		RunnerInfo: job.RunnerInfo{Timeout: 3600},
		Image:      job.Image{Name: "docker:20.10.7"},
		Steps: []job.Step{
			{Name: "script", Script: []string{"echo hi", "exit 3"}},
			{Name: "after_script", Script: []string{"echo after"}, When: "always", AllowFailure: true},
		},
		Variables: job.Variables{{Key: "GIT_STRATEGY", Value: "none", Public: true}},
	}
}

// wireServer is a coordinator as the recorded runner saw it.
func wireServer(t *testing.T) (*Coordinator, string) {
	t.Helper()
	c, url := serve(t, Options{URL: wireURL, RegistrationToken: "GR1348941legacyregtoken", LongPoll: -1})
	c.AddRunner(Runner{Token: wireRunner, Tags: []string{"dockerd"}})
	c.AddProject(Project{ID: 7, Path: "group/demo", RepoDir: t.TempDir(), Registry: "172.17.0.1:5000"})
	return c, url
}

func TestWireRunner(t *testing.T) {
	t.Parallel()
	c, url := wireServer(t)

	req, want := readWire(t, "runners-verify-01")
	sameAnswer(t, "verify", want, req.send(t, url))
	managers := c.Managers(wireRunner)
	if len(managers) != 1 || managers[0].SystemID != wireSystem || managers[0].Info.Executor != "docker" ||
		!managers[0].Info.Features["cancel_gracefully"] {
		t.Errorf("managers: %+v", managers)
	}
	if got := req.send(t, url, wireRunner, "glrt-wrong"); got.first != "HTTP/1.1 403" {
		t.Errorf("verify with a wrong token: %s", got.first)
	}

	req, want = readWire(t, "runners-managers-unregister-01")
	sameAnswer(t, "unregister", want, req.send(t, url))
	if got := c.Managers(wireRunner); len(got) != 0 {
		t.Errorf("managers are left: %+v", got)
	}

	req, want = readWire(t, "runners-register-01")
	got := req.send(t, url)
	token := regexp.MustCompile(`glrtr-[A-Z0-9]{26}`).FindString(string(got.body))
	got.body = bytes.ReplaceAll(got.body, []byte(token), []byte(wireRunner))
	want.body = bytes.Replace(want.body, []byte(`"id":1`), []byte(`"id":2`), 1)
	sameAnswer(t, "register", want, got)
	if got := c.Runners()[1]; got.Tags[0] != "dockerd" || got.RunUntagged || got.Description != "rig" {
		t.Errorf("registered: %+v", got)
	}
}

// TestWireJob replays a whole job: request, updates and log are those of GitLab's own runner, so the checksum of the last
// update is over the log as it was really sent.
func TestWireJob(t *testing.T) {
	t.Parallel()
	c, url := wireServer(t)
	j := c.Enqueue(wireJob(1001), "dockerd")

	req, want := readWire(t, "jobs-request-201-01")
	got := req.send(t, url)
	samePayload(t, want.body, got.body)
	want.body, got.body = nil, nil
	sameAnswer(t, "request", want, got)

	for _, name := range []string{
		"job-put-running-01", "trace-patch-202-01", "trace-patch-202-02", "job-put-failed-script_failure-01",
	} {
		req, want := readWire(t, name)
		sameAnswer(t, name, want, req.send(t, url))
	}
	outcome, err := j.Wait(t.Context())
	if d := cmp.Diff(Outcome{State: job.Failed, FailureReason: job.ScriptFailure, ExitCode: 3}, outcome); d != "" || err != nil {
		t.Errorf("outcome: %v %s", err, d)
	}
	if trace := j.Trace(); len(trace) != 4802 || !bytes.HasSuffix(trace, []byte("exit code 3\x1b[0;m\n")) {
		t.Errorf("trace of %d bytes: %q", len(trace), trace)
	}
	wantUpdates := []job.Update{
		{State: job.Running},
		{State: job.Failed, Reason: job.ScriptFailure, ExitCode: 3, Checksum: "crc32:6a24b37c", ByteSize: 4802},
	}
	if d := cmp.Diff(wantUpdates, j.Updates()); d != "" {
		t.Error(d)
	}
	tm := j.Times()
	for i, pair := range [][2]time.Time{
		{tm.Queued, tm.HandedOut}, {tm.HandedOut, tm.Running}, {tm.Running, tm.FirstByte}, {tm.FirstByte, tm.Final},
	} {
		if pair[0].IsZero() || pair[1].Before(pair[0]) {
			t.Errorf("times, step %d: %v", i, tm)
		}
	}

	// What comes after the end is refused, with the words that the recorded runner got.
	req, want = readWire(t, "trace-patch-403-01")
	want.header.Set("Job-Status", "failed")
	sameAnswer(t, "late piece", want, req.send(t, url, "1006", "1001"))
}

// samePayload compares a payload with the recorded one: what is in both must be the same, what only ours has must be
// empty, and the variables must come in the same order.
func samePayload(t *testing.T, wantBody, gotBody []byte) {
	t.Helper()
	var want, got map[string]any
	if json.Unmarshal(wantBody, &want) != nil || json.Unmarshal(gotBody, &got) != nil {
		t.Fatalf("not JSON: %.100s / %.100s", wantBody, gotBody)
	}
	delete(want["job_info"].(map[string]any), "time_in_queue_seconds")
	delete(got["job_info"].(map[string]any), "time_in_queue_seconds")
	delete(got["job_info"].(map[string]any), "pipeline_id") // a real GitLab sends it, the recorded server did not
	sameShared(t, "payload", want, got)
	for key := range want {
		switch key {
		case "inputs", "policy_options": // nothing here reads them
		default:
			if _, ok := got[key]; !ok {
				t.Errorf("payload lacks %s", key)
			}
		}
	}
}

func sameShared(t *testing.T, path string, want, got any) {
	t.Helper()
	switch got := got.(type) {
	case map[string]any:
		wantMap, _ := want.(map[string]any)
		for key, value := range got {
			sameShared(t, path+"."+key, wantMap[key], value)
		}
	case []any:
		wantList, _ := want.([]any)
		if len(wantList) != len(got) {
			t.Errorf("%s has %d items, want %d: %v, want %v", path, len(got), len(wantList), got, want)
			return
		}
		for i, value := range got {
			sameShared(t, fmt.Sprintf("%s[%d]", path, i), wantList[i], value)
		}
	default:
		empty := want == nil && (got == "" || got == false || got == 0.0)
		if d := cmp.Diff(want, got); d != "" && !empty {
			t.Errorf("%s: %s", path, d)
		}
	}
}

func TestWireNoJob(t *testing.T) {
	t.Parallel()
	_, url := wireServer(t)
	req, want := readWire(t, "jobs-request-204-01")
	got := req.send(t, url)
	want.header.Set("X-GitLab-Last-Update", "1")
	sameAnswer(t, "request", want, got)
}

// TestWireOutOfStep replays the answers to a runner that is out of step with the server.
func TestWireOutOfStep(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		job     int64
		prepare func(*testing.T, *Job)
	}{
		{"trace-patch-416-02", 1011, func(t *testing.T, j *Job) {
			fill(j, 4001)
			j.c.Inject(Fault{Endpoint: PatchTrace, Status: 416})
		}},
		{"job-put-412-01", 1007, func(t *testing.T, j *Job) { fill(j, 4498) }},
		{"job-put-running-keepalive", 1005, func(t *testing.T, j *Job) { j.Cancel(true) }},
		{"job-put-403-01", 1006, func(t *testing.T, j *Job) { j.Cancel(false) }},
		{"trace-patch-403-01", 1006, func(t *testing.T, j *Job) { j.Cancel(false) }},
		{"artifacts-upload-01", 1013, func(t *testing.T, j *Job) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, url := wireServer(t)
			j := c.Enqueue(wireJob(tt.job), "dockerd")
			poll, _ := readWire(t, "jobs-request-201-01")
			if got := poll.send(t, url); got.first != "HTTP/1.1 201" {
				t.Fatalf("no job: %s", got.first)
			}
			tt.prepare(t, j)
			req, want := readWire(t, tt.name)
			sameAnswer(t, tt.name, want, req.send(t, url))
		})
	}
}

// fill gives a job a log of so many bytes.
func fill(j *Job, size int) {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	j.trace = bytes.Repeat([]byte("x"), size)
}

func TestWireArtifacts(t *testing.T) {
	t.Parallel()
	c, url := wireServer(t)
	j := c.Enqueue(wireJob(1013), "dockerd")
	poll, _ := readWire(t, "jobs-request-201-01")
	poll.send(t, url)
	upload, want := readWire(t, "artifacts-upload-01")
	sameAnswer(t, "upload", want, upload.send(t, url))
	a := j.Artifacts()
	if len(a) != 1 || a[0].Filename != "out.zip" || a[0].Format != "zip" || a[0].ExpireIn != "1 day" {
		t.Fatalf("artifacts: %+v", a)
	}
	download, want := readWire(t, "artifacts-download-01")
	want.body = a[0].Content
	sameAnswer(t, "download", want, download.send(t, url))
	j.Cancel(false)
	sameAnswer(t, "download after the job's end", want, download.send(t, url))
	if got := download.send(t, url, "glcbt-64_job1013", "glcbt-64_job1012"); got.first != "HTTP/1.1 403" {
		t.Errorf("download with a wrong token: %s", got.first)
	}
}
