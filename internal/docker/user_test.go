package docker

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
)

// TestUserOf: users are found as Docker finds them, in files of a container that shares nothing with anybody and does not run.
func TestUserOf(t *testing.T) {
	t.Parallel()
	const passwd, group = "root:x:0:0::/:/bin/sh\nworker:x:1000:1001::/:/bin/sh\n", "root:x:0:\nothers:x:2000:\n"
	link := func(to string) *tar.Header { return &tar.Header{Typeflag: tar.TypeSymlink, Linkname: to} }
	plain := map[string]any{"/etc/passwd": passwd, "/etc/group": group}
	for spec, c := range map[string]struct {
		files    map[string]any // a text, or a link's header
		uid, gid int
		fails    error
	}{
		"worker":        {plain, 1000, 1001, nil},
		"1000":          {plain, 1000, 1001, nil},
		"1000:others":   {plain, 1000, 2000, nil},
		"4711:12":       {nil, 4711, 12, nil},
		"0":             {nil, 0, 0, nil},
		"stranger":      {plain, 0, 0, ErrNoUser},
		"worker:none":   {plain, 0, 0, ErrNoUser},
		"-1":            {plain, 0, 0, ErrNoUser},
		"worker:root":   {map[string]any{"/etc/passwd": link("../usr/users"), "/usr/users": link("/real"), "/real": passwd, "/etc/group": group}, 1000, 0, nil},
		"worker:others": {map[string]any{"/etc/passwd": link("passwd"), "/etc/group": group}, 0, 0, ErrNoUser},
	} {
		t.Run(spec, func(t *testing.T) {
			t.Parallel()
			var calls []string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Api-Version", "1.41")
				_, at, _ := strings.Cut(r.URL.Path, "/v1.41")
				switch calls = append(calls, r.Method+" "+at); {
				case strings.HasSuffix(at, "/containers/create"):
					body, _ := io.ReadAll(r.Body)
					var made struct {
						User       string
						Volumes    map[string]any
						HostConfig struct {
							NetworkMode                string
							Binds, VolumesFrom, Mounts []any
							Privileged                 bool
						}
					}
					h := &made.HostConfig
					if err := json.Unmarshal(body, &made); err != nil || made.User != "" || h.NetworkMode != "none" || h.Privileged || len(h.Binds)+len(h.VolumesFrom)+len(h.Mounts)+len(made.Volumes) > 0 {
						t.Errorf("%v: %s", err, body)
					}
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(http.StatusCreated)
					_, _ = w.Write([]byte(`{"Id":"probe"}`))
				case strings.HasSuffix(at, "/archive"):
					name := r.URL.Query().Get("path")
					var b bytes.Buffer
					archive := tar.NewWriter(&b)
					h, text := &tar.Header{Mode: 0o644}, ""
					switch f := c.files[name].(type) {
					case string:
						h.Size, text = int64(len(f)), f
					case *tar.Header:
						*h = *f
					default:
						w.Header().Set("Content-Type", "application/json")
						w.WriteHeader(http.StatusNotFound)
						_, _ = w.Write([]byte(`{"message":"no such file"}`))
						return
					}
					h.Name = path.Base(name)
					if err := errors.Join(archive.WriteHeader(h), func() error { _, err := io.WriteString(archive, text); return err }(), archive.Close()); err != nil {
						t.Error(err)
					}
					w.Header().Set("X-Docker-Container-Path-Stat", "e30=") // {}
					w.Header().Set("Content-Type", "application/x-tar")
					_, _ = w.Write(b.Bytes())
				}
			}))
			t.Cleanup(srv.Close)
			e, err := Connect(t.Context(), Options{Host: strings.Replace(srv.URL, "http", "tcp", 1)})
			if err != nil {
				t.Fatal(err)
			}
			job := Container{Name: "x", Image: "sha256:1", User: "somebody", Mounts: []Mount{{Source: "/", Target: "/"}}, Binds: []string{"/:/x"}, Network: "slipway", Extras: Extras{VolumesFrom: []string{"y"}}}
			uid, gid, err := e.UserOf(t.Context(), job, spec)
			if uid != c.uid || gid != c.gid || (err == nil) != (c.fails == nil) || err != nil && !errors.Is(err, c.fails) && !strings.Contains(err.Error(), c.fails.Error()) {
				t.Errorf("%d:%d, %v", uid, gid, err)
			}
			if last := calls[len(calls)-1]; last != "DELETE /containers/probe" {
				t.Errorf("it was not removed at the end: %q", calls)
			}
			for _, call := range calls {
				if strings.Contains(call, "start") {
					t.Error("it was started")
				}
			}
		})
	}
}
