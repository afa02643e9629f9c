package guard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
