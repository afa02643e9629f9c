package e2e

import (
	"cmp"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// proxied is a GitLab whose name only the proxy knows. net/http's test certificate has it, too.
const proxied = "gitlab.example.com"

// The proxy lets nobody through without them. The second is the password as a URL has it.
const (
	proxyUser     = "operator"
	proxyPassword = "pass/word:of@the-proxy"
	proxyWritten  = "pass%2Fword%3Aof%40the-proxy"
)

// proxy is an HTTP proxy in front of a GitLab.
type proxy struct {
	*httptest.Server
	refuse func(r *http.Request) bool // what it answers with 503; may be nil

	mu     sync.Mutex
	gitlab string // host:port
	asked  []string
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	p := &proxy{}
	forward := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.Out.URL.Host, r.Out.Host = p.to(), r.In.Host },
		ErrorLog: log.New(io.Discard, "", 0),
	}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
		if user, password, _ := given.BasicAuth(); user != proxyUser || password != proxyPassword {
			w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		p.mu.Lock()
		p.asked = append(p.asked, r.Method+" "+r.URL.Hostname()+r.URL.Path)
		p.mu.Unlock()
		switch {
		case p.refuse != nil && p.refuse(r):
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Method == http.MethodConnect:
			p.tunnel(w)
		default:
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) to() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gitlab
}

// tunnel answers a CONNECT.
func (p *proxy) tunnel(w http.ResponseWriter) {
	up, err := net.Dial("tcp", p.to())
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer up.Close()
	down, read, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	_, _ = io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		defer up.Close()
		_, _ = io.Copy(up, read)
	}()
	_, _ = io.Copy(down, up)
}

// saw reports whether a request was made through the proxy.
func (p *proxy) saw(request string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.asked, request)
}

// address is the proxy's, as it stands in the environment.
func (p *proxy) address(password string) string {
	return "http://" + proxyUser + ":" + password + "@" + strings.TrimPrefix(p.URL, "http://")
}

// behind makes a rig whose Slipway has these variables and no other ones of proxies, and which reaches GitLab by a URL.
func (p *proxy) behind(url func(gitlab *httptest.Server) string, env ...string) option {
	return func(r *rig) {
		r.front = func(gitlab *httptest.Server) string {
			at := url(gitlab)
			p.mu.Lock()
			p.gitlab = cmp.Or(p.gitlab, gitlab.Listener.Addr().String())
			p.mu.Unlock()
			return at
		}
		command := r.command
		r.command = func(args ...string) *exec.Cmd {
			cmd := command(args...)
			cmd.Env = append(slices.DeleteFunc(cmd.Env, func(e string) bool {
				name, _, _ := strings.Cut(strings.ToLower(e), "=")
				return strings.HasSuffix(name, "_proxy")
			}), env...)
			return cmd
		}
	}
}

// TestProxy: GitLab's API, its repositories and what jobs send there go through the proxy of Slipway's environment, whose password
// no log has.
func TestProxy(t *testing.T) {
	t.Parallel()
	named := func(*httptest.Server) string { return "http://" + proxied }
	secrets := []string{proxyPassword, proxyWritten}
	use := func(t *testing.T, r *rig) string {
		t.Helper()
		p := r.repository("group/demo", map[string]string{"README": "hello\n"})
		s := withArtifacts(p.spec("main", "cat README; echo made >file", "env | grep -i proxy || echo knows no proxy"), job.Artifact{Paths: []string{"file"}})
		log := r.must(job.Success, s)
		wants(t, log, "\nhello\n", "Uploaded")
		lacks(t, log+r.log.String(), secrets...)
		return log
	}
	ofJob := []string{"POST " + proxied + "/api/v4/jobs/request", "GET " + proxied + "/group/demo.git/info/refs", "POST " + proxied + "/api/v4/jobs/1/artifacts", "PUT " + proxied + "/api/v4/jobs/1"}
	for _, name := range []string{"HTTP_PROXY", "http_proxy"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t)
			wants(t, use(t, newRig(t, p.behind(named, name+"="+p.address(proxyWritten)))), "\nknows no proxy\n")
			for _, request := range ofJob {
				if !p.saw(request) {
					t.Errorf("the proxy was not asked for %s, but for %q", request, p.asked)
				}
			}
		})
	}
	t.Run("HTTPS_PROXY", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t)
		ca := filepath.Join(t.TempDir(), "ca.pem")
		secure := func(gitlab *httptest.Server) string {
			front := httptest.NewTLSServer(gitlab.Config.Handler)
			t.Cleanup(front.Close)
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			p.gitlab = front.Listener.Addr().String()
			return "https://" + proxied
		}
		r := newRig(t, p.behind(secure, "HTTPS_PROXY="+p.address(proxyWritten), "HTTP_PROXY=http://127.0.0.1:1"), runnerKeys("  tls-ca-file = "+strconv.Quote(ca)))
		use(t, r)
		if !p.saw("CONNECT " + proxied) {
			t.Errorf("the proxy was asked for %q", p.asked)
		}
	})
	t.Run("NO_PROXY", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t)
		address := outside(t)
		elsewhere := func(gitlab *httptest.Server) string { return onAddress(t, address, gitlab) }
		r := newRig(t, p.behind(elsewhere, "HTTP_PROXY="+p.address(proxyWritten), "NO_PROXY=.example.com,"+address+"/31"))
		use(t, r)
		if len(p.asked) > 0 {
			t.Errorf("the proxy was asked for %q", p.asked)
		}
		p = newProxy(t)
		through := newRig(t, p.behind(elsewhere, "HTTP_PROXY="+p.address(proxyWritten), "NO_PROXY=.example.com"))
		use(t, through)
		if !p.saw("GET " + address + "/group/demo.git/info/refs") {
			t.Errorf("the proxy was asked for %q", p.asked)
		}
	})
	t.Run("loopback", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t)
		use(t, newRig(t, p.behind(func(gitlab *httptest.Server) string { return gitlab.URL }, "HTTP_PROXY="+p.address(proxyWritten), "http_proxy="+p.address(proxyWritten))))
		if len(p.asked) > 0 {
			t.Errorf("the proxy was asked for %q", p.asked)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t)
		r := newRig(t, p.behind(named, "HTTP_PROXY="+p.address("wrong-password")))
		r.logged("asking for jobs fails", "Proxy Authentication Required")
		lacks(t, r.log.String(), "wrong-password")
	})
	t.Run("no way to the repository", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t)
		p.refuse = func(r *http.Request) bool { return strings.Contains(r.URL.Path, ".git/") }
		r := newRig(t, p.behind(named, "HTTP_PROXY="+p.address(proxyWritten)))
		repo := r.repository("group/demo", map[string]string{"README": "hello\n"})
		log := r.fails(job.SystemFailure, 0, repo.spec("main", "echo never"))
		wants(t, log, "error: 503")
		lacks(t, log+r.log.String(), secrets...)
	})
	t.Run("shell executor", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t)
		log := use(t, newRig(t, inShell(""), p.behind(named, "HTTP_PROXY="+p.address(proxyWritten))))
		wants(t, log, "\nHTTP_PROXY=http://"+proxyUser+":[MASKED]@127.0.0.1:")
	})
}

// outside is an address of this machine that is not its loopback.
func outside(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr().String()
		}
	}
	t.Skip("this machine has no address but its loopback")
	return ""
}

// onAddress serves a GitLab on that address of this machine, too.
func onAddress(t *testing.T, address string, gitlab *httptest.Server) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(gitlab.Config.Handler)
	s.Listener.Close()
	s.Listener = listener
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}
