package lfs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestParsePointer(t *testing.T) {
	t.Parallel()
	oid := strings.Repeat("ab", 32)
	good := "version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\nsize 12345\n"
	for _, text := range []string{
		good, strings.TrimSuffix(good, "\n"), strings.Replace(good, "https://git-lfs.github.com/spec/v1", "https://hawser.github.com/spec/v1", 1),
	} {
		if p, ok := ParsePointer(text); !ok || p != (Pointer{OID: oid, Size: 12345}) {
			t.Errorf("%q: %v %t", text, p, ok)
		}
	}
	for _, text := range []string{
		"", "x", "version https://example.com/v1\n", strings.Replace(good, "sha256", "md5", 1), strings.Replace(good, "12345", "-1", 1),
		strings.Replace(good, "12345", "99999999999999999999", 1), strings.Replace(good, oid, oid[1:], 1), strings.Replace(good, oid, "../"+oid[3:], 1),
		good + strings.Repeat("x", MaxPointer), "\n" + good[44:],
	} {
		if p, ok := ParsePointer(text); ok {
			t.Errorf("%q is taken for %v", text, p)
		}
	}
}

func pointer(content string) Pointer {
	sum := sha256.Sum256([]byte(content))
	return Pointer{OID: hex.EncodeToString(sum[:]), Size: int64(len(content))}
}

// server gives the content that a pointer stands for from where href says.
func server(t *testing.T, href func(oid string) string) *Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ask struct{ Objects []object }
		if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
			t.Error(err)
		}
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" || len(ask.Objects) > batchSize {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		for i, o := range ask.Objects {
			ask.Objects[i].Actions.Download.Href = href(o.OID)
			ask.Objects[i].Actions.Download.Header = map[string]string{"X-Signed": o.OID}
		}
		_ = json.NewEncoder(w).Encode(ask)
	}))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &Client{HTTP: http.DefaultClient, Endpoint: u, User: "me", Password: "secret", UserAgent: "test"}
}

// TestFetch: several batches, a storage that stumbles and lies at first, and that never sees the credentials.
func TestFetch(t *testing.T) {
	t.Parallel()
	contents := map[string]string{}
	var want []Pointer
	for i := range batchSize + 5 {
		text := fmt.Sprint("content ", i)
		p := pointer(text)
		contents[p.OID] = text
		want = append(want, p, p)
	}
	var calls atomic.Int64
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		oid := strings.TrimPrefix(r.URL.Path, "/")
		n := calls.Add(1)
		switch {
		case r.Header.Get("Authorization") != "" || r.Header.Get("X-Signed") != oid:
			t.Errorf("the storage got %v", r.Header)
		case n == 1:
			w.WriteHeader(http.StatusBadGateway)
			return
		case n == 2:
			_, _ = io.WriteString(w, "another text")
			return
		}
		_, _ = io.WriteString(w, contents[oid])
	}))
	t.Cleanup(storage.Close)
	c := server(t, func(oid string) string { return storage.URL + "/" + oid })
	s := Store{Dir: t.TempDir()}
	if err := c.Fetch(t.Context(), s, want, false); err != nil {
		t.Fatal(err)
	}
	for _, p := range want {
		f, err := s.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(text) != contents[p.OID] {
			t.Errorf("%q %v", text, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(s.Dir, "*/*/.tmp*")); len(left) > 0 || err != nil {
		t.Errorf("left: %v %v", left, err)
	}
	if n := calls.Load(); n != int64(len(contents))+2 {
		t.Errorf("%d calls", n)
	}
	// All is there: nobody is asked, unless that is wanted.
	c.Password = "wrong"
	if err := c.Fetch(t.Context(), s, want, false); err != nil {
		t.Error(err)
	}
	var status *StatusError
	if err := c.Fetch(t.Context(), s, want, true); !errors.As(err, &status) || status.Status != http.StatusForbidden || Unreachable(err) {
		t.Errorf("got %v", err)
	}
}

// TestFetchFails: what a server in trouble or with ill will comes to.
func TestFetchFails(t *testing.T) {
	t.Parallel()
	p := pointer("content")
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 1000 {
			if _, err := io.WriteString(w, strings.Repeat("more than was said", 1000)); err != nil {
				return
			}
		}
	}))
	t.Cleanup(liar.Close)
	for href, passes := range map[string]bool{liar.URL: true, "http://127.0.0.1:1": true, "file:///etc/passwd": false, "": false} {
		s := Store{Dir: t.TempDir()}
		err := server(t, func(string) string { return href }).Fetch(t.Context(), s, []Pointer{p}, false)
		if err == nil || Unreachable(err) != passes || s.Has(p) {
			t.Errorf("%q: %v", href, err)
		}
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	s := Store{Dir: filepath.Join(t.TempDir(), "lfs")}
	if err := s.Prune(t.Context(), time.Hour); err != nil {
		t.Errorf("without a folder: %v", err)
	}
	old, used, fresh, ahead := pointer("old"), pointer("used"), pointer("fresh"), pointer("ahead")
	for p, text := range map[Pointer]string{old: "old", used: "used", fresh: "fresh", ahead: "ahead"} {
		if err := s.add(p, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		if past := time.Now().Add(-2 * time.Hour); p != fresh {
			if err := os.Chtimes(s.path(p), past, past); err != nil {
				t.Fatal(err)
			}
		}
	}
	later := time.Now().Add(24 * time.Hour) // before the clock was set back
	if err := os.Chtimes(s.path(ahead), later, later); err != nil {
		t.Fatal(err)
	}
	f, err := s.Open(used)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.Prune(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if s.Has(old) || !s.Has(used) || !s.Has(fresh) || !s.Has(ahead) {
		t.Errorf("old %t, used %t, fresh %t, ahead %t", s.Has(old), s.Has(used), s.Has(fresh), s.Has(ahead))
	}
}
