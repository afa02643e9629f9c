package objects

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// store is an S3 server with one bucket and one key.
type store struct {
	*httptest.Server
	secure   bool
	mu       sync.Mutex
	requests []*http.Request
}

// newStore starts a server. before may answer in its place.
func newStore(t *testing.T, secure bool, before func(w http.ResponseWriter, r *http.Request) bool) *store {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("caches"); err != nil {
		t.Fatal(err)
	}
	s, served := &store{}, gofakes3.New(backend).Server()
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		if before == nil || !before(w, r) {
			served.ServeHTTP(w, r)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if s.secure = secure; secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// asked counts the requests of a method for objects.
func (s *store) asked(method string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if r.Method == method && strings.Count(r.URL.Path, "/") > 1 {
			n++
		}
	}
	return n
}

func (s *store) options() Options {
	return Options{
		Address: strings.TrimPrefix(strings.TrimPrefix(s.URL, "https://"), "http://"), Insecure: !s.secure, Bucket: "caches", Region: "us-east-1",
		Keys: Keys{Access: "known", Secret: "hidden-secret"},
	}
}

func bucket(t *testing.T, o Options) *Bucket {
	t.Helper()
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func answer(w http.ResponseWriter, status int, code, more string) bool {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>It is so.</Message>%s</Error>", code, more)
	return true
}

func TestBucket(t *testing.T) {
	t.Parallel()
	s := newStore(t, true, nil) // its parts of an object must not be signed, which only TLS makes good
	o := s.options()
	o.Region = ""
	b := bucket(t, o)
	b.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	b.transport.TLSClientConfig.RootCAs.AddCert(s.Certificate())
	b.partSize = 5 << 20
	ctx := t.Context()
	for name, content := range map[string][]byte{"small": []byte("content"), "a/b ü+c": bytes.Repeat([]byte("0123456789"), 1<<20)} {
		if _, err := b.Get(ctx, name, "", &bytes.Buffer{}, func(int64) {}); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", name, err)
		}
		var sent, came int64
		var mu sync.Mutex
		etag, err := b.Put(ctx, name, bytes.NewReader(content), int64(len(content)), func(n int64) { mu.Lock(); sent += n; mu.Unlock() })
		if err != nil || etag == "" || sent != int64(len(content)) {
			t.Fatalf("%s: tag %q, %d bytes sent, %v", name, etag, sent, err)
		}
		var got bytes.Buffer
		again, err := b.Get(ctx, name, "another", &got, func(n int64) { came += n })
		if len(content) > int(b.partSize) {
			etag = again // this server forgets the tag that it gave to the parts
		}
		if err != nil || again != etag || !bytes.Equal(got.Bytes(), content) || came != int64(len(content)) {
			t.Errorf("%s: tag %q, not %q, %d bytes, %v", name, again, etag, got.Len(), err)
		}
		got.Reset()
		if _, err := b.Get(ctx, name, etag, &got, func(int64) {}); !errors.Is(err, ErrUnchanged) || got.Len() > 0 {
			t.Errorf("%s: %d bytes, %v", name, got.Len(), err)
		}
		if !b.Has(ctx, name, etag) || b.Has(ctx, name, "another") || b.Has(ctx, name, "") || b.Has(ctx, name+"x", etag) {
			t.Errorf("%s: another tag", name)
		}
	}
}

// TestServerWithoutConditions: one that sends an unchanged object again is not listened to.
func TestServerWithoutConditions(t *testing.T) {
	t.Parallel()
	s := newStore(t, false, func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("If-None-Match"); return false })
	b := bucket(t, s.options())
	etag, err := b.Put(t.Context(), "x", strings.NewReader("content"), 7, func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := b.Get(t.Context(), "x", etag, &got, func(int64) {}); !errors.Is(err, ErrUnchanged) || got.Len() > 0 {
		t.Errorf("%q, %v", &got, err)
	}
}

// TestErrors: each says what to do, and none has a secret.
func TestErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before  func(w http.ResponseWriter, r *http.Request) bool
		options func(o *Options)
		secure  bool
		want    string
	}{
		"denied": {
			before: func(w http.ResponseWriter, _ *http.Request) bool { return answer(w, 403, "AccessDenied", "") },
			want:   "access denied: It is so. [AccessDenied] (whoever asks needs s3:GetObject",
		},
		"wrong keys": {
			before: func(w http.ResponseWriter, r *http.Request) bool {
				return !strings.Contains(r.Header.Get("Authorization"), "Credential=known/") && answer(w, 403, "InvalidAccessKeyId", "")
			},
			options: func(o *Options) { o.Keys.Access = "unknown" },
			want:    "[InvalidAccessKeyId] (check AccessKey, SecretKey and SessionToken in [runners.cache.s3]",
		},
		"wrong region": {
			before: func(w http.ResponseWriter, _ *http.Request) bool {
				return answer(w, 400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")
			},
			want: `[AuthorizationHeaderMalformed] (write BucketLocation = "eu-west-1" in [runners.cache.s3])`,
		},
		"region elsewhere": {
			before: func(w http.ResponseWriter, _ *http.Request) bool { return answer(w, 301, "PermanentRedirect", "") },
			want:   "[PermanentRedirect] (write the bucket's region as BucketLocation in [runners.cache.s3])",
		},
		"no bucket": {
			options: func(o *Options) { o.Bucket = "others" },
			want:    "the bucket others on 127.0.0.1:",
		},
		"server down": {
			options: func(o *Options) { o.Address = "127.0.0.1:1" },
			want:    "connection refused (check that the server runs",
		},
		"own certificate": {
			secure: true,
			want:   "(let this machine's system trust the server's certificate, or name a file with it in SSL_CERT_FILE)",
		},
		"only http": {
			options: func(o *Options) { o.Insecure = false },
			want:    "(write Insecure = true in [runners.cache.s3] if the server speaks only http)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, c.secure, c.before)
			o := s.options()
			if c.options != nil {
				c.options(&o)
			}
			b := bucket(t, o)
			_, err := b.Get(t.Context(), "x", "", &bytes.Buffer{}, func(int64) {})
			_, err2 := b.Put(t.Context(), "x", strings.NewReader("y"), 1, func(int64) {})
			for _, err := range []error{err, err2} {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hidden-secret") {
					t.Errorf("%v\nlacks %s", err, c.want)
				}
				if errors.Is(err, ErrDenied) != (name == "denied") {
					t.Errorf("%v is or is no denial", err)
				}
			}
		})
	}
	if text := fmt.Sprintf("%+v %#v", (&store{Server: &httptest.Server{}}).options(), Keys{Secret: "hidden-secret"}); strings.Contains(text, "hidden-secret") {
		t.Errorf("a secret is printed: %s", text)
	}
	if _, err := Open(Options{Address: "a b", Bucket: "caches"}); err == nil || !strings.Contains(err.Error(), "check ServerAddress") {
		t.Errorf("%v", err)
	}
	if _, err := Open(Options{Bucket: "A b"}); err == nil || !strings.Contains(err.Error(), "write the bucket's name as BucketName") {
		t.Errorf("%v", err)
	}
}

// TestEnd: a transfer ends with its context, and the error is why that ended.
func TestEnd(t *testing.T) {
	t.Parallel()
	began := make(chan struct{}, 9)
	s := newStore(t, false, func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body) // else the end of the connection is not noticed
		began <- struct{}{}
		<-r.Context().Done()
		return true
	})
	b := bucket(t, s.options())
	why := errors.New("canceled")
	ends := func(method string, transfer func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { <-began; cancel(why) }()
		if err := transfer(ctx); !errors.Is(err, why) {
			t.Errorf("%s: %v", method, err)
		}
		if s.asked(method) != 1 {
			t.Errorf("%s: %d tries", method, s.asked(method))
		}
	}
	ends("GET", func(ctx context.Context) error {
		_, err := b.Get(ctx, "x", "", &bytes.Buffer{}, func(int64) {})
		return err
	})
	put := func(ctx context.Context) error {
		_, err := b.Put(ctx, "x", strings.NewReader("y"), 1, func(int64) {})
		return err
	}
	ends("PUT", put)
	ctx, stop := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
	defer stop()
	if err := put(ctx); !errors.Is(err, why) { // asked by then or not
		t.Errorf("%v", err)
	}
}

// failing is a disk that is full.
type failing struct{}

var errFull = errors.New("the disk is full")

func (failing) Write([]byte) (int, error) { return 0, errFull }

func TestFullDisk(t *testing.T) {
	t.Parallel()
	b := bucket(t, newStore(t, false, nil).options())
	if _, err := b.Put(t.Context(), "x", strings.NewReader("y"), 1, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	_, err := b.Get(t.Context(), "x", "", failing{}, func(int64) {})
	if !errors.Is(err, errFull) || strings.Contains(err.Error(), "ServerAddress") {
		t.Errorf("%v", err)
	}
}

// TestRequests: what the options ask of the server.
func TestRequests(t *testing.T) {
	t.Parallel()
	for method, want := range map[string][]string{"": {"", ""}, "S3": {"AES256", ""}, "KMS": {"aws:kms", "alias/k"}, "DSSE-KMS": {"aws:kms:dsse", "alias/k"}} {
		s := newStore(t, false, nil)
		o := s.options()
		o.Encrypt, o.KeyID, o.Keys.Session = method, "alias/k", "session"
		if _, err := bucket(t, o).Put(t.Context(), "x", strings.NewReader("y"), 1, func(int64) {}); err != nil {
			t.Error(err)
		}
		for _, r := range s.requests {
			h := r.Header
			if got := []string{h.Get("X-Amz-Server-Side-Encryption"), h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id")}; r.Method == "PUT" && (got[0] != want[0] || got[1] != want[1]) {
				t.Errorf("%s: %q", method, got)
			}
			if h.Get("X-Amz-Security-Token") != "session" || !strings.HasPrefix(r.URL.Path, "/caches/") {
				t.Errorf("%s: %s %v", method, r.URL.Path, h)
			}
		}
	}
	no, yes := false, true
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "https://caches.s3.dualstack.us-east-1.amazonaws.com/x"},
		{Options{SingleIP: true}, "https://caches.s3.us-east-1.amazonaws.com/x"},
		{Options{PathStyle: &yes, SingleIP: true}, "https://s3.us-east-1.amazonaws.com/caches/x"},
		{Options{Accelerate: true}, "https://caches.s3-accelerate.dualstack.amazonaws.com/x"},
		{Options{Accelerate: true, SingleIP: true}, "https://caches.s3-accelerate.amazonaws.com/x"},
		{Options{Address: "s3.example.com:9000"}, "https://s3.example.com:9000/caches/x"},
		{Options{Address: "s3.example.com:9000", PathStyle: &no}, "https://caches.s3.example.com:9000/x"},
	} {
		c.o.Bucket, c.o.Region, c.o.Keys = "caches", "us-east-1", Keys{Access: "a", Secret: "b"}
		u, err := bucket(t, c.o).core.PresignedGetObject(t.Context(), "caches", "x", time.Minute, nil)
		if err != nil {
			t.Fatal(err)
		}
		if u.RawQuery = ""; u.String() != c.want {
			t.Errorf("%s, not %s", u, c.want)
		}
	}
}

// TestIAM takes the keys from where Amazon's own programs do.
func TestIAM(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "from-environment")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	s := newStore(t, false, nil)
	o := s.options()
	o.IAM = true
	if _, err := bucket(t, o).Put(t.Context(), "x", strings.NewReader("y"), 1, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	if got := s.requests[0].Header.Get("Authorization"); !strings.Contains(got, "Credential=from-environment/") {
		t.Errorf("%s", got)
	}
}
