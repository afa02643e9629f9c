package objects

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	aRole       = "arn:aws:iam::123456789012:role/caches"
	anotherRole = "arn:aws:iam::123456789012:role/uploads"
)

// lender is an STS that lends the rights of both roles to one key.
type lender struct {
	*httptest.Server
	mu      sync.Mutex
	asked   []url.Values
	running int
	most    int           // of running
	lasts   time.Duration // what is lent
	arrived chan struct{} // a request waits
	hold    chan struct{} // until this is closed; nil = none waits
}

func newLender(t *testing.T) *lender {
	t.Helper()
	l := &lender{lasts: time.Hour}
	l.Server = httptest.NewServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *lender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	form, err := url.ParseQuery(string(body))
	from, hasKey := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=known/")
	role := form.Get("RoleArn")
	switch {
	case err != nil || r.Method != http.MethodPost || form.Get("Action") != "AssumeRole" || form.Get("Version") != "2011-06-15" || form.Get("DurationSeconds") != "3600":
		refuse(w, 400, "ValidationError")
		return
	case !hasKey || !strings.Contains(from, "/eu-west-1/sts/aws4_request, SignedHeaders=") || !strings.Contains(from, "Signature="):
		refuse(w, 403, "InvalidClientTokenId")
		return
	case role != aRole && role != anotherRole:
		refuse(w, 403, "AccessDenied")
		return
	}
	l.mu.Lock()
	l.asked = append(l.asked, form)
	n := len(l.asked)
	l.running++
	l.most = max(l.most, l.running)
	l.mu.Unlock()
	if l.hold != nil {
		l.arrived <- struct{}{}
		<-l.hold
	}
	l.mu.Lock()
	l.running--
	l.mu.Unlock()
	fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>lent-%d-%s</AccessKeyId><SecretAccessKey>lent-secret</SecretAccessKey><SessionToken>lent-token</SessionToken><Expiration>%s</Expiration>
</Credentials></AssumeRoleResult></AssumeRoleResponse>`, n, role[strings.LastIndexByte(role, '/')+1:], time.Now().Add(l.lasts).UTC().Format(time.RFC3339))
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>It is so.</Message></Error></ErrorResponse>`, code)
}

// keys are the access keys that a store was asked for objects with.
func (s *store) keys(method string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if r.Method == method {
			key, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential="), "/")
			out = append(out, key)
		}
	}
	return out
}

// onlyLent lets in who has the token that STS gives with a key.
func onlyLent(w http.ResponseWriter, r *http.Request) bool {
	lent := strings.Contains(r.Header.Get("Authorization"), "Credential=lent-") && r.Header.Get("X-Amz-Security-Token") == "lent-token"
	return !lent && answer(w, 403, "AccessDenied", "")
}

func lending(s *store, l *lender) Options {
	o := s.options()
	o.Region, o.STS, o.Role, o.Within, o.Roles = "eu-west-1", l.URL, aRole, "runner/x/project/7/", &Roles{}
	return o
}

func transfer(t *testing.T, ctx context.Context, b *Bucket) {
	t.Helper()
	if _, err := b.Put(ctx, "x", strings.NewReader("y"), 1, func(int64) {}); err != nil {
		t.Error(err)
	}
	var got bytes.Buffer
	if _, err := b.Get(ctx, "x", "", &got, func(int64) {}); err != nil || got.String() != "y" {
		t.Errorf("%q, %v", &got, err)
	}
}

// TestRoles: objects are read and written with what STS lends, which is asked for once for all buckets.
func TestRoles(t *testing.T) {
	t.Parallel()
	s, l := newStore(t, false, onlyLent), newLender(t)
	o := lending(s, l)
	transfer(t, t.Context(), bucket(t, o))
	again := bucket(t, o)
	transfer(t, t.Context(), again)
	etag, err := again.Put(t.Context(), "x", strings.NewReader("y"), 1, func(int64) {})
	if err != nil || !again.Has(t.Context(), "x", etag) {
		t.Errorf("%q, %v", etag, err)
	}
	if len(l.asked) != 1 {
		t.Fatalf("STS was asked %d times", len(l.asked))
	}
	if name := l.asked[0].Get("RoleSessionName"); name != "slipway-cache" {
		t.Errorf("the session is named %q", name)
	}
	want := `{"Version":"2012-10-17","Statement":[` +
		`{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject","s3:AbortMultipartUpload"],"Resource":"arn:aws:s3:::caches/runner/x/project/7/*"},` +
		`{"Effect":"Allow","Action":["s3:ListBucket","s3:GetBucketLocation"],"Resource":"arn:aws:s3:::caches"}]}`
	if got := l.asked[0].Get("Policy"); got != want {
		t.Errorf("%s", got)
	}

	t.Run("another project asks for rights of its own", func(t *testing.T) {
		o := o
		o.Within = "runner/x/project/8/"
		transfer(t, t.Context(), bucket(t, o))
		if len(l.asked) != 2 {
			t.Errorf("STS was asked %d times", len(l.asked))
		}
	})
	t.Run("the keys themselves may do nothing", func(t *testing.T) {
		o := o
		o.Role = ""
		if _, err := bucket(t, o).Get(t.Context(), "x", "", &bytes.Buffer{}, func(int64) {}); !errors.Is(err, ErrDenied) {
			t.Errorf("%v", err)
		}
	})
}

// TestUploadRole: it is for uploads alone, and RoleARN goes before it.
func TestUploadRole(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		role     string
		put, get string
	}{
		"alone":       {"", "lent-1-uploads", "known"},
		"beside Role": {aRole, "lent-1-caches", "lent-1-caches"},
	} {
		s, l := newStore(t, false, nil), newLender(t)
		o := lending(s, l)
		o.Role, o.UploadRole = c.role, anotherRole
		transfer(t, t.Context(), bucket(t, o))
		if put, get := s.keys("PUT"), s.keys("GET"); !slices.Equal(put, []string{c.put}) || !slices.Equal(get, []string{c.get}) {
			t.Errorf("%s: put by %q, got by %q", name, put, get)
		}
	}
}

// TestRightsEnd: what would not last for a transfer is not used for it, nor what must not be kept.
func TestRightsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lasts, limit time.Duration
		fresh        bool
		asked        int
	}{
		"long enough":           {time.Hour, 10 * time.Minute, false, 1},
		"without a limit":       {time.Hour, 0, false, 1},
		"for a very long one":   {time.Hour, 3 * time.Hour, false, 1},
		"too short":             {9 * time.Minute, 10 * time.Minute, false, 2},
		"too short for any":     {59 * time.Second, 50 * time.Second, false, 2},
		"short, but so is this": {9 * time.Minute, 5 * time.Minute, false, 1},
		"not kept":              {time.Hour, time.Minute, true, 2},
	} {
		s, l := newStore(t, false, onlyLent), newLender(t)
		l.lasts = c.lasts
		o := lending(s, l)
		o.FreshRights = c.fresh
		ctx := t.Context()
		if c.limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.limit)
			defer cancel()
		}
		transfer(t, ctx, bucket(t, o))
		if len(l.asked) != c.asked {
			t.Errorf("%s: STS was asked %d times", name, len(l.asked))
		}
		if n := len(o.Roles.lent); n > 1 || c.fresh && n > 0 {
			t.Errorf("%s: %d are kept", name, n)
		}
	}
}

// TestFewAskAtOnce: no more requests run than are allowed, one that waits ends with its transfer, and what one gets serves all.
func TestFewAskAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ max, clients, want, asked int }{{1, 4, 1, 1}, {0, 12, 5, 5}, {3, 8, 3, 3}, {-1, 7, 7, 7}} {
		s, l := newStore(t, false, onlyLent), newLender(t)
		l.arrived, l.hold = make(chan struct{}, c.clients), make(chan struct{})
		o := lending(s, l)
		o.MaxAssume = c.max
		var wg sync.WaitGroup
		for range c.clients {
			b := bucket(t, o)
			wg.Go(func() {
				if _, err := b.Put(t.Context(), "x", strings.NewReader("y"), 1, func(int64) {}); err != nil {
					t.Error(err)
				}
			})
		}
		for range c.want { // as many as may ask at once do
			<-l.arrived
		}
		why := errors.New("canceled")
		if c.max == 1 {
			held := lending(s, l)
			held.Roles, held.MaxAssume = o.Roles, 1
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(why)
			held.Within = "other/"
			if _, err := bucket(t, held).Put(ctx, "x", strings.NewReader("y"), 1, func(int64) {}); !errors.Is(err, why) {
				t.Errorf("%v", err)
			}
		}
		close(l.hold)
		wg.Wait()
		if l.most > c.want || len(l.asked) > c.asked {
			t.Errorf("%d of %d: %d at once, %d in all", c.max, c.clients, l.most, len(l.asked))
		}
	}
}

// TestRoleErrors: each says what to do, and none has a secret.
func TestRoleErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options func(o *Options)
		want    string
	}{
		"no right":   {func(o *Options) { o.Role += "x" }, "assume the role " + aRole + "x at http://127.0.0.1:"},
		"its cure":   {func(o *Options) { o.Role += "x" }, "[AccessDenied] (whoever asks needs sts:AssumeRole for the role, and the role's trust policy must name who asks"},
		"wrong key":  {func(o *Options) { o.Keys.Access = "unknown" }, "[InvalidClientTokenId] (check AccessKey, SecretKey and SessionToken in [runners.cache.s3]"},
		"no key":     {func(o *Options) { o.Keys = Keys{} }, "there are no keys to ask with (write AccessKey and SecretKey below [runners.cache.s3]"},
		"down":       {func(o *Options) { o.STS = "http://127.0.0.1:1" }, "connection refused (check that this machine reaches it; the variable AWS_ENDPOINT_URL_STS"},
		"not an STS": {func(o *Options) { o.STS = "http://" + o.Address }, "assume the role " + aRole},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, l := newStore(t, false, onlyLent), newLender(t)
			o := lending(s, l)
			c.options(&o)
			b := bucket(t, o)
			_, err := b.Get(t.Context(), "x", "", &bytes.Buffer{}, func(int64) {})
			_, err2 := b.Put(t.Context(), "x", strings.NewReader("y"), 1, func(int64) {})
			for _, err := range []error{err, err2} {
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v\nlacks %s", err, c.want)
				}
				if errors.Is(err, ErrDenied) || !strings.HasPrefix(fmt.Sprint(err), "the bucket caches on 127.0.0.1:") {
					t.Errorf("%v", err)
				}
			}
			if b.Has(t.Context(), "x", "tag") {
				t.Error("an object is there that cannot be asked for")
			}
		})
	}
	for code, want := range map[string]string{
		"ValidationError": "arn:aws:iam::", "ExpiredToken": "have expired", "RegionDisabledException": "activate STS", "Throttling": "AssumeRoleMaxConcurrency", "Other": "",
	} {
		if got := stsHint(code); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: %q", code, got)
		}
	}
}

// TestLoans: where STS is, and what it is asked for.
func TestLoans(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o                          Options
		endpoint, region, resource string
		kms                        bool
	}{
		{Options{Role: aRole}, "https://sts.amazonaws.com", "us-east-1", "arn:aws:s3:::caches/*", true},
		{Options{Role: aRole, Region: "eu-west-1", Within: "a/"}, "https://sts.eu-west-1.amazonaws.com", "eu-west-1", "arn:aws:s3:::caches/a/*", true},
		{Options{Role: "arn:aws-cn:iam::1:role/x", Region: "cn-north-1"}, "https://sts.cn-north-1.amazonaws.com.cn", "cn-north-1", "arn:aws-cn:s3:::caches/*", true},
		{Options{Role: "arn:minio:iam:::role/x", Address: "s3.example.com", STS: "https://s3.example.com"}, "https://s3.example.com", "us-east-1", "arn:aws:s3:::caches/*", false},
		{Options{Role: "x", Address: "s3.example.com", Encrypt: "KMS"}, "https://sts.amazonaws.com", "us-east-1", "arn:aws:s3:::caches/*", true},
		{Options{Role: aRole, Within: "a*?$b\"/"}, "https://sts.amazonaws.com", "us-east-1", "arn:aws:s3:::caches/a${*}${?}${$}b\"/*", true},
	} {
		c.o.Bucket = "caches"
		l := bucket(t, c.o).loan(c.o.Role)
		var policy struct {
			Statement []struct {
				Action   []string
				Resource string
			}
		}
		if err := json.Unmarshal([]byte(l.policy), &policy); err != nil || len(policy.Statement) < 2 {
			t.Fatalf("%s: %v", l.policy, err)
		}
		if l.endpoint != c.endpoint || l.region != c.region || policy.Statement[0].Resource != c.resource || strings.Contains(l.policy, "kms:Decrypt") != c.kms {
			t.Errorf("%+v", l)
		}
	}
}

// TestRoleOfAMachine asks with what Amazon gives to the machine.
func TestRoleOfAMachine(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "known")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	s, l := newStore(t, false, onlyLent), newLender(t)
	o := lending(s, l)
	o.IAM, o.Keys = true, Keys{}
	transfer(t, t.Context(), bucket(t, o))
}
