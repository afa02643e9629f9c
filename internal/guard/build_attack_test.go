package guard

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/slipway-ci/slipway/internal/tartest"
)

// entries makes an archive of headers; what Linkname says of plain files is their content.
func entries(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var files []tartest.File
	for _, h := range headers {
		f := tartest.File{Header: &h}
		if h.Typeflag == tar.TypeReg {
			f.Content, h.Linkname = h.Linkname, ""
		}
		files = append(files, f)
	}
	return []byte(tartest.Of(t, files...))
}

// TestBuildAttacks: none of these is built, and none reaches the Engine.
func TestBuildAttacks(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	internal := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(internal.Close)
	r := newRig(t)
	good := "FROM " + alpine + "\nLABEL ok=1\n"
	evil := "FROM " + alpine + "\nLABEL evil=" + r.policy.Token + "\n"
	file := func(name, text string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Linkname: text}
	}
	plain := func(lines string) []byte { return contextOf(t, "Dockerfile", evil+lines) }
	link := func(name, to string, kind byte) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: kind}
	}
	for name, c := range map[string]struct {
		query string
		body  []byte
		rule  string // "" = a mistake
		head  []string
	}{
		"host network":          {query: "networkmode=host", rule: "build-network-host"},
		"a container's network": {query: "networkmode=container:victim", rule: "build-network"},
		"another network":       {query: "networkmode=victim_default", rule: "build-network"},
		"outputs":               {query: "outputs=" + url.QueryEscape(`[{"Type":"image","Attrs":{"name":"`+alpine+`"}}]`), rule: "build-outputs"},
		"squash":                {query: "squash=1", rule: "build-squash"},
		"security":              {query: "securityopt=" + url.QueryEscape(`["seccomp=unconfined"]`), rule: "build-security"},
		"a remote context":      {query: "remote=" + url.QueryEscape(internal.URL+"/Dockerfile"), rule: "build-remote"},
		"a repository":          {query: "remote=git://127.0.0.1/x.git", rule: "build-remote"},
		"two build arguments":   {query: "buildargs=" + url.QueryEscape(`{"A":"1","A":"2"}`)},
		"two values":            {query: "networkmode=none&networkmode=host"},
		"a host and a zone":     {query: "extrahosts=" + url.QueryEscape("x:fe80::1%a,pz"+saltSuffix+"=127.0.0.1")},
		"host step":             {body: plain("RUN --network=host id\n"), rule: "build-network-host"},
		"insecure step":         {body: plain("RUN --security=insecure id\n"), rule: "build-insecure"},
		"repository":            {body: plain("ADD git@github.com:a/b.git /x\n"), rule: "build-remote"},
		"internal address":      {body: plain("ADD " + internal.URL + "/x /x\n"), rule: "add-internal"},
		"internal by argument":  {query: "buildargs=" + url.QueryEscape(`{"U":"`+internal.URL+`"}`), body: plain("ARG U\nENV V=${U}/x\nADD $V /x\n"), rule: "add-internal"},
		"internal name":         {body: plain("ADD http://localhost/x /x\n"), rule: "add-internal"},
		"internal number":       {body: plain("ADD http://[::ffff:127.0.0.1]/x /x\n"), rule: "add-internal"},
		"own names of others":   {body: contextOf(t, "Dockerfile", "FROM slipway.local/sother/docker.io/library/x\n"), rule: "registry-host"},
		"internal registry":     {body: contextOf(t, "Dockerfile", "FROM scratch\nCOPY --from=127.0.0.1:5000/x / /\n"), rule: "registry-host"},
		"a second file":         {body: entries(t, file("Dockerfile", good), file("./a/../Dockerfile", evil)), rule: "build-context"},
		"a linked file":         {body: entries(t, file("x", evil), link("Dockerfile", "x", tar.TypeSymlink)), rule: "build-context"},
		"a hard link":           {body: entries(t, file("x", evil), link("Dockerfile", "x", tar.TypeLink)), rule: "build-context"},
		"a hard link to it":     {body: entries(t, file("Dockerfile", good), link("x", "./Dockerfile", tar.TypeLink), file("x", evil)), rule: "build-context"},
		"a linked folder":       {query: "dockerfile=a/Dockerfile", body: entries(t, file("a/Dockerfile", good), file("b/Dockerfile", evil), link("a", "b", tar.TypeSymlink)), rule: "build-context"},
		"a removed file":        {body: entries(t, file("Dockerfile", good), file("dockerfile", evil), file(".wh.Dockerfile", "")), rule: "build-context"},
		"an emptied folder":     {body: entries(t, file("Dockerfile", good), file("dockerfile", evil), file(".wh..wh..opq", "")), rule: "build-context"},
		"a device":              {body: entries(t, file("Dockerfile", good), tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}), rule: "build-context"},
		"bzip2":                 {body: []byte("BZh91AY&SY" + strings.Repeat("x", 600)), rule: "build-compression"},
		"a form":                {body: []byte("remote=" + url.QueryEscape(internal.URL)), head: []string{"Content-Type", "application/x-www-form-urlencoded"}},
		"parts":                 {body: []byte("--x\r\n"), head: []string{"Content-Type", "multipart/form-data; boundary=x"}},
		"bad credentials":       {head: []string{"X-Registry-Config", base64.URLEncoding.EncodeToString([]byte(`{"a":{},"a":{}}`))}},
		"a here-document":       {body: plain("RUN cat ${x#y} <<RUN\nCOPY --from=victim / /\nRUN\n")},
	} {
		if c.body == nil {
			c.body = plain("")
		}
		status, text := r.do("POST", "/build?"+c.query, c.body, c.head...)
		if c.rule != "" && (status != http.StatusForbidden || !strings.Contains(text, "denied by slipway ["+c.rule+"]")) {
			t.Errorf("%s: %d %s", name, status, text)
		}
		if c.rule == "" && (status < 400 || status >= 500) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("the internal server was asked %d times", asked.Load())
	}
	lacks(t, r.calls.String(), "/build")
	if ids := strings.Fields(r.host("images", "--quiet", "--all", "--filter", "label=evil="+r.policy.Token)); len(ids) > 0 {
		t.Errorf("built: %v", ids)
	}
	// The honest twin.
	status, text := r.do("POST", "/build", contextOf(t, "Dockerfile", good))
	if status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "Successfully built")
	wants(t, r.calls.String(), "POST /v"+r.engine.version.String()+"/build?")
}

// TestBuildForeignImages: a name in a Dockerfile is the job's, however it is written.
func TestBuildForeignImages(t *testing.T) {
	t.Parallel()
	a, b := rigs(t)
	secret := b.commitImage("secretapp", "b")
	for name, text := range map[string]string{
		"from":          "FROM secretapp\n",
		"by argument":   "ARG X=secretapp\nFROM ${X}\n",
		"copy":          "FROM scratch\nCOPY --from=secretapp / /\n",
		"copy, escaped": "FROM scratch\nCOPY --from=\"secretapp\" / /\n",
		"mount":         "FROM " + alpine + "\nRUN --mount=type=bind,from=secretapp,target=/x ls /x\n",
		"by ID":         "FROM " + secret + "\n",
		"by digits":     "FROM " + secret[7:19] + "\n",
		"by its name":   "FROM slipway.local/" + b.policy.Scope + "/docker.io/library/secretapp\n",
		"lower case":    "",
	} {
		files := []string{"Dockerfile", text}
		if text == "" {
			files = []string{"dockerfile", "FROM secretapp\n"}
		}
		status, answer := a.do("POST", "/build", contextOf(t, files...))
		if status == http.StatusOK {
			t.Errorf("%s: %s", name, answer)
		}
	}
	lacks(t, a.calls.String(), "/build")
	// Two scopes that use the same name take their own.
	own := a.commitImage("secretapp", "a")
	for _, r := range []struct {
		*rig
		id string
	}{{a, own}, {b, secret}} {
		for _, text := range []string{"FROM secretapp\nLABEL x=1\n", "FROM " + alpine + "\nCOPY --from=docker.io/library/secretapp:latest /etc /y\n", "FROM " + r.id + "\n"} {
			if status, answer := r.do("POST", "/build?t=made", contextOf(t, "Dockerfile", text)); status != http.StatusOK || !strings.Contains(answer, "Successfully tagged made:latest") {
				t.Errorf("%q: %d %s", text, status, answer)
			}
		}
		if status, answer := r.do("POST", "/build?t=made", contextOf(t, "Dockerfile", "FROM secretapp\n")); status != http.StatusOK {
			t.Errorf("%d %s", status, answer)
		}
		wants(t, r.docker("image", "inspect", "--format", "{{.Config.Labels.who}}", "made"), map[string]string{own: "a", secret: "b"}[r.id])
	}
}

// TestBuildTriggers: what a base image makes a build do is checked too.
func TestBuildTriggers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	build := func(tag, text string) (int, string) {
		return r.do("POST", "/build?t="+tag, contextOf(t, "Dockerfile", text, "f", "x"))
	}
	if status, text := build("bad", "FROM "+alpine+"\nONBUILD COPY --from=victim / /\n"); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	if status, text := build("good", "FROM "+alpine+"\nONBUILD COPY f /f\nONBUILD RUN cat /f > /g\n"); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	status, text := build("evil", "FROM bad\n")
	wants(t, text, "denied by slipway [build-onbuild]")
	if status != http.StatusForbidden {
		t.Error(status)
	}
	status, text = build("fine", "FROM good\nRUN cat /g\n")
	if status != http.StatusOK {
		t.Error(status)
	}
	wants(t, text, `"Step 1/2 : FROM good\n"`, `"Step 2/2 : RUN cat /g\n"`, "Successfully built")
}

// layers are an image's layers at the Engine, as the answer of a build names it.
func (r *rig) layers(query, text string) string {
	r.t.Helper()
	status, answer := r.do("POST", "/build?"+query, contextOf(r.t, "Dockerfile", text))
	i := strings.Index(answer, `"ID":"sha256:`)
	if status != http.StatusOK || i < 0 {
		r.t.Fatalf("%d %s", status, answer)
	}
	return r.host("image", "inspect", "--format", "{{json .RootFS.Layers}}", answer[i+6:i+6+71])
}

// TestBuildCachePartition: what one project brings into a step by ways that are not part of the step's key, another never
// gets. Its own steps come out of the cache the second time.
func TestBuildCachePartition(t *testing.T) {
	t.Parallel()
	query := func(pairs ...string) string {
		q := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			q.Add(pairs[i], pairs[i+1])
		}
		return q.Encode()
	}
	step := "cat /proc/sys/kernel/random/uuid > /id"
	args := `{"http_proxy":"http://%s","BUILDKIT_SANDBOX_HOSTNAME":"x","BUILDKIT_CACHE_MOUNT_NS":"x"}`
	for name, c := range map[string]struct {
		evil, honest, flags string
		again               bool
	}{
		"nothing":       {again: true},
		"own host":      {evil: query("extrahosts", "mirror:6.6.6.6"), honest: query("extrahosts", "mirror:7.7.7.7"), again: true},
		"arguments":     {evil: query("buildargs", fmt.Sprintf(args, "evil")), honest: query("buildargs", fmt.Sprintf(args, "mine")), again: true},
		"network":       {evil: query("networkmode", "none")},
		"limits":        {evil: query("ulimits", `[{"Name":"nofile","Soft":99,"Hard":99}]`, "shmsize", "65536")},
		"mount by ID":   {flags: "--mount=type=cache,id=x,target=/c ", again: true},
		"spoofed scope": {evil: query("extrahosts", "pSCOPE.guard.invalid:127.0.0.1", "extrahosts", "PSCOPE.GUARD.INVALID.:127.0.0.1")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			attacker, victim := rigs(t)
			text := "FROM " + alpine + "\nRUN " + c.flags + step + " # " + victim.policy.Token + "\n"
			evil := attacker.layers(strings.ReplaceAll(c.evil, "SCOPE", victim.policy.Scope), text)
			honest := victim.layers(c.honest, text)
			if evil == honest {
				t.Errorf("the other project got %s", evil)
			}
			if !c.again {
				return
			}
			if again := victim.layers(c.honest, text); again != honest {
				t.Errorf("the second run was not cached: %s, %s", honest, again)
			}
		})
	}
	t.Run("one scope", func(t *testing.T) {
		t.Parallel()
		a, b := rigs(t, func(o *Options) { o.Policy.Scope = "s" + strings.Repeat("1", 10) })
		text := "FROM " + alpine + "\nRUN " + step + " # " + a.policy.Token + "\n"
		if one, two := a.layers("", text), b.layers("", text); one != two {
			t.Errorf("jobs of one scope do not share: %s, %s", one, two)
		}
	})
	t.Run("contents of a mount", func(t *testing.T) {
		t.Parallel()
		a, b := rigs(t)
		fill := "FROM " + alpine + "\nRUN --mount=type=cache,id=m" + a.policy.Token + ",target=/c echo evil > /c/x\n"
		look := "FROM " + alpine + "\nRUN --mount=type=cache,id=ID,target=/c cat /c/x && " + step + "\n"
		a.layers("", fill)
		a.layers("", strings.Replace(look, "ID", "m"+a.policy.Token, 1))
		for _, id := range []string{"m" + a.policy.Token, a.policy.Scope + "/m" + a.policy.Token, "../" + a.policy.Scope + "/m" + a.policy.Token} {
			_, text := b.do("POST", "/build", contextOf(t, "Dockerfile", strings.Replace(look, "ID", id, 1)))
			lacks(t, text, "Successfully built", "evil\\n")
			wants(t, text, "returned a non-zero code: 1")
		}
	})
	t.Run("hosts file", func(t *testing.T) {
		t.Parallel()
		a := newRig(t)
		_, text := a.do("POST", "/build?extrahosts=mirror:6.6.6.6&extrahosts=px.guard.invalid:1.1.1.1", contextOf(t, "Dockerfile", "FROM "+alpine+"\nRUN cat /etc/hosts # "+a.policy.Token+"\n"))
		wants(t, text, "6.6.6.6\\tmirror", "127.0.0.1\\tp"+a.policy.Scope+".guard.invalid")
		lacks(t, text, "1.1.1.1")
	})
}

// TestBuildAudit: what is not refused is done as the client asked.
func TestBuildAudit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Audit = true })
	status, text := r.do("POST", "/build?networkmode=host", contextOf(t, "Dockerfile", "FROM "+alpine+"\nRUN cat /proc/net/dev # "+r.policy.Token+"\n"))
	if status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	wants(t, r.audit.String(), "rule=build-network-host")
	wants(t, r.calls.String(), "networkmode=host")
	status, text = r.do("POST", "/build", entries(t,
		tar.Header{Name: "x", Typeflag: tar.TypeReg, Linkname: "FROM " + alpine + "\nLABEL x=1\n"}, tar.Header{Name: "Dockerfile", Typeflag: tar.TypeSymlink, Linkname: "x"}))
	if status != http.StatusOK || !strings.Contains(text, "Successfully built") {
		t.Errorf("%d %s", status, text)
	}
	wants(t, r.audit.String(), "rule=build-context")
}

// TestBuildCancel: only builds of the job itself are ended.
func TestBuildCancel(t *testing.T) {
	t.Parallel()
	a, b := rigs(t, func(o *Options) { o.Policy.Limits.Builds = 1 })
	type answer struct {
		status int
		text   string
	}
	done := make(chan answer, 1)
	go func() {
		status, text := a.do("POST", "/v1.41/build?version=2&buildid=mine", contextOf(t, "Dockerfile", "FROM "+alpine+"\nRUN sleep 600; echo "+a.policy.Token+"\n"))
		done <- answer{status, text}
	}()
	// The Engine pays no heed to the cancel of a build that it has not begun.
	eventually(t, "the build to begin", func() bool { return runs(t, "sleep 600; echo "+a.policy.Token) })
	if status, text := a.do("POST", "/build", contextOf(t, "Dockerfile", "FROM scratch\n")); status != http.StatusForbidden || !strings.Contains(text, "[limit-builds]") {
		t.Errorf("%d %s", status, text)
	}
	before := strings.Count(b.calls.String(), "cancel")
	if status, text := b.do("POST", "/build/cancel?id=mine", nil); status != http.StatusOK || strings.Count(b.calls.String(), "cancel") != before {
		t.Errorf("%d %s", status, text)
	}
	select {
	case got := <-done:
		t.Fatalf("%+v", got)
	default:
	}
	if status, text := a.do("POST", "/build/cancel?id=mine", nil); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	got := <-done
	lacks(t, got.text, "moby.image.id")
	status, text := a.do("POST", "/build/prune", nil)
	var report struct{ SpaceReclaimed *int }
	if err := json.Unmarshal([]byte(text), &report); status != http.StatusOK || err != nil || report.SpaceReclaimed == nil || *report.SpaceReclaimed != 0 {
		t.Errorf("%d %s", status, text)
	}
	lacks(t, a.calls.String(), "/build/prune")
}

// TestBuildStreams: what a step prints comes while it is at work.
func TestBuildStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	body := contextOf(t, "Dockerfile", fmt.Sprintf("FROM %s\nRUN echo first %s; sleep 600; echo last\n", alpine, r.policy.Token))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://guard/build", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.Socket())
	}}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	seen := ""
	for dec := json.NewDecoder(resp.Body); !strings.Contains(seen, "\nfirst "); {
		var m buildMessage
		if err := dec.Decode(&m); err != nil {
			t.Fatal(err)
		}
		seen += m.Stream
	}
	lacks(t, seen, "\nlast", "Successfully")
}

// TestBuildLateRefusal: what comes when the Engine has a part of the context already is refused all the same.
func TestBuildLateRefusal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	text := "FROM " + alpine + "\nLABEL late=" + r.policy.Token + "\n"
	big := strings.Repeat("0123456789abcdef", (maxAhead+1<<20)/16)
	status, answer := r.do("POST", "/build?t=late", entries(t,
		tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, Linkname: text}, tar.Header{Name: "big", Typeflag: tar.TypeReg, Linkname: big},
		tar.Header{Name: "./Dockerfile", Typeflag: tar.TypeReg, Linkname: text}))
	// Engines of today have begun their answer by then.
	if status != http.StatusForbidden && !strings.Contains(answer, "errorDetail") {
		t.Errorf("%d %s", status, answer)
	}
	wants(t, answer, "denied by slipway [build-context]")
	if ids := r.host("images", "--quiet", "--all", "--filter", "label=late="+r.policy.Token); ids != "" {
		t.Errorf("built: %s", ids)
	}
	// The twin with one Dockerfile, which comes late.
	status, answer = r.do("POST", "/build?t=late", entries(t,
		tar.Header{Name: "big", Typeflag: tar.TypeReg, Linkname: big}, tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, Linkname: text}))
	if status != http.StatusOK {
		t.Errorf("%d %s", status, answer)
	}
	wants(t, answer, "Successfully tagged late:latest")
}
