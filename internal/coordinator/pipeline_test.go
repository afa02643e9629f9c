package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/pipeline"
)

// runGit runs Git without the machine's settings and returns its output.
func runGit(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(gitEnv(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func mustGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := runGit(t, dir, args...)
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return out
}

// newRepo makes a bare repository whose branch main has two commits, the last with that .gitlab-ci.yml, and a tag v1.
func newRepo(t *testing.T, config string) (dir, sha string) {
	t.Helper()
	work := t.TempDir()
	mustGit(t, work, "init", "--quiet", "--initial-branch=main")
	mustGit(t, work, "commit", "--quiet", "--allow-empty", "-m", "first")
	if err := os.WriteFile(filepath.Join(work, configFile), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	mustGit(t, work, "add", ".")
	mustGit(t, work, "commit", "--quiet", "-m", "second")
	mustGit(t, work, "tag", "-a", "-m", "a tag", "v1")
	dir = filepath.Join(t.TempDir(), "repo.git")
	mustGit(t, work, "clone", "--quiet", "--bare", work, dir)
	return dir, mustGit(t, work, "rev-parse", "HEAD")
}

func newProject(t *testing.T, config string, opts Options) (*Coordinator, agent, string) {
	t.Helper()
	c, a := newAgent(t, opts)
	repo, sha := newRepo(t, config)
	c.AddProject(Project{Path: "Group/demo", RepoDir: repo, Registry: "registry:5000"})
	return c, a, sha
}

func start(t *testing.T, c *Coordinator, ref string) []*Job {
	t.Helper()
	jobs, err := c.StartPipeline(t.Context(), "Group/demo", ref)
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}

const oneJob = "stages: [ one ]\nvariables: { A: a$B, B: b, TAG: linux }\n" +
	"j: { stage: one, script: x, tags: [ docker, $TAG ], timeout: 10m, variables: { GIT_DEPTH: 5, RAW: { value: $B, expand: false } } }\n"

func TestStartPipeline(t *testing.T) {
	t.Parallel()
	c, a, sha := newProject(t, oneJob, Options{})
	j := start(t, c, "main")[0]
	s := a.request()
	if s == nil || s.ID != j.ID() || j.Stage() != "one" || j.Name() != "j" {
		t.Fatalf("got %+v", s)
	}
	wantGit := job.Git{
		RepoURL:          strings.Replace(a.url, "://", "://gitlab-ci-token:"+s.Token.Reveal()+"@", 1) + "/Group/demo.git",
		RepoObjectFormat: "sha1", Ref: "main", SHA: sha, BeforeSHA: strings.Repeat("0", 40), RefType: "branch", Depth: 5,
		Refspecs:  []string{"+refs/pipelines/1:refs/pipelines/1", "+refs/heads/main:refs/remotes/origin/main"},
		Protected: new(true),
	}
	if d := cmp.Diff(wantGit, s.GitInfo); d != "" {
		t.Error(d)
	}
	if s.RunnerInfo.Timeout != 600 || s.Steps[0].Timeout != 600 || !s.AllowGitFetch {
		t.Errorf("timeout %d %+v", s.RunnerInfo.Timeout, s.Steps)
	}
	for key, want := range map[string]string{
		"A": "ab", "B": "b", "RAW": "$B", "CI_COMMIT_BRANCH": "main", "CI_COMMIT_SHORT_SHA": sha[:8],
		"CI_REGISTRY_IMAGE": "registry:5000/group/demo", "CI_PROJECT_PATH_SLUG": "group-demo", "CI_JOB_NAME": "j",
		"CI_SERVER_URL": a.url, "CI_RUNNER_TAGS": `["docker", "linux"]`, "CI_REGISTRY_USER": "gitlab-ci-token",
	} {
		if got := s.Variables.Get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if v, _ := s.Variables.Lookup("CI_REGISTRY_PASSWORD"); v.Value != s.Token.Reveal() || !v.Masked || v.Public {
		t.Errorf("CI_REGISTRY_PASSWORD: %+v", v)
	}

	start(t, c, "v1")
	s = a.request()
	if s.GitInfo.SHA != sha || s.GitInfo.RefType != "tag" || s.Variables.Get("CI_COMMIT_TAG") != "v1" || s.GitInfo.IsProtected() {
		t.Errorf("tag: %+v", s.GitInfo)
	}
	if d := cmp.Diff([]string{"+refs/pipelines/2:refs/pipelines/2", "+refs/tags/v1:refs/tags/v1"}, s.GitInfo.Refspecs); d != "" {
		t.Error(d)
	}
}

func TestRefspecsOfFullClone(t *testing.T) {
	t.Parallel()
	want := []string{
		"+refs/pipelines/7:refs/pipelines/7", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*",
	}
	if d := cmp.Diff(want, refspecs(7, commit{ref: "v1", refType: "tag"}, 0)); d != "" {
		t.Error(d)
	}
}

func TestStartPipelineErrors(t *testing.T) {
	t.Parallel()
	c, _, _ := newProject(t, "j: { script: x, needs: [] }\n", Options{})
	c.AddProject(Project{Path: "no/repo"})
	for _, tt := range []struct{ project, ref, want string }{
		{"no/such", "main", `start pipeline: there is no project "no/such"`},
		{"no/repo", "main", "start pipeline of no/repo: the project has no repository"},
		{"Group/demo", "no-such", `start pipeline of Group/demo: there is no branch or tag "no-such"`},
		{"Group/demo", "ma*", `start pipeline of Group/demo: "ma*" is not the name of a branch or tag`},
		{"Group/demo", "--all", `start pipeline of Group/demo: there is no branch or tag "--all"`},
		{"Group/demo", "main", ".gitlab-ci.yml:1:17: job j: needs is not supported yet"},
	} {
		_, err := c.StartPipeline(t.Context(), tt.project, tt.ref)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s %s: %v, want %s", tt.project, tt.ref, err, tt.want)
		}
	}
	_, err := c.StartPipeline(t.Context(), "Group/demo", "main")
	if e := (*pipeline.Error)(nil); !errors.As(err, &e) || e.Line != 1 {
		t.Errorf("no *pipeline.Error in %v", err)
	}
}

// TestStages plays pipelines whose jobs fail or are canceled and compares how all jobs end.
func TestStages(t *testing.T) {
	t.Parallel()
	const config = `
stages: [ a, b, c ]
a1: { stage: a, script: x }
a2: { stage: a, script: x, allow_failure: true }
b1: { stage: b, script: x }
b-failed: { stage: b, script: x, when: on_failure }
c1: { stage: c, script: x }
c-always: { stage: c, script: x, when: always }
p: { stage: .post, script: x }
z: { stage: .pre, script: x, when: on_failure }
`
	tests := []struct {
		name string
		ends map[string]job.State // others succeed
		want string
	}{
		{"all well", nil, "z=skipped a1=success a2=success b1=success b-failed=skipped c1=success c-always=success p=success"},
		{
			"failure",
			map[string]job.State{"a1": job.Failed},
			"z=skipped a1=failed a2=success b1=skipped b-failed=success c1=skipped c-always=success p=skipped",
		},
		{
			"allowed failure",
			map[string]job.State{"a2": job.Failed},
			"z=skipped a1=success a2=failed b1=success b-failed=skipped c1=success c-always=success p=success",
		},
		{
			"canceled",
			map[string]job.State{"a1": Canceled},
			"z=skipped a1=canceled a2=success b1=skipped b-failed=skipped c1=skipped c-always=skipped p=skipped",
		},
		{
			"late failure",
			map[string]job.State{"c1": job.Failed},
			"z=skipped a1=success a2=success b1=success b-failed=skipped c1=failed c-always=success p=skipped",
		},
		{
			"canceled before its stage",
			map[string]job.State{"b1": Skipped},
			"z=skipped a1=success a2=success b1=canceled b-failed=skipped c1=skipped c-always=skipped p=skipped",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, a, _ := newProject(t, config, Options{})
			jobs := start(t, c, "main")
			byName := map[string]*Job{}
			for _, j := range jobs {
				byName[j.Name()] = j
				if tt.ends[j.Name()] == Skipped {
					j.Cancel(true)
				}
			}
			var stage string
			for s := a.request(); s != nil; s = a.request() {
				if s.JobInfo.Stage != stage {
					stage = s.JobInfo.Stage
					for _, j := range jobs {
						if j.Stage() > stage && j.Stage()[0] != '.' && j.State() == Pending {
							t.Errorf("%s waits for a runner while stage %s runs", j.Name(), stage)
						}
					}
				}
				switch end := tt.ends[s.JobInfo.Name]; end {
				case Canceled:
					byName[s.JobInfo.Name].Cancel(false)
				case job.Failed:
					a.update(s, job.Failed, "", nil)
				default:
					a.update(s, job.Success, "", nil)
				}
			}
			var got []string
			for _, j := range jobs {
				o, err := j.Wait(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%s=%s", j.Name(), o.State))
			}
			if d := cmp.Diff(tt.want, strings.Join(got, " ")); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestGit(t *testing.T) {
	t.Parallel()
	c, a, sha := newProject(t, oneJob, Options{})
	other, _ := newRepo(t, oneJob)
	c.AddProject(Project{Path: "other", RepoDir: other})
	start(t, c, "main")
	s := a.request()

	// What a runner does: fetch the pipeline's ref, shallow, with protocol 2, into an empty repository.
	dir := t.TempDir()
	mustGit(t, dir, "init", "--quiet")
	fetch := append([]string{"-c", "protocol.version=2", "fetch", "--quiet", "--depth=1", s.GitInfo.RepoURL}, s.GitInfo.Refspecs...)
	mustGit(t, dir, fetch...)
	if got := mustGit(t, dir, "rev-parse", "refs/pipelines/1", "refs/remotes/origin/main"); got != sha+"\n"+sha {
		t.Errorf("fetched %s, want %s", got, sha)
	}
	if got := mustGit(t, dir, "rev-list", "--count", sha); got != "1" {
		t.Errorf("%s commits, want 1", got)
	}
	mustGit(t, dir, "fetch", "--quiet", "--unshallow", s.GitInfo.RepoURL)

	refused := func(what, want string, args ...string) {
		t.Helper()
		out, err := runGit(t, dir, args...)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, want %q in\n%s", what, err, want, out)
		}
	}
	refused("push", "403", "push", s.GitInfo.RepoURL, sha+":refs/heads/evil")
	refused("another project", "403", "ls-remote", strings.Replace(s.GitInfo.RepoURL, "Group/demo", "other", 1))
	refused("no such project", "not found", "ls-remote", strings.Replace(s.GitInfo.RepoURL, "Group/demo", "none", 1))
	refused("wrong token", "Authentication failed", "ls-remote", strings.Replace(s.GitInfo.RepoURL, "glcbt-", "glcbt-x", 1))
	refused("no token", "could not read Username", "ls-remote", a.url+"/Group/demo.git")

	a.update(s, job.Success, "", nil)
	refused("after the job's end", "Authentication failed", "ls-remote", s.GitInfo.RepoURL)

	req, want := readWire(t, "git-401-01")
	got := req.send(t, a.url, "group/demo", "Group/demo")
	if got.first != want.first || got.header.Get("WWW-Authenticate") != `Basic realm="GitLab"` {
		t.Errorf("without credentials: %s %v", got.first, got.header)
	}
}

// TestGitChunked: Git sends long negotiations in chunks, which CGI alone cannot take.
func TestGitChunked(t *testing.T) {
	t.Parallel()
	c, a, sha := newProject(t, oneJob, Options{})
	start(t, c, "main")
	s := a.request()
	body := "0032want " + sha + "\n00000009done\n"
	url := strings.TrimSuffix(s.GitInfo.RepoURL, "/") + "/git-upload-pack"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, struct{ *strings.Reader }{strings.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = -1
	req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	got := do(t, req)
	if got.first != "HTTP/1.1 200" || !bytes.Contains(got.body, []byte("PACK")) {
		t.Errorf("%s %.100q", got.first, got.body)
	}
}

func TestExpandAll(t *testing.T) {
	t.Parallel()
	v := func(key, value string) job.Variable { return job.Variable{Key: key, Value: value} }
	tests := []struct {
		name     string
		in, want job.Variables
	}{
		{
			"values in values, in the order of need",
			job.Variables{v("A", "1$B"), v("B", "2${C}"), v("C", "3"), v("D", "%C%")},
			job.Variables{v("C", "3"), v("B", "23"), v("A", "123"), v("D", "3")},
		},
		{
			"what the runner is to see itself",
			job.Variables{v("A", "$NOPE $$B %%B $1 100%"), v("B", "b")},
			job.Variables{v("A", "$NOPE $$B %%B $1 100%"), v("B", "b")},
		},
		{
			"raw and file variables stay references",
			job.Variables{v("A", "$RAW $FILE"), {Key: "RAW", Value: "$B", Raw: true}, {Key: "FILE", Value: "x$B", File: true}, v("B", "b")},
			job.Variables{{Key: "RAW", Value: "$B", Raw: true}, v("B", "b"), {Key: "FILE", Value: "xb", File: true}, v("A", "$RAW $FILE")},
		},
		{
			"circle: nothing is expanded",
			job.Variables{v("A", "$B"), v("B", "$A"), v("C", "$D"), v("D", "d")},
			job.Variables{v("A", "$B"), v("B", "$A"), v("C", "$D"), v("D", "d")},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := slices.Clone(tt.in)
			if d := cmp.Diff(tt.want, expandAll(tt.in)); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(in, tt.in); d != "" {
				t.Errorf("the argument was changed: %s", d)
			}
		})
	}
}

func TestSlug(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"main": "main", "Feature/Ünï_x": "feature--n--x", "-a-": "a", strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62),
	} {
		if got := slug(in); got != want {
			t.Errorf("slug(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestHandMade: a job of no known project runs without a repository, its variables go out as they are.
func TestHandMade(t *testing.T) {
	t.Parallel()
	c, a := newAgent(t, Options{})
	j := c.Enqueue(&job.Spec{ID: 500, Variables: job.Variables{{Key: "A", Value: "$CI"}}}, "docker")
	s := a.request()
	if s == nil || s.ID != 500 || s.Token != j.Token() || s.JobInfo.ProjectFullPath != "local/project" || s.RunnerInfo.Timeout != 3600 {
		t.Fatalf("got %+v", s)
	}
	for key, want := range map[string]string{"A": "$CI", "GIT_STRATEGY": "none", "CI_JOB_ID": "500", "CI_COMMIT_SHA": ""} {
		if got := s.Variables.Get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if next := c.Enqueue(&job.Spec{ID: 500}); next.ID() != 501 {
		t.Errorf("the next job has the number %d", next.ID())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Follow(ctx, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("follow: %v", err)
	}
}
