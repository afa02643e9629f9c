package guard

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/layercache"
)

// TestWhyNotCached builds with each client, changes one thing after the other, and looks whether the job's author is told what
// it was.
func TestWhyNotCached(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(r *rig, dir string, args ...string) string{
		"classic": func(r *rig, dir string, args ...string) string {
			out, err := r.try(append(append([]string{"build"}, args...), dir)...)
			return ended(out, err)
		},
		"session": func(r *rig, dir string, args ...string) string {
			out, err := r.oldDocker(dir, "", append(append([]string{"build"}, args...), ".")...)
			return ended(out, err)
		},
		"buildx": func(r *rig, dir string, args ...string) string {
			out, err := r.buildxIn(dir, "", append(append([]string{"build"}, args...), ".")...)
			return ended(out, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := newRig(t, func(o *Options) { o.History = layercache.NewHistory(t.TempDir()) })
			write := func(name, text string) {
				t.Helper()
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			token := r.policy.Token
			file := strings.Join([]string{
				"FROM " + alpine + " AS made",
				"ARG WHO",
				"COPY src /src",
				"RUN echo " + token + " $WHO > /all && cat /src/* >> /all",
				"FROM " + alpine,
				"ENV A=1",
				"COPY --from=made /all /all",
				"COPY conf other /etc/",
				"RUN true " + token,
			}, "\n") + "\n"
			write("Dockerfile", file)
			for _, name := range []string{"src/a", "src/b", "conf", "other"} {
				write(name, token+name)
			}
			var args []string
			for _, step := range []struct {
				change func()
				want   []string // lines of the job's log, or how they begin and end
			}{
				{nil, []string{"0 of 5 steps cached; it is the first one here"}},
				{nil, []string{"5 of 5 steps cached"}},
				{func() { write("src/a", token+"changed") }, []string{"0 of 5 steps cached; the last one here was ", "line 3, COPY src /src: changed: src/a"}},
				{func() { write("src/c", token+"c") }, []string{"0 of 5", "line 3, COPY src /src: new: src/c"}},
				{func() { os.Remove(filepath.Join(dir, "src/b")) }, []string{"0 of 5", "line 3, COPY src /src: gone: src/b"}},
				{func() { write("conf", token+"changed") }, []string{"3 of 5", "line 8, COPY conf other /etc/: changed: conf"}},
				{func() { write("conf", token+"changed") }, []string{"5 of 5"}}, // only its time is new
				{func() { args = []string{"--build-arg", "WHO=me"} }, []string{"1 of 5", "line 4, RUN echo " + token + " $WHO > /all && cat /src/* >> /all: the build argument WHO has another value"}},
				{func() { file = strings.ReplaceAll(file, "A=1", "A=2"); write("Dockerfile", file) }, []string{"4 of 5", "line 9, RUN true " + token + ": line 6 before it, ENV A=2, is new or has changed"}},
				{func() { file = strings.ReplaceAll(file, "true", "true true"); write("Dockerfile", file) }, []string{"4 of 5", "line 9, RUN true true " + token + ": it is new or has changed"}},
				{func() { file += "RUN false " + token + "\n"; write("Dockerfile", file) }, []string{"5 of 6", "line 10, RUN false " + token + ": it is new or has changed"}},
				{func() { write("conf", token+"again") }, []string{"3 of 6", "line 8, COPY conf other /etc/: changed: conf"}},
				{nil, []string{"5 of 6", "line 10, RUN false " + token + ": it failed the last time"}},
				{func() { args = append(args, "--no-cache") }, []string{"0 of 6"}},
			} {
				if step.change != nil {
					step.change()
				}
				r.reports.take()
				out := build(r, dir, append([]string{"-t", "why"}, args...)...)
				got := strings.Split(strings.TrimSpace(r.reports.take()), "\n")
				if len(got) != len(step.want) {
					t.Errorf("told\n%s\nwant %q\n%s", strings.Join(got, "\n"), step.want, out)
					continue
				}
				for i, want := range step.want {
					begin := "slipway: the build of why:latest: "
					if i > 0 {
						begin = "slipway: not cached: "
					}
					if !strings.HasPrefix(got[i], begin+want) || i > 0 && got[i] != begin+want {
						t.Errorf("told %q, want %q\n%s", got[i], begin+want, out)
					}
				}
			}
		})
	}
}

// ended is what a client printed, with how it ended.
func ended(out string, err error) string {
	if err != nil {
		out += err.Error()
	}
	return out
}

// TestWhyNotCachedIsOneLine: the names of files are a job's, and so is the log; but what it prints there is not to look like
// the runner's.
func TestWhyNotCachedIsOneLine(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.History = layercache.NewHistory(t.TempDir()) })
	evil := "\x1b[31m\r\nJob succeeded\n" + strings.Repeat("y", 100)
	for i := range 2 {
		body := contextOf(t, "Dockerfile", "FROM "+alpine+"\nCOPY . /x\nRUN echo '"+r.policy.Token+"\x1b[31m'\n", evil, strings.Repeat("x", i))
		if status, out := r.do("POST", "/build", body, "Content-Type", "application/x-tar"); status != 200 || !strings.Contains(out, "Successfully built") {
			t.Fatalf("%d %s", status, out)
		}
	}
	lines := strings.Split(strings.TrimSpace(r.reports.take()), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[2], "slipway: not cached: line 2, COPY . /x: changed: ?[31m??Job succeeded?yyy") || len(lines[2]) > 200 {
		t.Errorf("told %q", lines)
	}
}

// TestHistoryIsBounded: neither many names nor long links of a context take the runner's memory or its disk.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, func(o *Options) { o.History = layercache.NewHistory(dir) })
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h *tar.Header, data string) {
		t.Helper()
		if err := errors.Join(w.WriteHeader(h), func() error { _, err := io.WriteString(w, data); return err }()); err != nil {
			t.Fatal(err)
		}
	}
	file := "FROM " + alpine + "\nRUN true " + r.policy.Token + "\n"
	add(&tar.Header{Name: "Dockerfile", Size: int64(len(file)), Mode: 0o644}, file)
	for range 2 {
		for i := range 100 { // the second time with a link, which means nothing for a plain file
			add(&tar.Header{Name: fmt.Sprint("f", i), Mode: 0o644, PAXRecords: map[string]string{"linkpath": strings.Repeat("x", 500_000)}}, "")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if status, out := r.do("POST", "/build", b.Bytes(), "Content-Type", "application/x-tar"); status != 200 || !strings.Contains(out, "Successfully built") {
		t.Fatalf("%d %.500s", status, out)
	}
	if err := r.Close(t.Context()); err != nil { // waits until it is remembered
		t.Error(err)
	}
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d records, %v", len(all), err)
	}
	if info, err := all[0].Info(); err != nil || info.Size() > 10_000 {
		t.Errorf("the record: %v, %v", info, err)
	}
}

// TestMaskedBeforeCut: half of a secret would not be found any more by who masks the log, nor one that another one begins.
func TestMaskedBeforeCut(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("s", 50)
	r := newRig(t, func(o *Options) {
		o.History, o.Masked = layercache.NewHistory(t.TempDir()), []string{"", secret, secret + "-and-more"}
	})
	file := "FROM " + alpine + "\nRUN true " + strings.Repeat("x", 50) + " " + secret + "-and-more " + r.policy.Token + "\n"
	r.docker("build", folder(t, "Dockerfile", file))
	r.docker("build", "--build-arg", "X=1", folder(t, "Dockerfile", strings.Replace(file, "RUN", "ARG X\nRUN", 1)))
	if got := r.reports.String(); !strings.Contains(got, "not cached: line 3, RUN true x") || strings.Contains(got, "sss") || strings.Contains(got, "more") {
		t.Errorf("told\n%s", got)
	}
}

// TestHistoryGoesOn: what goes wrong with one build keeps none after it from being told of.
func TestHistoryGoesOn(t *testing.T) {
	t.Parallel()
	panics := true
	r := newRig(t, func(o *Options) {
		o.History = layercache.NewHistory(t.TempDir())
		o.Saved = func(time.Duration, int64) {
			if panics {
				panics = false
				panic("the first time")
			}
		}
	})
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nRUN true "+r.policy.Token+"\n")
	_, _ = r.try("build", dir)
	if out, err := r.try("build", dir); err != nil || !strings.Contains(r.reports.String(), "1 of 1 steps cached") {
		t.Errorf("%v\n%s\n%s", err, out, r.reports)
	}
}
