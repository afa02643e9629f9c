package executor

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/source"
)

var update = flag.Bool("update", false, "write the golden files anew")

// article is the runner of the article's config.toml.
func article() Settings {
	return Settings{
		Version: "1.2.3", Revision: "abc", UserAgent: "slipway 1.2.3",
		ServerURL: "https://gitlab.example", RunnerID: 5, RunnerName: "Docker Daemon Runner tagged as 'dockerd'", ShortToken: "t0ken_-xy", SystemID: "s_0123456789ab",
		Instance: "0123456789ab", StateDir: "/var/lib/slipway", Network: "slipway",
		Image: "docker:20.10.7", BuildsDir: "/builds", CacheDir: "/cache",
		Volumes:      []string{"/nowhere/docker.sock:/var/run/docker.sock", "/cache", "/builds"},
		EngineSocket: "/nowhere/docker.sock", Socket: "raw",
		FeatureFlag: func(name, value string, set bool) bool {
			if set {
				return value == "true"
			}
			return defaultFlag(name)
		},
		FlagByDefault: defaultFlag,
	}
}

func defaultFlag(name string) bool {
	return name == "FF_TIMESTAMPS" || name == "FF_MASK_ALL_DEFAULT_TOKENS"
}

// payload is the recorded one of GitLab's coordinator.
func payload(t *testing.T) *job.Spec {
	t.Helper()
	b, err := os.ReadFile("testdata/payload.json")
	if err != nil {
		t.Fatal(err)
	}
	var s job.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

func planOf(s Settings, spec *job.Spec) *plan {
	return (&Executor{Settings: s}).plan(Slot{ID: 2, ProjectID: 1}, spec, "random")
}

// TestPlanGolden holds all that is decided about a job.
// TestClonePath: a job may choose where it has its project only if the operator lets it, and only where builds are.
func TestClonePath(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]string{
		"$CI_BUILDS_DIR/go/src/x": "/builds/go/src/x", "/builds": "/builds", "/builds/a/../b/": "/builds/b",
		"/builds/../etc": "", "/buildsx": "", "relative": "", "/builds/a:b": "",
	} {
		spec := payload(t)
		spec.Variables = append(spec.Variables, job.Variable{Key: "GIT_CLONE_PATH", Value: dir})
		p := planOf(article(), spec)
		if want == "" && p.err == nil || want != "" && (p.err != nil || p.dir != want || p.tempDir != want+".tmp" || p.vars.Get("CI_PROJECT_DIR") != want) {
			t.Errorf("%s: %s %v", dir, p.dir, p.err)
		}
		for _, fixed := range []func(*Settings){func(s *Settings) { s.FixedDir = true }, func(s *Settings) { s.Account = &Account{} }} {
			s := article()
			fixed(&s)
			if p := planOf(s, spec); p.err == nil || !strings.Contains(p.err.Error(), "GIT_CLONE_PATH") {
				t.Errorf("%s: %v", dir, p.err)
			}
		}
	}
}

func TestPlanGolden(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Settings, *job.Spec)
	}{
		{"article", func(*Settings, *job.Spec) {}},
		{"shared builds", func(s *Settings, spec *job.Spec) {
			yes := true
			spec.GitInfo.Protected = &yes
			s.Volumes = []string{"/srv/builds:/builds", "/cache", "/root/.m2", "/data:/data:ro", "named:/n"}
			s.CloneURL = "https://git.internal/prefix/"
			s.Container = docker.Container{Network: "host", Limits: docker.Limits{Memory: 1 << 28}, Security: docker.Security{Privileged: true}}
			s.AllowedPrivilegedImages = []string{"other:*"}
			s.ContainerLabels = map[string]string{"team": "$CI_PROJECT_NAMESPACE", "slipway.instance": "forged"}
		}},
		{"all variables", func(_ *Settings, spec *job.Spec) {
			spec.Variables = append(spec.Variables,
				job.Variable{Key: "GIT_STRATEGY", Value: "clone"}, job.Variable{Key: "GIT_CLEAN_FLAGS", Value: "-ffd -e 'a b'"},
				job.Variable{Key: "KUBECONFIG", Value: "secret: $CI_JOB_ID", File: true}, job.Variable{Key: "REF", Value: "${KUBECONFIG} $$x $1"},
				job.Variable{Key: "RAW", Value: "$CI_JOB_ID", Raw: true}, job.Variable{Key: "GIT_CONFIG_COUNT", Value: "1"},
				job.Variable{Key: "GIT_SUBMODULE_STRATEGY", Value: "recursive"}, job.Variable{Key: "GIT_CLONE_PATH", Value: "/builds/x"},
				job.Variable{Key: "RUNNER_SCRIPT_TIMEOUT", Value: "5m"}, job.Variable{Key: "RUNNER_AFTER_SCRIPT_TIMEOUT", Value: "nonsense"})
			spec.Image = job.Image{Name: "reg.example/x:$CI_JOB_ID", Entrypoint: []string{""}, ExecutorOpts: job.ExecutorOpts{Docker: job.DockerOpts{User: "1000", Platform: "linux/arm64"}}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, spec := article(), payload(t)
			c.change(&s, spec)
			p := planOf(s, spec)
			if p.err != nil {
				t.Fatal(p.err)
			}
			stages := map[string]string{}
			for _, st := range p.stages {
				stages[st.name+" within "+st.timeout.String()] = st.text("success")
			}
			var volumes []string
			for _, v := range p.volumes {
				volumes = append(volumes, strings.Join([]string{v.target, v.bind, v.named, v.folder}, " | "))
			}
			p.source.request.Git = job.Git{} // the payload's, unchanged
			got, err := json.MarshalIndent(map[string]any{
				"container": p.container, "policies": p.image.policies, "image": p.image.name, "volumes": volumes, "source": p.source.request,
				"files": p.files, "stages": stages, "warnings": p.warnings, "temp": p.tempDir,
			}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, c.name, append(got, '\n'))
		})
	}
}

// TestPlanRefuses lists what a job may not have, with what its author is told.
// TestAllowLists: what lets in, and what keeps out under all its names.
func TestAllowLists(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		globs   string
		in, out string
	}{
		{"", "anything", ""},
		{"ruby:*", "ruby:3", "ruby x/ruby:3 docker.io/library/ruby:3"},
		{"** !*/kali*", "ruby:3 registry.test/a/b:1", "kalilinux/kali-rolling x/kali:1 docker.io/kalilinux/kali-rolling:latest"},
		{"!*/kali* **", "ruby:3", "x/kali:1"},
		{"!docker:*", "ruby docker-compose:1 registry.test/docker:27", "docker docker:27-dind library/docker docker.io/docker index.docker.io/library/docker:27 docker:27@sha256:" + strings.Repeat("a", 64)},
		{"!docker.io/**", "registry.test/x:1", "ruby x/y:1 docker.io/ruby registry-1.docker.io/library/ruby"},
		{"!docker.io/alpine*", "ruby", "alpine alpine:3 library/alpine"},
		{"!library/alpine*", "ruby", "alpine docker.io/library/alpine:3"},
		{"!registry.test/secret/**", "registry.test/open/x", "registry.test/secret/x:1 Registry.test/secret/x registry.test:443/secret/x"},
		{"!secret:*", "ruby", "c059bfaa849c sha256:" + strings.Repeat("a", 64) + " " + strings.Repeat("a", 64)},
		{"registry.test/** !registry.test/private/**", "registry.test/a:1", "ruby registry.test/private/a:1 REGISTRY/x"},
	} {
		globs := strings.Fields(c.globs)
		for name := range strings.FieldsSeq(c.in) {
			if !allowsImage(globs, name) {
				t.Errorf("%s keeps %s out", c.globs, name)
			}
		}
		for name := range strings.FieldsSeq(c.out) {
			if allowsImage(globs, name) {
				t.Errorf("%s lets %s in", c.globs, name)
			}
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Settings, *job.Spec)
		want   string
	}{
		{"no image", func(s *Settings, spec *job.Spec) { s.Image, spec.Image.Name = "", "" }, "the job names no image"},
		{"bad image", func(_ *Settings, spec *job.Spec) { spec.Image.Name = "A B" }, `the image name is not valid: "A B"`},
		{"not allowed", func(s *Settings, spec *job.Spec) { s.AllowedImages, spec.Image.Name = []string{"ruby:*"}, "x/ruby:3" }, "image x/ruby:3 is not allowed on this runner; allowed: ruby:*"},
		{"user", func(s *Settings, spec *job.Spec) { s.User, spec.Image.ExecutorOpts.Docker.User = "1000", "0" }, `image:docker:user "0" is not allowed`},
		{"policy", func(s *Settings, spec *job.Spec) {
			s.PullPolicies, spec.Image.PullPolicies = []string{"always"}, []string{"never"}
		}, "image:pull_policy [never] is not allowed on this runner; allowed: [always]"},
		{"policy of the operator", func(s *Settings, _ *job.Spec) {
			s.PullPolicies, s.AllowedPullPolicies = []string{"always"}, []string{"never", "if-not-present"}
		}, "the runner's pull_policy [always] is not among its allowed_pull_policies [never if-not-present]"},
		{"service without a name", func(_ *Settings, spec *job.Spec) { spec.Services = servicesOf("") }, "the name of a service's image is not valid"},
		{"service not allowed", func(s *Settings, spec *job.Spec) {
			s.Services.AllowedImages, spec.Services = []string{"postgres:*"}, servicesOf("postgres:16", "redis:7")
		}, "service redis:7 is not allowed on this runner; allowed: postgres:*"},
		{"too many services", func(s *Settings, spec *job.Spec) {
			s.Services.Limit, s.Services.Always, spec.Services = new(int), servicesOf("a"), servicesOf("b")
		}, "the job has 2 services; this runner allows 0"},
		{"policy of a service", func(s *Settings, spec *job.Spec) {
			spec.Services = servicesOf("postgres:16")
			spec.Services[0].PullPolicies = []string{"never"}
		}, "services:pull_policy [never] is not allowed on this runner; allowed: [always]"},
		{"user of a service", func(s *Settings, spec *job.Spec) {
			s.AllowedUsers, spec.Services = []string{"build"}, servicesOf("postgres:16")
			spec.Services[0].ExecutorOpts.Docker.User = "root"
		}, `services:docker:user "root" is not allowed on this runner; allowed: build`},
		{"project", func(s *Settings, _ *job.Spec) { s.AllowedProjects = []string{"group", "group/sub/**", "other/*"} }, "this runner does not run jobs of the project "},
		{"ref", func(s *Settings, spec *job.Spec) {
			no := false
			s.ProtectedOnly, spec.GitInfo.Protected = true, &no
		}, "protected branches and tags only"},
		{"ref of an old GitLab", func(s *Settings, spec *job.Spec) { s.ProtectedOnly, spec.GitInfo.Protected = true, nil }, "protected branches and tags only"},
		{"artifacts", func(_ *Settings, spec *job.Spec) { spec.Artifacts = []job.Artifact{{Format: "rar"}} }, `the format "rar", which this runner does not know`},
		{"path", func(_ *Settings, spec *job.Spec) { spec.JobInfo.ProjectFullPath = "a/../../etc" }, "the server sent an invalid project path"},
		{"volume", func(s *Settings, _ *job.Spec) { s.Volumes = []string{"a:b:c:d"} }, `volume "a:b:c:d" has too many colons`},
		{"relative volume", func(s *Settings, _ *job.Spec) { s.Volumes = []string{"a:b"} }, `volume "a:b" has no absolute path in the container`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, spec := article(), payload(t)
			c.change(&s, spec)
			err := planOf(s, spec).err
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if r := job.ResultOf(err, nil); r.Reason != job.ConfigurationError && c.name != "path" {
				t.Errorf("reason %s", r.Reason)
			}
		})
	}
}

// TestAttempts: how often a stage is tried is between once and ten times.
func TestAttempts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"": 1, "0": 1, "-3": 1, "3": 3, "10": 10, "11": 10, "many": 1} {
		spec := payload(t)
		spec.Variables = append(spec.Variables, job.Variable{Key: "GET_SOURCES_ATTEMPTS", Value: text})
		if got := planOf(article(), spec).attempts("GET_SOURCES_ATTEMPTS"); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// TestVariablesOfTheServer: a job's own variables win over what the runner says of GitLab's certificates.
func TestVariablesOfTheServer(t *testing.T) {
	t.Parallel()
	s, spec := article(), payload(t)
	s.ServerTLS = job.Variables{{Key: "CI_SERVER_TLS_CA_FILE", Value: "runner"}, {Key: "CI_SERVER_TLS_KEY_FILE", Value: "runner"}}
	s.Environment = []string{"CI_SERVER_TLS_KEY_FILE=environment", "CI_SERVER_TLS_CA_FILE=environment"}
	spec.Variables = append(spec.Variables, job.Variable{Key: "CI_SERVER_TLS_CA_FILE", Value: "job"})
	vars := planOf(s, spec).vars
	if ca, key := vars.Get("CI_SERVER_TLS_CA_FILE"), vars.Get("CI_SERVER_TLS_KEY_FILE"); ca != "job" || key != "runner" {
		t.Errorf("CA of the %s, key of the %s", ca, key)
	}
}

// TestBadSwitches: a variable that is neither true nor false is told, and leaves what it switches as it is by default.
func TestBadSwitches(t *testing.T) {
	t.Parallel()
	spec := payload(t)
	spec.Variables = append(spec.Variables, job.Variable{Key: "GIT_STRATEGY", Value: "shallow"})
	if p := planOf(article(), spec); p.source.request.Strategy != source.Fetch || !slices.Contains(p.warnings, `GIT_STRATEGY is "shallow": not clone, fetch, none or empty; using fetch`) {
		t.Errorf("%s, warnings %q", p.source.request.Strategy, p.warnings)
	}
	for value, on := range map[string]bool{"": true, "no": true, "false": false, "0": false, "TRUE": true} {
		s, spec := article(), payload(t)
		spec.Steps = append(spec.Steps, job.Step{Name: "after_script", Script: []string{"false"}})
		for _, name := range []string{"GIT_CHECKOUT", "AFTER_SCRIPT_IGNORE_ERRORS", "FF_TIMESTAMPS"} {
			spec.Variables = append(spec.Variables, job.Variable{Key: name, Value: value})
		}
		p := planOf(s, spec)
		after := p.stages[len(p.stages)-1]
		if p.err != nil || p.source.request.Checkout != on || after.ignoreErrors != on {
			t.Errorf("%q: %v, checkout %t, errors of after_script are ignored %t", value, p.err, p.source.request.Checkout, after.ignoreErrors)
		}
		for _, name := range []string{"GIT_CHECKOUT", "AFTER_SCRIPT_IGNORE_ERRORS", "FF_TIMESTAMPS"} {
			told := slices.Contains(p.warnings, name+` is "no": not true or false; it is ignored`)
			if told != (value == "no") {
				t.Errorf("%s = %q: %q", name, value, p.warnings)
			}
		}
	}
}

// TestPlanTrustsNoVariable: what a pipeline can set decides nothing about whose sources and caches a job gets.
func TestPlanTrustsNoVariable(t *testing.T) {
	t.Parallel()
	honest := planOf(article(), payload(t))
	spec := payload(t)
	for _, key := range []string{"CI_PROJECT_ID", "CI_PROJECT_PATH", "CI_SERVER_URL", "CI_COMMIT_REF_PROTECTED", "CI_REPOSITORY_URL", "CI_COMMIT_SHA"} {
		spec.Variables = append(spec.Variables, job.Variable{Key: key, Value: "forged"})
	}
	forged := planOf(article(), spec)
	if diff := cmp.Diff(honest.source.request, forged.source.request, cmp.AllowUnexported(source.Request{})); diff != "" {
		t.Errorf("the sources differ:\n%s", diff)
	}
	if diff := cmp.Diff(honest.volumes, forged.volumes, cmp.AllowUnexported(volume{})); diff != "" {
		t.Errorf("the volumes differ:\n%s", diff)
	}
	if honest.dir != forged.dir {
		t.Errorf("folder %s, then %s", honest.dir, forged.dir)
	}
}

// TestCorrelation: Gitaly gets the ID of the request that brought the job, if it is one.
func TestCorrelation(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{"": "", "01HX-a_b": "01HX-a_b", "x\r\nAuthorization: y": "", strings.Repeat("x", 200): ""} {
		spec := payload(t)
		spec.RequestID = id
		s := article()
		s.FeatureFlag = func(_, value string, set bool) bool { return !set || value == "true" }
		if got := planOf(s, spec).source.request.CorrelationID; got != want {
			t.Errorf("%q: %q", id, got)
		}
		spec.Variables = append(spec.Variables, job.Variable{Key: "FF_USE_GITALY_CORRELATION_ID", Value: "false"})
		if got := planOf(s, spec).source.request.CorrelationID; got != "" {
			t.Errorf("%q, switched off: %q", id, got)
		}
	}
}

func TestStatusOf(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"success":  nil,
		"failed":   errors.New("x"),
		"canceled": job.ErrCanceling,
		"timedout": &job.Error{Reason: job.TimeoutFailure, Err: errors.New("x")},
	} {
		if got := statusOf(err); got != want {
			t.Errorf("statusOf(%v) = %s, want %s", err, got, want)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".golden.json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("differs from %s (-update writes it anew):\n%s", path, diff)
	}
}

// TestMayRun: whose jobs a runner is for, by what GitLab says of the job, whatever variables say.
func TestMayRun(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for _, c := range []struct {
		projects  []string
		protected bool // only
		path      string
		is        *bool
		want      bool
	}{
		{nil, false, "any/project", nil, true},
		{[]string{"group/**"}, false, "group/demo", nil, true},
		{[]string{"Group/**"}, false, "group/Sub/demo", nil, true},
		{[]string{"group/*"}, false, "group/sub/demo", nil, false},
		{[]string{"group/**"}, false, "groupies/demo", nil, false},
		{[]string{"group/**"}, false, "other/group/demo", nil, false},
		{[]string{"a/b", "c/d"}, false, "c/d", nil, true},
		{[]string{"[", "c/d"}, false, "x/y", nil, false},
		{nil, true, "group/demo", &yes, true},
		{nil, true, "group/demo", &no, false},
		{nil, true, "group/demo", nil, false},
		{[]string{"x/**"}, true, "group/demo", &yes, false},
	} {
		s, spec := article(), payload(t)
		s.AllowedProjects, s.ProtectedOnly = c.projects, c.protected
		spec.JobInfo.ProjectFullPath, spec.GitInfo.Protected = c.path, c.is
		spec.Variables = append(spec.Variables, job.Variable{Key: "CI_PROJECT_PATH", Value: "group/demo"}, job.Variable{Key: "CI_COMMIT_REF_PROTECTED", Value: "true"})
		if err := planOf(s, spec).err; (err == nil) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestPlanOwner: whom the sources belong to, on Engines that map users and on others.
func TestPlanOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	maps := docker.Machine{MapsUsers: true, FirstUser: 100000, FirstGroup: 200000}
	first := &source.Owner{UID: 100000, GID: 200000}
	for name, c := range map[string]struct {
		change        func(*Settings)
		owner         *source.Owner
		image, mapped bool
	}{
		"as it is":   {func(*Settings) {}, nil, true, false},
		"mapped":     {func(s *Settings) { s.Guard.Machine = maps }, first, true, true},
		"the host's": {func(s *Settings) { s.Guard.Machine, s.Container.Security.UsernsMode = maps, "host" }, nil, true, false},
		"withheld": {func(s *Settings) {
			s.Guard.Machine, s.Container.Security.UsernsMode, s.Socket = maps, "host", socketGuarded
		}, first, true, true},
		"nobody knows":    {func(s *Settings) { s.Guard.Machine.MapsUsers = true }, nil, false, false},
		"a shared folder": {func(s *Settings) { s.Guard.Machine, s.Volumes = maps, []string{"/srv/builds:/builds"} }, nil, false, false},
	} {
		s, spec := article(), payload(t)
		s.Guard.Machine = docker.Machine{}
		c.change(&s)
		for _, flag := range []bool{false, true} {
			spec.Variables = append(spec.Variables, job.Variable{Key: "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", Value: strconv.FormatBool(flag)})
			p := planOf(s, spec)
			if diff := cmp.Diff(c.owner, p.source.request.Owner); diff != "" || p.imageUser != (flag && c.image) || p.mapped != c.mapped {
				t.Errorf("%s, %t: image's user %t, mapped %t, owner\n%s", name, flag, p.imageUser, p.mapped, diff)
			}
		}
	}
}
