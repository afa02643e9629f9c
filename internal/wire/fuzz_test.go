package wire

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
)

// FuzzDecode: if a document is taken, then old Engines (encoding/json, which takes keys in any case, merges
// duplicates and ignores what follows) read the original as they read what is made of it.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"Image":"a","HostConfig":{"Privileged":false}}`, `{"hostconfig":{"privileged":true}}`,
		`{"HostConfig":{"Privileged":false},"HostConfig":{"CapAdd":["ALL"]}}`, `{"HoſtConfig":{"Privileged":true}}`,
		`{"HostConfig":{"Networ\u212aMode":"host"}}`, `{"HostConfig":null}`, `{}{}`, `{"Labels":{"a":"1","A":"2"}}`,
		`{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"1"}]},"Sysctls":{"a":"b"}}}`, `[]`, `null`, `"x"`, "\ufeff{}",
		`{"NetworkingConfig":{"EndpointsConfig":{"a":{"Aliases":["x"]},"A":null}}}`, `{"Volumes":{"/a":{},"/A":{}}}`,
		`{"Labels":{"Labels":{"a":1}}}`, `{"Healthcheck":{"Test":["a"],"interval":5}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var strict, engine, again container.CreateRequest
		if Decode(data, &strict) != nil {
			return
		}
		// Old Engines read one document and leave the rest.
		if err := json.NewDecoder(bytes.NewReader(data)).Decode(&engine); err != nil {
			t.Fatalf("taken, but the Engine cannot decode it: %v", err)
		}
		sent, err := json.Marshal(strict)
		if err != nil {
			t.Skip() // nothing would be sent
		}
		if err := json.Unmarshal(sent, &again); err != nil {
			t.Fatal(err)
		}
		before, err := json.Marshal(engine)
		if err != nil {
			t.Fatal(err)
		}
		after, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, after) {
			t.Errorf("%q:\nas it came %s\nas it goes %s", data, before, after)
		}
		var doc map[string]any
		if json.Unmarshal(data, &doc) == nil {
			seen := map[string]bool{}
			for k := range doc {
				if seen[strings.ToLower(k)] {
					t.Errorf("%q has %q in two cases", data, k)
				}
				seen[strings.ToLower(k)] = true
			}
		}
	})
}

// FuzzPath: a path that is taken is one that the Engine routes as it is written: clean, without a second reading.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/_ping", "/v1.41/containers/a/json", "/v1.41/images/a/b:c/json", "//x", "/a/../b", "/%2e", "/a%2fb", "/%63ontainers/json", "/v1.41", "*", "/a/", "/v1.41/v1.41/x", "/\u017f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		version, clean, err := Path(&http.Request{Method: http.MethodGet, URL: u})
		if err != nil || clean == "" && version != "" {
			return
		}
		if got := path.Clean(clean); got != strings.TrimSuffix(clean, "/") && clean != "/" {
			t.Errorf("%q became %q, which is not clean", target, clean)
		}
		if strings.ContainsAny(clean, "%\\?#\x00\n\r ") || !strings.HasPrefix(clean, "/") {
			t.Errorf("%q became %q", target, clean)
		}
		whole := clean
		if version != "" {
			whole = "/v" + version + clean
		}
		if whole != u.Path {
			t.Errorf("%q became %q", u.Path, whole)
		}
		// What is sent for it is read back as the same.
		sent := (&url.URL{Path: clean}).EscapedPath()
		r := httptest.NewRequest(http.MethodGet, sent, nil)
		if r.URL.Path != clean {
			t.Errorf("%q is sent as %q and read as %q", clean, sent, r.URL.Path)
		}
	})
}

// FuzzQuery: what is read from a query, and sent, is what the Engine reads.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"a=1", "a=1&a=2", "t=a&t=b", "a=%zz", "a;b", "filters={\"label\":[\"a\"]}", "a=1&%61=2", "=", "a+b=c", "a=\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := Query(raw)
		if err != nil {
			return
		}
		engine, err := url.ParseQuery(q.Encode())
		if err != nil || len(engine)+len(q) > 0 && !reflect.DeepEqual(engine, q) {
			t.Errorf("%q: read %v, sent %v, %v", raw, q, engine, err)
		}
		for k, v := range q {
			if first := (&http.Request{Method: http.MethodGet, URL: &url.URL{RawQuery: raw}}).FormValue(k); first != v[0] {
				t.Errorf("%q: %q is %q here, %q for the Engine", raw, k, v[0], first)
			}
		}
		if f, err := ReadFilters(q.Get("filters"), "label", "name", "until"); err == nil {
			g, err := ReadFilters(f.Query(url.Values{}).Get("filters"), "label", "name", "until")
			if err != nil || len(g) != len(f) {
				t.Errorf("%q: filters %v became %v, %v", raw, f, g, err)
			}
		}
	})
}
