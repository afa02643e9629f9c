package guard

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// quiet is how long a connection that has answered says nothing before a test takes it that it has said all.
const quiet = 200 * time.Millisecond

// send writes bytes to the guard's socket, and returns what comes back until the guard closes, or has said all of what is awaited and
// says nothing more. It does not end its own direction: the server would take that for a client that is gone.
func (r *rig) send(text string, awaited ...string) string {
	conn, err := net.Dial("unix", r.Socket())
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		return err.Error() // closed before all was read
	}
	var b bytes.Buffer
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return b.String()
		}
		if !slices.ContainsFunc(awaited, func(part string) bool { return !strings.Contains(b.String(), part) }) {
			_ = conn.SetReadDeadline(time.Now().Add(quiet))
		}
	}
}

// request is the text of a request.
func request(line string, lines ...string) string {
	return strings.Join(append([]string{line, "Host: guard"}, lines...), "\r\n") + "\r\n\r\n"
}

// sendAll sends texts at once and checks each answer.
func sendAll(t *testing.T, r *rig, texts map[string]string, check func(t *testing.T, answer string)) {
	var all sync.WaitGroup
	answers := make(map[string]*string, len(texts))
	for name, text := range texts {
		answer := new(string)
		answers[name] = answer
		all.Go(func() { *answer = r.send(text) })
	}
	all.Wait()
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) { check(t, *answer) })
	}
}

// TestRequestsInOtherWords sends what proxies and Engines have read in different ways. Nothing of it may reach the Engine.
func TestRequestsInOtherWords(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	secret := other.own("secret", "--network", "none", "--env", "PASSWORD=hunter2", alpine, "true")
	target := "/v1.41/containers/" + secret + "/json"
	before := r.calls.String()
	sendAll(t, r, map[string]string{
		"http2 preface":             "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"http2 request line":        request("GET " + target + " HTTP/2.0"),
		"absolute form":             request("GET http://guard" + target + " HTTP/1.1"),
		"absolute form elsewhere":   request("GET http://elsewhere/_ping HTTP/1.1"),
		"connect":                   request("CONNECT " + target + " HTTP/1.1"),
		"connect host":              request("CONNECT guard:80 HTTP/1.1"),
		"options":                   request("OPTIONS " + target + " HTTP/1.1"),
		"options all":               request("OPTIONS * HTTP/1.1"),
		"trace":                     request("TRACE /_ping HTTP/1.1"),
		"method in lower case":      request("get " + target + " HTTP/1.1"),
		"escaped slash":             request("GET /v1.41/containers%2f" + secret + "%2fjson HTTP/1.1"),
		"escaped dot":               request("GET /v1.41/containers/%2e%2e/containers/" + secret + "/json HTTP/1.1"),
		"double escape":             request("GET /v1.41/containers%252f" + secret + "/json HTTP/1.1"),
		"escaped zero":              request("GET /v1.41/containers/" + secret + "%00/json HTTP/1.1"),
		"escaped newline":           request("GET /v1.41/containers/" + secret + "%0a/json HTTP/1.1"),
		"double slash":              request("GET /v1.41//containers/" + secret + "/json HTTP/1.1"),
		"leading double slash":      request("GET //v1.41/containers/" + secret + "/json HTTP/1.1"),
		"dot dot":                   request("GET /v1.41/images/../containers/" + secret + "/json HTTP/1.1"),
		"dot":                       request("GET /v1.41/./containers/" + secret + "/json HTTP/1.1"),
		"trailing slash":            request("GET " + target + "/ HTTP/1.1"),
		"version with zeros":        request("GET /v01.41/containers/" + secret + "/json HTTP/1.1"),
		"version in version":        request("GET /v1.41/v1.41/containers/" + secret + "/json HTTP/1.1"),
		"version of three":          request("GET /v1.41.0/containers/" + secret + "/json HTTP/1.1"),
		"newer version":             request("GET /v1.99/_ping HTTP/1.1"),
		"older version":             request("GET /v1.12/_ping HTTP/1.1"),
		"semicolon in query":        request("GET /v1.41/containers/json?all=1;filters={} HTTP/1.1"),
		"bad escape in query":       request("GET /v1.41/containers/json?all=%zz HTTP/1.1"),
		"key twice":                 request("GET /v1.41/containers/json?all=0&all=1 HTTP/1.1"),
		"filters twice":             request("GET /v1.41/containers/json?filters={}&filters={} HTTP/1.1"),
		"two lengths":               request("POST /v1.41/containers/prune HTTP/1.1", "Content-Length: 0", "Content-Length: 10") + "0123456789",
		"bad length":                request("POST /v1.41/containers/prune HTTP/1.1", "Content-Length: +5") + "01234",
		"unknown transfer":          request("POST /v1.41/containers/prune HTTP/1.1", "Transfer-Encoding: gzip, chunked") + "0\r\n\r\n",
		"chunk of another spelling": request("POST /v1.41/containers/prune HTTP/1.1", "Transfer-Encoding: xchunked") + "0\r\n\r\n",
		"no host":                   "GET " + target + " HTTP/1.1\r\n\r\n",
		"two hosts":                 request("GET "+target+" HTTP/1.1", "Host: other"),
		"form":                      request("POST /v1.41/containers/prune HTTP/1.1", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 10") + "filters={}",
		"second type":               request("POST /v1.41/containers/prune HTTP/1.1", "Content-Type: application/json", "Content-Type: Multipart/form-data", "Content-Length: 2") + "{}",
		"space before colon":        request("GET "+target+" HTTP/1.1", "Upgrade : tcp"),
		"websocket":                 request("GET /v1.41/containers/"+secret+"/attach/ws HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"),
		"debug":                     request("GET /debug/pprof/cmdline HTTP/1.1"),
		"metrics":                   request("GET /v1.41/metrics HTTP/1.1"),
		"swarm":                     request("POST /v1.41/swarm/init HTTP/1.1"),
		"plugins":                   request("POST /v1.41/plugins/pull?remote=x HTTP/1.1"),
		"services":                  request("POST /v1.41/services/create HTTP/1.1"),
		"volume update":             request("PUT /v1.41/volumes/x HTTP/1.1"),
		"checkpoints":               request("POST /v1.41/containers/" + secret + "/checkpoints HTTP/1.1"),
		"old copy":                  request("POST /v1.24/containers/" + secret + "/copy HTTP/1.1"),
	}, func(t *testing.T, answer string) {
		status, _, _ := strings.Cut(strings.TrimPrefix(answer, "HTTP/1.1 "), " ")
		if !strings.HasPrefix(answer, "HTTP/1.1 ") || status < "400" {
			t.Errorf("%.300q", answer)
		}
		lacks(t, answer, "hunter2")
	})
	if after := r.calls.String(); after != before {
		t.Errorf("these reached the Engine:\n%s", strings.TrimPrefix(after, before))
	}
}

// TestNothingIsSmuggled pipelines a second request behind one whose end can be read in two ways.
func TestNothingIsSmuggled(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	secret := other.own("secret", "--network", "none", "--env", "PASSWORD=hunter2", alpine, "true")
	id := r.own("db", "--network", "none", alpine, "true")
	hidden := request("GET /v1.41/containers/" + secret + "/json HTTP/1.1")
	sendAll(t, r, map[string]string{
		"upgrade on ping":     request("GET /_ping HTTP/1.1", "Connection: Upgrade", "Upgrade: tcp") + hidden,
		"h2c on ping":         request("GET /_ping HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA") + hidden,
		"upgrade on list":     request("GET /v1.41/containers/json HTTP/1.1", "Connection: Upgrade", "Upgrade: tcp") + hidden,
		"upgrade refused":     request("POST /v1.41/containers/nosuch/attach?stream=1 HTTP/1.1", "Connection: Upgrade", "Upgrade: tcp", "Content-Length: 0") + hidden,
		"exec not there":      request("POST /v1.41/exec/0123/start HTTP/1.1", "Connection: Upgrade", "Upgrade: tcp", "Content-Type: application/json", "Content-Length: 2") + "{}" + hidden,
		"engine says no":      request("POST /v1.41/containers/"+id+"/resize?h=1&w=1 HTTP/1.1", "Connection: Upgrade", "Upgrade: tcp", "Content-Length: 0") + hidden,
		"length and chunks":   request("POST /v1.41/containers/"+id+"/wait?condition=bad HTTP/1.1", "Content-Length: 4", "Transfer-Encoding: chunked") + "0\r\n\r\n" + hidden,
		"body of a get":       request("GET /_ping HTTP/1.1", fmt.Sprintf("Content-Length: %d", len(hidden))) + hidden,
		"unread body":         request("POST /v1.41/containers/nosuch/start HTTP/1.1", fmt.Sprintf("Content-Length: %d", len(hidden))) + hidden,
		"expect continue":     request("POST /v1.41/containers/nosuch/start HTTP/1.1", "Expect: 100-continue", fmt.Sprintf("Content-Length: %d", len(hidden))) + hidden,
		"line feed in header": request("GET /_ping HTTP/1.1", "X: a\n"+strings.TrimSuffix(hidden, "\r\n\r\n")),
	}, func(t *testing.T, answer string) {
		if !strings.HasPrefix(answer, "HTTP/1.1 ") {
			t.Errorf("%q", answer)
		}
		lacks(t, answer, "hunter2", "101 ")
	})
	lacks(t, r.calls.String(), secret)
	// The honest twin: two requests on one connection are two answers.
	answers := []string{"\r\nOK", `"/db"`}
	wants(t, r.send(request("GET /_ping HTTP/1.1")+request("GET /v1.41/containers/db/json HTTP/1.1"), answers...), answers...)
}

// TestHeadersStayHere: the Engine gets none of a client's headers.
func TestHeadersStayHere(t *testing.T) {
	t.Parallel()
	heads := &lines{}
	r := newRig(t, func(o *Options) {
		o.Dial = teeDial(heads)
	})
	id := r.own("db", "--network", "none", alpine, "true")
	status, text := r.do("GET", "/v1.24/containers/"+id+"/json?evil=1&size=0", nil, "X-Forwarded-For", "evil", "X-Registry-Auth", "evil",
		"Cookie", "evil", "Content-Type", "evil", "Accept-Encoding", "gzip")
	if status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	lacks(t, heads.String(), "evil", "gzip")
	wants(t, heads.String(), "User-Agent: slipway-guard", "/v"+r.engine.version.String()+"/containers/"+id+"/json?size=0 ")
}

// teeDial notes what is sent to the Engine.
func teeDial(to io.Writer) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		conn, err := net.Dial("unix", strings.TrimPrefix(engineHost(), "unix://"))
		if err != nil {
			return nil, err
		}
		return &teeConn{conn.(*net.UnixConn), to}, nil
	}
}

type teeConn struct {
	*net.UnixConn
	to io.Writer
}

func (c *teeConn) Write(p []byte) (int, error) {
	_, _ = c.to.Write(p)
	return c.UnixConn.Write(p)
}

// TestVersions: old and new clients speak their own versions with the guard; the Engine hears one.
func TestVersions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, v := range []string{"", "/v1.24", "/v1.40", "/v" + r.engine.version.String()} {
		if status, text := r.do("GET", v+"/containers/json", nil); status != http.StatusOK || text != "[]\n" {
			t.Errorf("%s: %d %s", v, status, text)
		}
	}
	status, text := r.do("GET", "/v1.23/version", nil)
	if status != http.StatusBadRequest {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "client version 1.23 is too old. Minimum supported API version is 1.24")
	_, text = r.do("GET", "/v1.57/version", nil)
	wants(t, text, "client version 1.57 is too new. Maximum supported API version is "+r.engine.version.String())
}

// TestOthersDoNotExist goes through all rows of the table with an object of another job, however it is called: the answer
// is the one for what does not exist, and the Engine is not asked.
func TestOthersDoNotExist(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	container := other.sleeper("victim")
	_, text := other.do("POST", "/containers/victim/exec", map[string]any{"Cmd": []string{"sleep", "1"}})
	var exec struct{ ID string }
	if err := json.Unmarshal([]byte(text), &exec); err != nil {
		t.Fatal(err)
	}
	label := "--label=" + LabelGuard + "=" + other.policy.Token
	network := strings.TrimSpace(r.host("network", "create", label, other.policy.prefix()+"victim"))
	other.objects.addNetwork(networkRecord{ID: network, Name: "victim"})
	r.host("volume", "create", label, other.policy.prefix()+"victim")
	other.objects.addVolume(other.policy.prefix() + "victim")
	for _, rt := range routes() {
		kind, _, _ := strings.Cut(rt.pattern[1:], "/")
		full := map[string]string{"containers": container, "networks": network, "volumes": "victim", "exec": exec.ID}[kind]
		if full == "" || !strings.Contains(rt.pattern, "{id}") {
			continue
		}
		engineName := other.policy.prefix() + "victim"
		for _, ref := range []string{full, full[:min(12, len(full))], full[:min(3, len(full))], "victim", engineName, "%76ictim", url.PathEscape(engineName), strings.ToUpper(full)} {
			missing := strings.Map(func(c rune) rune {
				if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' {
					return 'z'
				}
				return c
			}, ref)
			if strings.Contains(ref, "%") {
				missing = "zictim"
			}
			gotStatus, got := r.ask(rt, ref)
			wantStatus, want := r.ask(rt, missing)
			plain, err := url.PathUnescape(ref)
			if err != nil {
				t.Fatal(err)
			}
			if gotStatus != wantStatus || strings.ReplaceAll(got, plain, missing) != want {
				t.Errorf("%s %s with %q: %d %s\nwhat does not exist: %d %s", rt.method, rt.pattern, ref, gotStatus, got, wantStatus, want)
			}
			if gotStatus < 400 {
				t.Errorf("%s %s with %q: %d %s", rt.method, rt.pattern, ref, gotStatus, got)
			}
		}
		if kind == "containers" || kind == "exec" {
			r.soundsLikeEngine(rt)
		}
	}
	lacks(t, r.calls.String(), container[:12], network[:12], exec.ID[:12], "victim", "zictim")
	if s := r.state(container); s != "running" {
		t.Errorf("the other's container is %q", s)
	}
}

// ask makes a call of a row about an object.
func (r *rig) ask(rt route, ref string) (int, string) {
	var body any
	if rt.method == http.MethodPost {
		body = map[string]any{}
	}
	target := "/v1.41" + strings.Replace(rt.pattern, "{id}", ref, 1)
	if rt.rawBody {
		body = []byte{}
	}
	return r.do(rt.method, target+"?path=/etc&name=x", body)
}

// soundsLikeEngine compares the answer for what does not exist with the Engine's own.
func (r *rig) soundsLikeEngine(rt route) {
	r.t.Helper()
	if strings.HasSuffix(rt.pattern, "/ws") || strings.HasSuffix(rt.pattern, "/update") {
		return
	}
	status, text := r.ask(rt, "nosuch")
	target := "http://engine/v" + r.engine.version.String() + strings.Replace(rt.pattern, "{id}", "nosuch", 1) + "?path=/etc&name=x&stdout=1&h=1&w=1"
	body := ""
	if rt.pattern == "/containers/{id}/exec" || rt.pattern == "/exec/{id}/start" {
		body = `{"Cmd":["true"]}`
	}
	req, err := http.NewRequestWithContext(r.t.Context(), rt.method, target, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.engine.transport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	want, _ := io.ReadAll(resp.Body)
	var a, b struct{ Message string }
	_ = json.Unmarshal([]byte(text), &a)
	_ = json.Unmarshal(want, &b)
	// A refused attachment is told in plain text.
	if attach := strings.HasSuffix(rt.pattern, "/attach"); status != resp.StatusCode || a.Message != b.Message && !attach {
		r.t.Errorf("%s %s: %d %q, the Engine says %d %q", rt.method, rt.pattern, status, a.Message, resp.StatusCode, b.Message)
	}
}

// TestSlowAndRudeClients: neither takes the guard from the others.
func TestSlowAndRudeClients(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.own("db", "--network", "none", alpine, "true")
	for range 50 {
		conn, err := net.Dial("unix", r.Socket())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /containers/db/json HTT")
	}
	for range 20 { // gone before the answer
		conn, err := net.Dial("unix", r.Socket())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, request("GET /containers/db/json HTTP/1.1"))
		conn.Close()
	}
	if status, text := r.do("GET", "/containers/db/json", nil); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	// A head that does not end, and one that is too big.
	answer := r.send("GET /_ping HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 1<<20) + "\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 431") && !strings.Contains(answer, "broken pipe") && !strings.Contains(answer, "reset") {
		t.Errorf("%.200q", answer)
	}
	// Large bodies that do not come: small ones do, and large ones when the others have given up.
	var stalled []net.Conn
	for range maxLarge + 4 {
		conn, err := net.Dial("unix", r.Socket())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, request("POST /containers/create HTTP/1.1", "Content-Type: application/json", "Content-Length: 1000000"))
		stalled = append(stalled, conn)
	}
	eventually(t, "the places to be taken", func() bool { return len(r.large) == maxLarge })
	if status, text := r.do("POST", "/containers/db/exec", `{"Cmd":["true"]}`); status != http.StatusConflict {
		t.Errorf("%d %s", status, text)
	}
	for _, conn := range stalled {
		conn.Close()
	}
	// A body that is too big.
	status, text := r.do("POST", "/containers/db/exec", `{"Cmd":["`+strings.Repeat("a", execBody)+`"]}`)
	if status != http.StatusBadRequest {
		t.Errorf("%d %s", status, text)
	}
	deep := strings.Repeat("[", 100000)
	if status, text := r.do("POST", "/containers/db/exec", `{"Cmd":`+deep); status != http.StatusBadRequest {
		t.Errorf("%d %s", status, text)
	}
}

// TestAnswersAreWhole reads answers as a strict client: one JSON document with its length or chunks.
func TestAnswersAreWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn, err := net.Dial("unix", r.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	br := bufio.NewReader(conn)
	for _, target := range []string{"/_ping", "/version", "/info", "/containers/json", "/system/df", "/nothing", "/containers/x/json"} {
		if _, err := io.WriteString(conn, request("GET "+target+" HTTP/1.1")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(target, err)
		}
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(target, err)
		}
		if target != "/_ping" && !json.Valid(bytes.TrimSpace(data)) {
			t.Errorf("%s: %q", target, data)
		}
		if resp.Header.Get("Api-Version") != r.engine.version.String() {
			t.Errorf("%s: %v", target, resp.Header)
		}
	}
}

// TestFormsAreRefusedEverywhere: the Engine lets a form's fields win over the query, in every call that has one.
func TestFormsAreRefusedEverywhere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.own("db", "--network", "none", alpine, "true")
	before := r.calls.String()
	for _, rt := range routes() {
		if rt.method == http.MethodGet || rt.method == http.MethodHead {
			continue
		}
		target := strings.NewReplacer("{id}", id, "{name}", alpine).Replace(rt.pattern) + "?name=safe&repo=safe&t=safe&container=" + id
		for contentType, body := range map[string]string{
			"application/x-www-form-urlencoded":                   "name=evil&repo=evil&t=evil&remote=http%3A%2F%2Fevil&path=/etc",
			"Application/X-WWW-Form-Urlencoded; charset=utf-8":    "name=evil",
			"multipart/form-data; boundary=x":                     "--x\r\nContent-Disposition: form-data; name=\"remote\"\r\n\r\nhttp://evil\r\n--x--\r\n",
			"multipart/mixed":                                     "name=evil",
			"application/x-www-form-urlencoded, application/json": "name=evil",
		} {
			status, text := r.do(rt.method, target, body, "Content-Type", contentType)
			if status != http.StatusForbidden || !strings.Contains(text, "[form-body]") {
				t.Errorf("%s %s as %s: %d %s", rt.method, rt.pattern, contentType, status, text)
			}
		}
	}
	if after := r.calls.String(); after != before {
		t.Errorf("these reached the Engine:\n%s", strings.TrimPrefix(after, before))
	}
}
