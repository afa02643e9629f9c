package executor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/objects"
	"github.com/slipway-ci/slipway/internal/trace"
)

// TestCachePlan: what variables and settings make of a cache.
func TestCachePlan(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		change  func(s *Settings)
		vars    map[string]string
		zip     bool
		timeout time.Duration
		object  string
	}{
		{name: "on this machine", timeout: 10 * time.Minute, object: "k"},
		{name: "zip", vars: map[string]string{"CACHE_COMPRESSION_FORMAT": "zip"}, zip: true, timeout: 10 * time.Minute, object: "k"},
		{name: "shared", change: onS3("", false), zip: true, timeout: 10 * time.Minute, object: "project/7/k"},
		{name: "own", change: onS3("/pre/fix/runner/t0ken", true), vars: map[string]string{"CACHE_COMPRESSION_FORMAT": "tarzstd"}, zip: true, timeout: 10 * time.Minute, object: "pre/fix/runner/t0ken/project/7/k"},
		{name: "zstd", change: onS3("", false), vars: map[string]string{"CACHE_COMPRESSION_FORMAT": "zipzstd", "CACHE_REQUEST_TIMEOUT": "25"}, timeout: 25 * time.Minute, object: "project/7/k"},
		{name: "no time", change: onS3("", true), vars: map[string]string{"CACHE_REQUEST_TIMEOUT": "0"}, zip: true, timeout: 10 * time.Minute, object: "project/7/k"},
		{name: "nonsense", change: onS3("", true), vars: map[string]string{"CACHE_REQUEST_TIMEOUT": "soon"}, zip: true, timeout: 10 * time.Minute, object: "project/7/k"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, spec := article(), payload(t)
			if c.change != nil {
				c.change(&s)
			}
			spec.JobInfo.ProjectID = 7
			spec.Cache = []job.Cache{{Key: "k", Paths: []string{"f"}}}
			for key, value := range c.vars {
				spec.Variables = append(spec.Variables, job.Variable{Key: key, Value: value})
			}
			p := planOf(s, spec)
			if len(p.caches) != 1 || p.caches[0].zip != c.zip {
				t.Fatalf("%+v, warnings %q", p.caches, p.warnings)
			}
			got, err := (&Executor{Settings: s}).cachesOf(p)
			if err != nil {
				t.Fatal(err)
			}
			defer got.close()
			if got.timeout != c.timeout || got.object("k") != c.object {
				t.Errorf("%s, %s", got.timeout, got.object("k"))
			}
		})
	}
}

// TestCacheKeys: a key is a path below nowhere, however it is written, and the job hears if it is not the one that it wrote.
func TestCacheKeys(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"": "build/main", "plain-key_1.x": "plain-key_1.x", "a b": "a b", "$NAME/x": "cache/x",
		"a b  ": "a b", `a\b`: "a/b", "%2E%2e/%2Fx": "x", "../../etc/x": "etc/x", "a/./b//c/": "a/b/c", "x/../../y": "y",
		"..": "", "/": "", "  ": "", "%2e": "", "a/..": "", "$EMPTY": "",
	} {
		s, spec := article(), payload(t)
		spec.JobInfo.Name, spec.GitInfo.Ref = "build", "main"
		spec.Variables = append(spec.Variables, job.Variable{Key: "NAME", Value: "cache"})
		spec.Cache = []job.Cache{{Key: key, Paths: []string{"f"}, FallbackKeys: []string{key + "x"}}}
		p := planOf(s, spec)
		told := fmt.Sprintf("cache: the key %q is taken for %q", key, want)
		switch {
		case want == "":
			if len(p.caches) > 0 || !slices.Contains(p.warnings, fmt.Sprintf("cache: the key %q stands for nothing; the job runs without this cache", key)) {
				t.Errorf("%q: %+v, warnings %q", key, p.caches, p.warnings)
			}
		case len(p.caches) != 1 || p.caches[0].key != want:
			t.Errorf("%q: %+v, want %q", key, p.caches, want)
		case slices.Contains(p.warnings, told) != (key != want && key != "" && key != "$NAME/x"):
			t.Errorf("%q: warnings %q", key, p.warnings)
		}
	}
}

// TestFallbackKeyOfProtectedRefs: a variable gets at no cache of protected refs, however it is spelled.
func TestFallbackKeyOfProtectedRefs(t *testing.T) {
	t.Parallel()
	for key, allowed := range map[string]bool{
		"main": true, "main-protected/x": true, "main-non_protected": true,
		"main-protected": false, "main-protected. ": false, "main-protected/": false, "main-protected/x/..": false, `main-protected\`: false,
		"main-protected%2F": false, "main-protected%2e": false, "x/../main-protected": false, "${EMPTY}main-protected/.": false,
	} {
		for _, hash := range []string{"false", "true"} {
			s, spec := article(), payload(t)
			spec.Cache = []job.Cache{{Key: "k", Paths: []string{"f"}}}
			spec.Variables = append(spec.Variables, job.Variable{Key: "CACHE_FALLBACK_KEY", Value: key}, job.Variable{Key: "FF_HASH_CACHE_KEYS", Value: hash})
			p := planOf(s, spec)
			if got := len(p.caches[0].fallbacks) == 1; got != allowed {
				t.Errorf("%q: fallback keys %q, warnings %q", key, p.caches[0].fallbacks, p.warnings)
			}
		}
	}
}

// onS3 keeps caches in a bucket, with none on the machine alone.
func onS3(prefix string, disabled bool) func(s *Settings) {
	return func(s *Settings) {
		s.DisableCache = disabled
		s.Cache = CacheSettings{S3: &objects.Options{Bucket: "caches"}, Prefix: prefix}
	}
}

// TestCacheThatGoes: a copy that is evicted between the bucket's answer and its use is fetched again, and not for ever.
func TestCacheThatGoes(t *testing.T) {
	t.Parallel()
	for goes, want := range map[int]int{0: 1, 1: 2, 100: 3} {
		c := &caches{local: CacheStore(t.TempDir()), project: "p"}
		asked := 0
		a, err := c.open(t.Context(), nil, "k", func(ctx context.Context, _ *trace.Trace, key string) (bool, error) {
			asked++
			_, err := c.local.Put(c.project, key, func(f *os.File) (string, error) { _, err := f.WriteString("x"); return "tag", err })
			if err == nil && asked <= goes {
				_, _, err = c.local.Evict(ctx, 1)
			}
			return true, err
		})
		if err != nil || (a != nil) != (goes < 100) || asked != want {
			t.Errorf("it goes %d times: %v, %v, asked %d times", goes, a, err, asked)
		}
		if a != nil {
			a.Close()
		}
	}
}
