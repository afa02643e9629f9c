package guard

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/buildlog"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/progress"
	"github.com/slipway-ci/slipway/internal/tartest"
)

// folder makes a build's context of names and contents.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// contextOf makes a tar archive of names and contents.
func contextOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var all []tartest.File
	for i := 0; i < len(files); i += 2 {
		all = append(all, tartest.File{Name: files[i], Content: files[i+1]})
	}
	return []byte(tartest.Of(t, all...))
}

// clients are the docker clients of this machine that build in the classic form.
func clients(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, p := range []string{"/usr/local/bin/docker", "/usr/bin/docker"} {
		if _, err := os.Stat(p); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// buildWith runs one of the clients and returns both outputs and the exit code.
func (r *rig) buildWith(docker, stdin string, args ...string) (string, int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, docker, append([]string{"build"}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+r.Socket(), "DOCKER_BUILDKIT=0", "HOME="+r.t.TempDir())
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// classicFile uses what BuildKit does at once, what it leaves out, and what it does not tell of.
const classicFile = `ARG BASE=%s
FROM $BASE AS build
RUN echo hello && echo built > /out
FROM scratch AS unused
COPY --from=build /out /x
FROM $BASE
ENV A=b
WORKDIR /app
COPY --from=build /out /out
RUN cat /out \
    && cat /proc/sys/kernel/random/uuid > /id
CMD ["x"]
`

func TestClassicBuild(t *testing.T) {
	t.Parallel()
	for _, docker := range clients(t) {
		t.Run(filepath.Dir(docker), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dir := folder(t, "Dockerfile", fmt.Sprintf(classicFile, alpine))
			out, code := r.buildWith(docker, "", "-t", "app", "--iidfile", dir+"/iid", dir)
			if code != 0 {
				t.Fatal(out)
			}
			id := strings.TrimSpace(readFile(t, dir+"/iid"))
			if raw := strings.TrimSpace(r.host("image", "inspect", "--format", "{{.Id}}", id)); raw != id {
				t.Errorf("the ID is %q, the Engine has %q", id, raw)
			}
			base := progress.ShortID(r.imageID(alpine))
			told := fmt.Sprintf(`Step 1/11 : ARG BASE=%[1]s
Step 2/11 : FROM $BASE AS build
 ---> %[2]s
Step 3/11 : RUN echo hello && echo built > /out
 ---> Running
hello
 ---> Done in T
Step 4/11 : FROM scratch AS unused
 ---> Skipped: the target does not need this stage
Step 5/11 : COPY --from=build /out /x
 ---> Skipped: the target does not need this stage
Step 6/11 : FROM $BASE
 ---> %[2]s
Step 7/11 : ENV A=b
 ---> C
Step 8/11 : WORKDIR /app
 ---> C
Step 9/11 : COPY --from=build /out /out
 ---> C
Step 10/11 : RUN cat /out     && cat /proc/sys/kernel/random/uuid > /id
 ---> Running
built
 ---> Done in T
Step 11/11 : CMD ["x"]
 ---> Done
Successfully built %[3]s
Successfully tagged app:latest
`, alpine, base, progress.ShortID(id))
			got := regexp.MustCompile(`Done in [0-9.]+s`).ReplaceAllString(out[strings.Index(out, "Step 1/"):], "Done in T")
			// What only copies files is shared by all scopes, so it may be cached already.
			got = regexp.MustCompile(`((?:ENV A=b|WORKDIR /app|/out /out)\n ---> )(?:Done in T|Done|Using cache)`).ReplaceAllString(got, "${1}C")
			if diff := cmp.Diff(told, got); diff != "" {
				t.Error(diff)
			}
			lacks(t, out, "slipway.local")

			// The second run is cached, as the runner's own reader of logs sees it.
			out, code = r.buildWith(docker, "", "-t", "app", "--iidfile", dir+"/iid2", dir)
			if again := strings.TrimSpace(readFile(t, dir+"/iid2")); code != 0 || again != id {
				t.Errorf("%q is not %q: %d\n%s", again, id, code, out)
			}
			var log buildlog.Parser
			fmt.Fprint(&log, out)
			builds := log.Builds()
			if len(builds) != 1 || builds[0].Cached() != 6 || builds[0].Total() != 6 {
				t.Errorf("%+v\n%s", builds, out)
			}
			wants(t, out, "---> Using cache\n", "Successfully built "+progress.ShortID(id))
			if got := r.docker("run", "--rm", "app", "cat", "/out"); got != "built\n" {
				t.Errorf("%q", got)
			}
		})
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestBuildForms: each way in which clients say what is to be built.
func TestBuildForms(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	from := "FROM " + alpine + "\n"
	dir := folder(t, "Dockerfile", from+"LABEL n=1\n", "other/My.Dockerfile", from+"LABEL n=2\nCOPY Dockerfile /d\n",
		"target/Dockerfile", "FROM "+alpine+" AS a\nARG N=3\nLABEL n=$N\nFROM nothing.invalid/x\nCOPY --from=nobody.invalid/y / /\n")
	outside := folder(t, "Dockerfile", from+"LABEL n=4\n")
	for i, docker := range clients(t) {
		for j, c := range []struct{ stdin, args, want string }{
			{"", dir, "1"},
			{"", "-f " + dir + "/other/My.Dockerfile " + dir, "2"},
			{"", "-f " + outside + "/Dockerfile " + dir, "4"},
			{from + "LABEL n=5\n", "-", "5"},
			{from + "LABEL n=6\n", "-f - " + dir, "6"},
			{string(contextOf(t, "./x/../Dockerfile", from+"LABEL n=7\n")), "-", "7"},
			{"", "--target a " + dir + "/target", "3"},
			{"", "--target a --build-arg N=8 --build-arg BUILDKIT_SYNTAX=evil.invalid/x " + dir + "/target", "8"},
			{"", "--label n=9 --label slipway.guard=x --network none --no-cache --pull=false --memory 100m --ulimit nofile=99:100 --shm-size 1m " + dir, "9"},
		} {
			if len(clients(t)) > 1 && (i+j)%2 != 0 { // each form with one of the clients
				continue
			}
			out, code := r.buildWith(docker, c.stdin, append([]string{"-q"}, strings.Fields(c.args)...)...)
			id := strings.TrimSpace(out[max(strings.LastIndex(out, "sha256:"), 0):])
			if code != 0 || len(id) != 71 {
				t.Errorf("%s build %s: %d\n%s", docker, c.args, code, out)
				continue
			}
			if got := strings.TrimSpace(r.host("image", "inspect", "--format", `{{index .Config.Labels "n"}}{{index .Config.Labels "slipway.guard"}}`, id)); got != c.want {
				t.Errorf("%s build %s: %q, not %q", docker, c.args, got, c.want)
			}
		}
	}
	// What no client of ours sends.
	zipped := func(data []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(data)
		_ = w.Close()
		return b.Bytes()
	}
	for name, c := range map[string]struct {
		target string
		body   []byte
		want   string
	}{
		"bare":             {"/build", []byte(from + "LABEL n=11\n"), "11"},
		"bare and zipped":  {"/build?dockerfile=other", zipped([]byte(from + "LABEL n=12\n")), "12"},
		"zipped":           {"/build", zipped(contextOf(t, "Dockerfile", from+"LABEL n=13\n")), "13"},
		"lower case":       {"/build", contextOf(t, "dockerfile", from+"LABEL n=14\n"), "14"},
		"both":             {"/build", contextOf(t, "dockerfile", "FROM nothing.invalid/x\n", "Dockerfile", from+"LABEL n=15\nCOPY dockerfile /\n"), "15"},
		"BuildKit's form":  {"/v1.41/build?version=2", contextOf(t, "Dockerfile", from+"LABEL n=16\n"), "16"},
		"an odd beginning": {"/build", contextOf(t, "BZh91", "x", "Dockerfile", from+"COPY BZh91 /\nLABEL n=17\n"), "17"},
		"a syntax line":    {"/build", contextOf(t, "Dockerfile", "# syntax=evil.invalid/x\n"+from+"LABEL n=18\n"), "18"},
	} {
		status, text := r.do("POST", c.target, c.body)
		i := strings.Index(text, `"ID":"sha256:`)
		if status != http.StatusOK || i < 0 {
			t.Errorf("%s: %d %s", name, status, text)
			continue
		}
		if got := strings.TrimSpace(r.host("image", "inspect", "--format", `{{index .Config.Labels "n"}}`, text[i+6:i+6+71])); got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
		lacks(t, text, "slipway.local")
	}
	wants(t, r.reports.String(), "evil.invalid/x of a syntax line is not used")
}

// TestBuildForgedLog: what a step prints is not taken for the builder's words.
func TestBuildForgedLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	out, code := r.buildWith("docker", "", folder(t, "Dockerfile", "FROM "+alpine+"\nRUN : "+r.policy.Token+"; echo ' ---> Using cache'; echo 'Step 9/9 : FROM x'; printf half\n"))
	var log buildlog.Parser
	fmt.Fprint(&log, out)
	builds := log.Builds()
	if code != 0 || len(builds) != 1 || builds[0].Cached() != 0 || builds[0].Total() != 1 {
		t.Errorf("%+v\n%s", builds, out)
	}
	wants(t, out, " ---> Running\n ---> Using cache\nStep 9/9 : FROM x\nhalf\n ---> Done in ")
}

// TestBuildFails: what clients show of a build that fails.
func TestBuildFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	from := "FROM " + alpine + "\n"
	for _, docker := range clients(t) {
		for name, c := range map[string]struct {
			file string
			code int
			want []string
		}{
			"a step": {
				from + "RUN : " + docker + "\nRUN echo before " + docker + "\nRUN echo oops && exit 3\nRUN echo never\n", 3,
				[]string{
					"Step 2/5 : RUN : " + docker + "\n", "Step 3/5 : RUN echo before " + docker + "\n ---> Running\nbefore", "Step 4/5 : RUN echo oops && exit 3\n ---> Running\noops\n",
					"The command '/bin/sh -c echo oops && exit 3' returned a non-zero code: 3",
				},
			},
			"a mistake":       {from + "\nFOO x\n", 1, []string{"dockerfile parse error on line 3: unknown instruction: FOO"}},
			"a missing file":  {from + "COPY missing /\n", 1, []string{"missing"}},
			"a here-document": {from + "RUN <<EOF\necho a\nEOF\n", 1, []string{"line 2", "23.0"}},
			"no image":        {"FROM nobody.invalid/x:1\n", 1, []string{"nobody.invalid"}},
			"no stage":        {from + "COPY --from=1 / /\n", 1, []string{"line 2: invalid stage index 1"}},
		} {
			out, code := r.buildWith(docker, "", folder(t, "Dockerfile", c.file))
			if name == "a here-document" && r.heredocs() {
				continue
			}
			if code != c.code {
				t.Errorf("%s, %s: code %d\n%s", docker, name, code, out)
			}
			wants(t, out, c.want...)
			lacks(t, out, "slipway.local", "never\n")
		}
	}
	status, text := r.do("POST", "/build", contextOf(t, "x", "y"))
	if status != http.StatusBadRequest {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "Cannot locate specified Dockerfile: Dockerfile")
}

// TestBuildPrivateBase: the client's credentials reach the registry of a base, and nobody else gets the base by them.
func TestBuildPrivateBase(t *testing.T) {
	t.Parallel()
	reg, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	base := reg.Host + "/group/base:1"
	push := func(who string) {
		recipe := demo.Alpine()
		recipe.Labels = map[string]string{"who": who}
		if err := reg.Push(t.Context(), "group/base:1", recipe); err != nil {
			t.Fatal(err)
		}
	}
	push("first")
	t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", "--force", base) })
	r, other := rigs(t, withRegistry(reg.Host, reg.Host+"/group/app"))
	dir := folder(t, "Dockerfile", "FROM "+base+"\nRUN : "+r.policy.Token+"\n")
	login, err := json.Marshal(map[string]any{"auths": map[string]any{reg.Host: map[string]string{"auth": basic(reg.User, reg.Password)}}})
	if err != nil {
		t.Fatal(err)
	}
	config := folder(t, "config.json", string(login))
	build := func(r *rig, config string, args ...string) (string, error) {
		return run("unix://"+r.Socket(), "", append([]string{"--config", config, "build", "--tag", reg.Host + "/group/app:x"}, append(args, dir)...)...)
	}
	if out, err := build(r, t.TempDir()); err == nil {
		t.Errorf("built without credentials:\n%s", out)
	}
	who := func(r *rig) string {
		return strings.TrimSpace(r.docker("image", "inspect", "--format", "{{.Config.Labels.who}}", reg.Host+"/group/app:x"))
	}
	if out, err := build(r, config); err != nil || who(r) != "first" {
		t.Errorf("%v\n%s", err, out)
	}
	// It is there now, but not for a job of another project without credentials.
	if out, err := build(other, t.TempDir()); err == nil {
		t.Errorf("another project built it:\n%s", out)
	}
	push("second")
	if out, err := build(r, config); err != nil || who(r) != "first" {
		t.Errorf("it was pulled again: %v\n%s", err, out)
	}
	if out, err := build(r, config, "--pull"); err != nil || who(r) != "second" {
		t.Errorf("--pull did not pull: %v\n%s", err, out)
	}
}
