package source

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

func TestJobEnv(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		vars       job.Variables
		url, token string
		count      string
		first      int
		helper     string
	}{
		"plain":         {nil, "https://gitlab.example.com/g/p.git", "s3cr3t", "2", 0, "credential.https://gitlab.example.com/.helper"},
		"behind others": {job.Variables{{Key: "GIT_CONFIG_COUNT", Value: "3"}}, "http://h:8080/g/p.git", "a/b@c", "5", 3, "credential.http://h:8080/.helper"},
		"nonsense":      {job.Variables{{Key: "GIT_CONFIG_COUNT", Value: "x"}}, "http://h/p.git", "s3cr3t", "2", 0, "credential.http://h/.helper"},
		"negative":      {job.Variables{{Key: "GIT_CONFIG_COUNT", Value: "-1"}}, "http://h/p.git", "s3cr3t", "2", 0, "credential.http://h/.helper"},
		"no token":      {nil, "http://h/p.git", "", "1", 0, ""},
		"no server":     {nil, "file:///x", "s3cr3t", "1", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := JobEnv(c.vars, c.url, job.Secret(c.token))
			key := func(what string, n int) string { return got.Get("GIT_CONFIG_" + what + "_" + strconv.Itoa(c.first+n)) }
			if got.Get("GIT_CONFIG_COUNT") != c.count || key("KEY", 0) != "safe.directory" || key("KEY", 1) != c.helper || c.helper != "" && got.Get(tokenVariable) != c.token {
				t.Errorf("got %v", got)
			}
			for _, v := range got {
				if v.Public || !v.Raw {
					t.Errorf("%s: public %t, raw %t", v.Key, v.Public, v.Raw)
				}
				if c.token != "" && strings.Contains(v.Value, c.token) != (v.Key == tokenVariable) {
					t.Errorf("the token is in %s", v.Key)
				}
			}
		})
	}
}

// The job's own Git reaches the server as the job, its own settings still count, and nothing is written down.
func TestGitReachesTheServer(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	sha := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"})
	w, _ := checkout(t, store, srv.pipeline(t, 1, sha))
	next := srv.commit(t, "refs/heads/main", sha, map[string]string{"a": "b"})
	vars := job.Variables{{Key: "GIT_CONFIG_COUNT", Value: "1"}, {Key: "GIT_CONFIG_KEY_0", Value: "user.name"}, {Key: "GIT_CONFIG_VALUE_0", Value: "someone"}}
	vars = append(vars, JobEnv(vars, srv.URL+"/group/demo.git", testToken)...)
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_TERMINAL_PROMPT=0", "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + w.ObjectsDir}
	for _, v := range vars.Unique() {
		env = append(env, v.Key+"="+v.Value)
	}
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Env = w.Dir, env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("fetch", "-q", "origin")
	if got := git("rev-parse", "origin/main"); got != next {
		t.Errorf("origin/main is %s, want %s", got, next)
	}
	if got := git("config", "user.name"); got != "someone" {
		t.Errorf("user.name is %q", got)
	}
	for name, text := range snapshot(t, w.Dir) {
		if strings.Contains(text, testToken) {
			t.Errorf("the token is in %s", name)
		}
	}
}

// Nothing of the host's own Git set-up reaches ours.
func TestHostSettings(t *testing.T) {
	home := t.TempDir()
	put(t, home, map[string]string{".gitconfig": "[core]\n\thooksPath = " + home + "\n[alias]\n\tread-tree = !touch x\n[include]\n\tpath = nothing\n", "post-index-change": "#!/bin/sh\ntouch " + home + "/executed\n"})
	if err := os.Chmod(filepath.Join(home, "post-index-change"), 0o755); err != nil {
		t.Fatal(err)
	}
	srv := newGitServer(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"}))
	for k, v := range map[string]string{"HOME": home, "XDG_CONFIG_HOME": home, "GIT_DIR": "/nonexistent", "GIT_INDEX_FILE": home + "/index", "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.hooksPath", "GIT_CONFIG_VALUE_0": home, "GIT_TRACE": home + "/trace", "GIT_EXEC_PATH": home} {
		t.Setenv(k, v)
	}
	checkout(t, newStore(t), r)
	want := []string{".", ".gitconfig", "post-index-change"}
	if diff := cmp.Diff(len(want), len(snapshot(t, home))); diff != "" {
		t.Errorf("Git looked at the host's settings: %v", snapshot(t, home))
	}
}
