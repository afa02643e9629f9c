package e2e

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/objects"
)

// s3 is an S3 server with the bucket caches, which knows one access key.
type s3 struct {
	*httptest.Server
	t        *testing.T
	key      string
	backend  *s3mem.Backend
	held     chan string  // is told of the requests that get no answer: for objects whose names begin with slow
	cuts     atomic.Int64 // so many answers still break off, with objects whose names begin with cut
	mu       sync.Mutex
	requests []string // for objects: method, status, path
}

func newS3(t *testing.T) *s3 {
	t.Helper()
	s := &s3{t: t, key: "known", backend: s3mem.New(), held: make(chan string, 9)}
	if err := s.backend.CreateBucket("caches"); err != nil {
		t.Fatal(err)
	}
	served := gofakes3.New(s.backend).Server()
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Authorization"), "Credential="+s.key+"/") {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "<Error><Code>InvalidAccessKeyId</Code><Message>The key is not known.</Message></Error>")
			return
		}
		if strings.HasSuffix(r.URL.Path, "/denied") {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
			return
		}
		if strings.Contains(r.URL.Path, "/slow") {
			_, _ = io.Copy(io.Discard, r.Body) // else the end of the connection is not noticed
			s.held <- r.Method
			<-r.Context().Done()
			return
		}
		if strings.Contains(r.URL.Path, "/cut") && r.Method == http.MethodGet && s.cuts.Add(-1) >= 0 {
			for key, value := range map[string]string{"Content-Length": "1000", "Etag": `"0"`, "Last-Modified": time.Now().UTC().Format(http.TimeFormat)} {
				w.Header().Set(key, value)
			}
			_, _ = io.WriteString(w, "PK")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		answer := &statusWriter{ResponseWriter: w, status: 200}
		served.ServeHTTP(answer, r)
		if name, ok := strings.CutPrefix(r.URL.Path, "/caches/"); ok && name != "" {
			s.mu.Lock()
			s.requests = append(s.requests, fmt.Sprintf("%s %d %s", r.Method, answer.status, name))
			s.mu.Unlock()
		}
	}))
	t.Cleanup(s.Close)
	return s
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// runner is a [runners.cache] for the server; more is put into it.
func (s *s3) runner(access, more string) option {
	return runnerKeys(fmt.Sprintf(`  [runners.cache]
    Type = "s3"
%s
    [runners.cache.s3]
      ServerAddress = %q
      AccessKey = %q
      SecretKey = "hidden-secret"
      BucketName = "caches"
      Insecure = true`, more, strings.TrimPrefix(s.URL, "http://"), access))
}

// asked returns the requests for objects since the last call.
func (s *s3) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.requests
	s.requests = nil
	return out
}

// put stores an object.
func (s *s3) put(name string, content []byte) error {
	b, err := objects.Open(objects.Options{
		Address: strings.TrimPrefix(s.URL, "http://"), Insecure: true, Bucket: "caches", Keys: objects.Keys{Access: "known", Secret: "x"},
	})
	if err == nil {
		_, err = b.Put(s.t.Context(), name, bytes.NewReader(content), int64(len(content)), func(int64) {})
	}
	return err
}

// names of the objects in the bucket. Each archive is one that every program can read.
func (s *s3) names() (out []string) {
	s.t.Helper()
	list, err := s.backend.ListBucket("caches", &gofakes3.Prefix{}, gofakes3.ListBucketPage{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range list.Contents {
		out = append(out, c.Key)
		if strings.HasSuffix(c.Key, "/broken") {
			continue
		}
		o, err := s.backend.GetObject("caches", c.Key, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		content, err := io.ReadAll(o.Contents)
		if err != nil {
			s.t.Fatal(err)
		}
		archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			s.t.Fatalf("%s: %v", c.Key, err)
		}
		for _, f := range archive.File {
			if f.Method != zip.Store && f.Method != zip.Deflate {
				s.t.Errorf("%s: %s is packed by method %d", c.Key, f.Name, f.Method)
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestCacheOnS3: what one runner saves another restores, and nothing is sent twice.
func TestCacheOnS3(t *testing.T) {
	t.Parallel()
	s := newS3(t)
	shared := s.runner("known", "    Path = \"all\"\n    Shared = true")
	a, b := newRig(t, shared), newRig(t, shared)
	modules := job.Cache{Key: "modules", Paths: []string{"node_modules/"}}

	// As GitLab's runner writes it.
	var theirs bytes.Buffer
	w := zip.NewWriter(&theirs)
	f, err := w.Create("f")
	if err == nil {
		_, err = f.Write([]byte("from GitLab's runner\n"))
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = errors.Join(s.put("all/project/7/theirs", theirs.Bytes()), s.put("all/project/7/broken", []byte("no archive")))
	}
	if err != nil {
		t.Fatal(err)
	}

	broken := job.Cache{Key: "broken", Paths: []string{"g"}, Policy: "pull"}
	log := a.must(job.Success, withCache(spec("mkdir -p node_modules/.bin; echo first >node_modules/a; ln -s ../a node_modules/.bin/tool"), modules, broken))
	wants(t, log, "There is no cache for modules.", "Sent the cache modules: ", "Saved the cache modules: 4 files",
		"WARNING: the cache broken: read the archive: ", "; the job goes on without it")
	if got := s.names(); !slices.Equal(got, []string{"all/project/7/broken", "all/project/7/modules", "all/project/7/theirs"}) {
		t.Errorf("%q", got)
	}
	s.asked()

	branch := job.Cache{Key: "branch", Paths: []string{"f"}, FallbackKeys: []string{"none", "denied", "theirs"}, Policy: "pull"}
	log = b.must(job.Success, withCache(spec("cat node_modules/.bin/tool f"), modules, branch))
	wants(t, log, "Fetched the cache modules: ", "Restored the cache modules: 4 files", "\nfirst\n", "The cache modules is up to date.",
		"There is no cache for branch.", "There is no cache for none.",
		"WARNING: the cache denied cannot be fetched: ", "and s3:ListBucket, without which an object that is not there is denied too)", "Restored the cache theirs: 1 file", "\nfrom GitLab's runner\n")
	want := []string{
		"GET 200 all/project/7/modules", "GET 404 all/project/7/branch", "GET 404 all/project/7/none", "GET 200 all/project/7/theirs",
		"HEAD 200 all/project/7/modules",
	}
	if got := s.asked(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}

	log = b.must(job.Success, withCache(spec("cat node_modules/a; echo second >node_modules/a"), modules))
	wants(t, log, "The cache modules has not changed since it was fetched.", "\nfirst\n", "Sent the cache modules: ")
	if got := s.asked(); !slices.Equal(got, []string{"GET 304 all/project/7/modules", "PUT 200 all/project/7/modules"}) {
		t.Errorf("%q", got)
	}

	modules.Policy = "pull"
	wants(t, a.must(job.Success, withCache(spec("cat node_modules/a"), modules)), "Fetched the cache modules: ", "\nsecond\n")

	t.Run("server down", func(t *testing.T) {
		s.Close()
		defer hold(t, s.Listener.Addr().String())()
		modules.Policy = ""
		log := a.in(t).must(job.Success, withVariables(withCache(spec("cat node_modules/a; echo third >node_modules/a"), modules), "RESTORE_CACHE_ATTEMPTS", "2"))
		wants(t, log, "WARNING: the cache modules cannot be fetched: the bucket caches on 127.0.0.1:", "connection refused (check that the server runs", "; trying again",
			"; the copy on this machine is used, if there is one", "\nsecond\n", "WARNING: the cache modules was not saved: the bucket caches on 127.0.0.1:")
		lacks(t, log, "hidden-secret")
	})
	lacks(t, a.log.String()+b.log.String(), "hidden-secret")
}

// TestCacheOnS3OfARunner: a runner's caches are its own unless they are shared, large ones stay away, and what the server refuses
// stops no job.
func TestCacheOnS3OfARunner(t *testing.T) {
	t.Parallel()
	s := newS3(t)
	r := newRig(t, s.runner("known", "    MaxUploadedArchiveSize = 100000"), dockerKeys("disable_cache = true"))
	small, large := job.Cache{Key: "small/../sm%2Fall", Paths: []string{"f"}}, job.Cache{Key: "large", Paths: []string{"big"}}
	log := r.must(job.Success, withVariables(withCache(spec("echo x >f; head -c 150000 /dev/urandom >big"), small, large), "CACHE_REQUEST_TIMEOUT", "1"))
	wants(t, log, "Sent the cache sm/all: ", "WARNING: the cache large was not saved: its archive is too large: 150 kB, and the runner uploads at most 100 kB (MaxUploadedArchiveSize in [runners.cache])")
	if got := s.names(); !slices.Equal(got, []string{"runner/" + r.token.Short() + "/project/7/sm/all"}) {
		t.Errorf("%q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(r.stateDir(), "caches", "*", "new-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	stranger := newRig(t, s.runner("unknown", ""))
	log = stranger.must(job.Success, withCache(spec("test ! -e f; echo x >f"), small))
	wants(t, log, "WARNING: the cache sm/all cannot be fetched: ", "[InvalidAccessKeyId] (check AccessKey, SecretKey", "WARNING: the cache sm/all was not saved: ")
	lacks(t, log+stranger.log.String(), "hidden-secret")
}

// TestCacheOnS3WithARole: the bucket knows only the key that STS lends for the role.
func TestCacheOnS3WithARole(t *testing.T) {
	t.Parallel()
	s := newS3(t)
	s.key = "lent"
	asked := make(chan url.Values, 9)
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || !strings.Contains(r.Header.Get("Authorization"), "Credential=known/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		asked <- r.PostForm
		fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>lent</AccessKeyId>`+
			`<SecretAccessKey>lent-secret</SecretAccessKey><SessionToken>lent-token</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`,
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(sts.Close)
	r := newRig(t, s.runner("known", ""), runnerKeys(`      RoleARN = "arn:aws:iam::123456789012:role/caches"`), func(r *rig) {
		r.command = func(args ...string) *exec.Cmd {
			cmd := slipway(args...)
			cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL_STS="+sts.URL)
			return cmd
		}
	})
	c := job.Cache{Key: "modules", Paths: []string{"f"}}
	wants(t, r.must(job.Success, withCache(spec("echo first >f"), c)), "There is no cache for modules.", "Sent the cache modules: ")
	c.Policy = "pull"
	log := r.must(job.Success, withCache(spec("cat f"), c))
	wants(t, log, "The cache modules has not changed since it was fetched.", "\nfirst\n")
	lacks(t, log+r.log.String(), "hidden-secret", "lent-secret", "lent-token")
	if len(asked) != 1 {
		t.Fatalf("STS was asked %d times", len(asked))
	}
	if form := <-asked; form.Get("RoleArn") != "arn:aws:iam::123456789012:role/caches" || !strings.Contains(form.Get("Policy"), "caches/runner/"+r.token.Short()+"/project/7/*") {
		t.Errorf("%v", form)
	}
}

// TestCacheOnS3IsCanceled: a cancel ends transfers.
func TestCacheOnS3IsCanceled(t *testing.T) {
	t.Parallel()
	s := newS3(t)
	r := newRig(t, s.runner("known", ""))
	for method, c := range map[string]job.Cache{
		"GET": {Key: "slow-get", Paths: []string{"f"}},
		"PUT": {Key: "slow-put", Paths: []string{"f"}, Policy: "push"},
	} {
		j := r.enqueue(withCache(spec("echo ran >f"), c))
		if got := <-s.held; got != method {
			t.Errorf("%s in place of %s", got, method)
		}
		j.Cancel(true)
		o, log := r.end(j) // the server would never answer
		if method == "GET" {
			lacks(t, log, "echo ran")
			if o.State != coordinator.Canceled {
				t.Errorf("%+v", o)
			}
		} else {
			wants(t, log, "WARNING: the cache slow-put was not saved: ")
		}
	}
}

// TestHashedCacheKeys: with FF_HASH_CACHE_KEYS caches bear the names that GitLab's runner gives them then, fallback keys too.
func TestHashedCacheKeys(t *testing.T) {
	t.Parallel()
	s := newS3(t)
	shared := s.runner("known", "    Shared = true")
	a, b := newRig(t, shared), newRig(t, shared)
	hashed := func(c job.Cache, script string) *job.Spec {
		return withVariables(withCache(spec(script), c), "FF_HASH_CACHE_KEYS", "true", "NAME", "%2e%2e/x")
	}
	c := job.Cache{Key: "a key of $NAME", Paths: []string{"f"}}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("a key of %2e%2e/x")))
	wants(t, a.must(job.Success, hashed(c, "echo hashed >f")), "There is no cache for "+sum+".", "Saved the cache "+sum+": 1 file")
	if got := s.names(); !slices.Equal(got, []string{"project/7/" + sum}) {
		t.Errorf("%q", got)
	}
	wants(t, b.must(job.Success, hashed(c, "cat f")), "Restored the cache "+sum+": 1 file", "\nhashed\n")
	other := job.Cache{Key: "none", Paths: []string{"f"}, FallbackKeys: []string{c.Key}, Policy: "pull"}
	wants(t, b.must(job.Success, hashed(other, "cat f")), "Restored the cache "+sum+": 1 file", "\nhashed\n")
	plain := withVariables(withCache(spec("test ! -e f"), other), "NAME", "%2e%2e/x")
	wants(t, b.must(job.Success, plain), "There is no cache for none.", "There is no cache for a key of ../x.")
	flagged := newRig(t, shared, runnerKeys("  [runners.feature_flags]\n    FF_HASH_CACHE_KEYS = true"))
	wants(t, flagged.must(job.Success, withVariables(withCache(spec("cat f"), c), "NAME", "%2e%2e/x")), "Restored the cache "+sum, "\nhashed\n")
}

// TestRestoreCacheAttempts: a fetch that breaks off is tried as often as the job wants, and then the job goes on without the cache.
func TestRestoreCacheAttempts(t *testing.T) {
	t.Parallel()
	s := newS3(t)
	shared := s.runner("known", "    Shared = true")
	a := newRig(t, shared)
	c := job.Cache{Key: "cut", Paths: []string{"f"}}
	a.must(job.Success, withCache(spec("echo kept >f"), c))
	c.Policy = "pull"
	const again = "WARNING: the cache cut cannot be fetched: the bucket caches on "
	for _, test := range []struct {
		attempts string
		cuts     int64
		restored bool
	}{{"3", 2, true}, {"2", 2, false}, {"", 1, false}, {"nonsense", 1, false}} {
		t.Run(test.attempts, func(t *testing.T) {
			r := newRig(t, shared) // nothing of the cache is on its machine
			s.cuts.Store(test.cuts)
			log := r.must(job.Success, withVariables(withCache(spec("cat f || echo none"), c), "RESTORE_CACHE_ATTEMPTS", test.attempts))
			if n := strings.Count(log, again); int64(n) != test.cuts {
				t.Errorf("%d of %d tries failed:\n%s", n, test.cuts, log)
			}
			if test.restored {
				wants(t, log, "; trying again", "Restored the cache cut: 1 file", "\nkept\n")
				lacks(t, log, "the copy on this machine")
			} else {
				wants(t, log, "; the copy on this machine is used, if there is one", "There is no cache for cut.", "\nnone\n")
			}
			if left := s.cuts.Load(); test.restored && left >= 0 || !test.restored && left != 0 {
				t.Errorf("the server was asked too often or too seldom: %d", left)
			}
		})
	}
}

// TestCacheCompressionLevel: the slowest level packs smaller than the fastest, in both formats.
func TestCacheCompressionLevel(t *testing.T) {
	t.Parallel()
	s := newS3(t)
	r := newRig(t, s.runner("known", "    Shared = true"))
	for _, format := range []string{"zip", "zipzstd"} {
		size := func(level string) int64 {
			key := format + "-" + level
			r.must(job.Success, withVariables(withCache(spec("seq 1 100000 >f"), job.Cache{Key: key, Paths: []string{"f"}}), "CACHE_COMPRESSION_FORMAT", format, "CACHE_COMPRESSION_LEVEL", level))
			o, err := s.backend.HeadObject("caches", "project/7/"+key)
			if err != nil {
				t.Fatal(err)
			}
			return o.Size
		}
		fastest, slowest, unknown, none := size("fastest"), size("slowest"), size("odd"), size("")
		if slowest >= fastest || unknown != none {
			t.Errorf("%s: %d bytes, slowest %d, unknown level %d, none %d", format, fastest, slowest, unknown, none)
		}
	}
}
