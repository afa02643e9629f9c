package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// registry starts a registry with one image, and forgets at the end what the Engine pulled from it.
func (r *rig) registry() (reg *demo.Registry, image string) {
	r.t.Helper()
	reg, err := demo.StartRegistry()
	if err != nil {
		r.t.Fatal(err)
	}
	image = reg.Host + "/group/demo/tool:1"
	r.t.Cleanup(func() {
		if err := r.engine.RemoveImage(context.Background(), image); err != nil {
			r.t.Error(err)
		}
		reg.Close()
	})
	recipe := withEntrypoint(exporting)
	recipe.Labels = map[string]string{"slipway.test": reg.Host}
	if err := reg.Push(r.t.Context(), "group/demo/tool:1", recipe); err != nil {
		r.t.Fatal(err)
	}
	return reg, image
}

// pulls is a job in that image.
func pulls(image string, policies ...string) *job.Spec {
	s := withImage(spec("echo ran"), image)
	s.Image.PullPolicies = policies
	return s
}

func ofProject(s *job.Spec, id int64, path string) *job.Spec {
	s.JobInfo.ProjectID, s.JobInfo.ProjectFullPath = id, path
	return s
}

func authConfig(host, user, password string) string {
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)
}

func TestPullPolicies(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`pull_policy = ["never", "if-not-present", "always"]`))
	reg, image := r.registry()
	withAuth := func(policies ...string) *job.Spec {
		return withVariables(pulls(image, policies...), "DOCKER_AUTH_CONFIG", authConfig(reg.Host, reg.User, reg.Password))
	}
	before := reg.Requests()
	asked := func(t *testing.T, want bool) {
		t.Helper()
		now := reg.Requests()
		if got := now.Manifests > before.Manifests; got != want {
			t.Errorf("the registry was asked: %v, want %v", got, want)
		}
		before = now
	}
	t.Run("never, and it is not there", func(t *testing.T) {
		log := r.in(t).fails(job.ConfigurationError, 0, withAuth("never"))
		wants(t, log, "ERROR: Job failed: image "+image+" is not on this machine, and the pull policy is never", "Hint: pull it on the runner's machine")
		asked(t, false)
	})
	t.Run("a list whose first does not serve", func(t *testing.T) {
		log := r.in(t).must(job.Success, withAuth("never", "if-not-present"))
		wants(t, log, "Using effective pull policy of [never if-not-present] for container "+image,
			"WARNING: image "+image+" is not on this machine, and the pull policy is never; trying pull policy if-not-present",
			"Authenticating with credentials from DOCKER_AUTH_CONFIG\n", "Pulling docker image "+image+" ...\n",
			"Using docker image sha256:", " for "+image+" with digest "+reg.Host+"/group/demo/tool@sha256:", "\nran\n")
		asked(t, true)
	})
	for _, policy := range []string{"never", "if-not-present"} {
		t.Run(policy+", and it is there", func(t *testing.T) {
			log := r.in(t).must(job.Success, withAuth(policy))
			wants(t, log, fmt.Sprintf("Using locally found image version due to %q pull policy", policy))
			lacks(t, log, "Pulling", "Authenticating")
			asked(t, true) // whether this job may have it, too: it is private
		})
		t.Run(policy+", and it is there for others", func(t *testing.T) {
			for _, s := range []*job.Spec{
				pulls(image, policy), // of the same project, without credentials
				withVariables(pulls(image, policy), "DOCKER_AUTH_CONFIG", authConfig(reg.Host, reg.User, "wrong")),
				ofProject(pulls(image, policy), 8, "group/other"),
			} {
				log := r.in(t).fails(job.ConfigurationError, 0, s)
				lacks(t, log, "locally found", "\nran\n")
			}
			before = reg.Requests()
		})
	}
	t.Run("always", func(t *testing.T) {
		log := r.in(t).must(job.Success, withAuth("always"))
		wants(t, log, "Pulling docker image "+image+" ...\n")
		lacks(t, log, "locally found")
		asked(t, true)
	})
	t.Run("the runner's list", func(t *testing.T) {
		wants(t, r.in(t).must(job.Success, withAuth()), "Using effective pull policy of [never if-not-present always]", "due to \"never\" pull policy")
	})
	t.Run("not allowed", func(t *testing.T) {
		r := newRig(t, dockerKeys(`pull_policy = ["if-not-present", "always"]
    allowed_pull_policies = ["always"]`))
		log := r.fails(job.ConfigurationError, 0, pulls(alpine, "never", "if-not-present"))
		wants(t, log, "image:pull_policy [never if-not-present] is not allowed on this runner; allowed: [always]")
		lacks(t, log, "\nran\n")
	})
}

func TestPullCredentials(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`pull_policy = "always"`))
	reg, image := r.registry()
	r.AddProject(coordinator.Project{Path: "group/demo", Registry: reg.Host, RegistryUser: reg.User, RegistryPassword: job.Secret(reg.Password)})
	r.AddProject(coordinator.Project{Path: "group/poor"})
	from := func(project string) *job.Spec {
		s := pulls(image)
		s.JobInfo.ProjectID, s.JobInfo.ProjectFullPath = 0, project
		return s
	}
	const misconfigured = "Hint: check the image's name and tag; a private registry needs credentials in DOCKER_AUTH_CONFIG"
	t.Run("of the payload", func(t *testing.T) {
		log := r.in(t).must(job.Success, from("group/demo"))
		wants(t, log, "Authenticating with credentials from job payload (GitLab Registry)\n", "\nran\n")
	})
	t.Run("of the job", func(t *testing.T) {
		s := withVariables(from("group/poor"), "DOCKER_AUTH_CONFIG", authConfig(reg.Host, reg.User, reg.Password))
		wants(t, r.in(t).must(job.Success, s), "Authenticating with credentials from DOCKER_AUTH_CONFIG\n", "\nran\n")
	})
	t.Run("of the job, in a file variable", func(t *testing.T) {
		s := from("group/poor")
		s.Variables = job.Variables{{Key: "DOCKER_AUTH_CONFIG", Value: authConfig(reg.Host, reg.User, reg.Password), File: true}}
		wants(t, r.in(t).must(job.Success, s), "Authenticating with credentials from DOCKER_AUTH_CONFIG\n", "\nran\n")
	})
	t.Run("none", func(t *testing.T) {
		log := r.in(t).fails(job.ConfigurationError, 0, from("group/poor"))
		wants(t, log, misconfigured)
		lacks(t, log, "Authenticating", "trying again", "\nran\n")
	})
	t.Run("wrong", func(t *testing.T) {
		s := withVariables(from("group/demo"), "DOCKER_AUTH_CONFIG", authConfig(reg.Host, reg.User, "wrong"))
		log := r.in(t).fails(job.ConfigurationError, 0, s)
		wants(t, log, "Authenticating with credentials from DOCKER_AUTH_CONFIG\n", misconfigured)
		lacks(t, log, "trying again", "\nran\n")
	})
	t.Run("unreadable", func(t *testing.T) {
		log := r.in(t).must(job.Success, withVariables(from("group/demo"), "DOCKER_AUTH_CONFIG", "{oops"))
		wants(t, log, "WARNING: read DOCKER_AUTH_CONFIG: ", "Authenticating with credentials from job payload (GitLab Registry)\n", "\nran\n")
	})
	t.Run("an image that does not exist", func(t *testing.T) {
		s := from("group/demo")
		s.Image.Name = reg.Host + "/group/demo/missing:2"
		j := r.enqueue(s)
		o, log := r.in(t).end(j)
		r.in(t).ended(o, log, job.ConfigurationError, 0)
		wants(t, log, misconfigured)
		lacks(t, log, "trying again", "Running after_script")
	})
	t.Run("for a server that does not know the reason", func(t *testing.T) {
		s := from("group/poor")
		s.Features = job.Features{TraceSections: true, FailureReasons: []job.Reason{job.UnknownFailure}}
		j := r.enqueue(s)
		r.in(t).end(j)
		updates := j.Updates()
		if last := updates[len(updates)-1]; last.Reason != job.ScriptFailure {
			t.Errorf("the reason is %s", last.Reason)
		}
	})
}

// TestRegistryDown: a registry that does not answer is asked again, unless a policy of the list can do without it.
func TestRegistryDown(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`pull_policy = ["always", "if-not-present"]`))
	const nowhere = "127.0.0.1:1/group/demo/tool:1"
	local := strings.Replace(nowhere, "tool", fmt.Sprintf("local-%d", time.Now().UnixNano()), 1)
	if err := load(r.engine, local, demo.Alpine()); err != nil {
		t.Fatal(err)
	}
	defer r.engine.RemoveImage(context.Background(), local)
	down := r.enqueue(pulls(nowhere, "always"))
	known := pulls(nowhere, "always")
	known.Features = job.Features{TraceSections: true, FailureReasons: []job.Reason{job.ExternalDependencyFailure}}
	listed := r.enqueue(known)
	log := r.must(job.Success, pulls(local))
	wants(t, log, "connection refused; trying pull policy if-not-present", "\nran\n")
	lacks(t, log, "trying again")

	o, log := r.end(down)
	r.ended(o, log, job.SystemFailure, 0)
	if n := strings.Count(log, "connection refused; trying again in 3s\n"); n != 2 {
		t.Errorf("%d retries:\n%s", n, log)
	}
	wants(t, log, "ERROR: Job failed", "connection refused", "Hint: the registry does not answer; try again later")
	if o, log := r.end(listed); o.FailureReason != job.ExternalDependencyFailure {
		t.Errorf("job ended as %+v:\n%s", o, log)
	}
}

// TestPullDuringAPrune: an Engine that has its images in containerd ends all running pulls when images are pruned. Those of jobs are made
// again, and slipway itself ends nobody's. Not beside other tests, whose pulls would end.
func TestPullDuringAPrune(t *testing.T) {
	r := newRig(t, dockerKeys(`pull_policy = "always"`))
	// meanwhile is an image at a registry that does something when it is first asked so.
	meanwhile := func(t *testing.T, path string, do func()) (image string) {
		r := r.in(t)
		reg, _ := r.registry()
		once := sync.OnceFunc(do)
		front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
			if p.In.Method == http.MethodGet && strings.Contains(p.In.URL.Path, path) {
				once()
			}
			p.SetURL(&url.URL{Scheme: "http", Host: reg.Host})
			p.Out.Host = p.In.Host
			p.Out.SetBasicAuth(reg.User, reg.Password)
		}})
		t.Cleanup(front.Close)
		image = strings.TrimPrefix(front.URL, "http://") + "/group/demo/tool:1"
		t.Cleanup(func() { _ = r.engine.RemoveImage(context.Background(), image) })
		return image
	}
	for _, path := range []string{"/manifests/", "/blobs/"} {
		t.Run(path, func(t *testing.T) {
			pruned := false
			image := meanwhile(t, path, func() {
				pruned = true
				r.in(t).raw("image", "prune", "--force", "--filter", "label=slipway.test=nothing")
			})
			log := r.in(t).must(job.Success, pulls(image))
			if wants(t, log, "\nran\n"); !pruned {
				t.Error("nothing was pruned meanwhile")
			}
		})
	}
	t.Run("what the demo does", func(t *testing.T) {
		removed := false
		image := meanwhile(t, "/blobs/", func() {
			removed = true
			if err := r.engine.RemoveLabeled(t.Context(), "slipway.test=nothing"); err != nil {
				t.Error(err)
			}
		})
		if err := r.engine.Pull(t.Context(), image, "", docker.Credentials{}); err != nil || !removed {
			t.Errorf("removed meanwhile: %v; %v", removed, err)
		}
	})
}

func TestAllowedImages(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`pull_policy = "never"
    allowed_images = ["slipway.test/made-*:*", "registry.test/**"]`))
	r.must(job.Success, spec("echo the default is always allowed"))
	r.must(job.Success, withImage(spec("true"), r.image(withEntrypoint(exporting))))
	log := r.fails(job.ConfigurationError, 0, withImage(spec("echo never"), dockerClient))
	wants(t, log, "ERROR: Job failed: image "+dockerClient+" is not allowed on this runner; allowed: slipway.test/made-*:*, registry.test/**")
	wants(t, r.fails(job.ConfigurationError, 0, withImage(spec("echo never"), "registry.test/a/b/c:1")), "is not on this machine")
}

func TestBadImageNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := r.fails(job.ConfigurationError, 0, withImage(spec("echo never"), "registry.test/$NOTHING/x:1"))
	wants(t, log, "the image name is not valid", "Hint: correct `image:`; a variable in it may be empty")
	log = r.must(job.Success, withVariables(withImage(spec("echo ran"), "${WHAT}"), "WHAT", alpine))
	wants(t, log, "Using Docker executor with image "+alpine+" ...\n", "\nran\n")
}

// withHelpers gives Slipway a docker configuration in a folder, where programs are found, too.
func withHelpers(dir string) option {
	return func(r *rig) {
		command := r.command
		r.command = func(args ...string) *exec.Cmd {
			cmd := command(args...)
			cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+dir, "PATH="+dir+":"+os.Getenv("PATH"))
			return cmd
		}
	}
}

// TestPullCredentialHelpers: programs that keep credentials are asked for those of an image's registry, and no other.
func TestPullCredentialHelpers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, dockerKeys(`pull_policy = "always"`), withHelpers(dir))
	reg, image := r.registry()
	r.AddProject(coordinator.Project{Path: "group/demo", Registry: reg.Host, RegistryUser: reg.User, RegistryPassword: job.Secret(reg.Password)})
	r.AddProject(coordinator.Project{Path: "group/poor"})
	from := func(project string) *job.Spec {
		s := pulls(image)
		s.JobInfo.ProjectID, s.JobInfo.ProjectFullPath = 0, project
		return s
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	asked := filepath.Join(dir, "asked")
	write("docker-credential-works", fmt.Sprintf(`#!/bin/sh
server=$(cat)
echo "$1 $server" >>%q
case "$1 $server" in
"get %[2]s") echo '{"ServerURL":"%[2]s","Username":"%[3]s","Secret":"%[4]s"}' ;;
list*) echo '{"https://other.example":"x","%[2]s":"%[3]s"}' ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
`, asked, reg.Host, reg.User, reg.Password))
	write("docker-credential-broken", "#!/bin/sh\necho the key is gone >&2; exit 7\n")
	for _, c := range []struct {
		name, config, project, variable string
		wants                           []string
		asked                           string
	}{
		{
			"helper of the registry", `{"credHelpers":{"%s":"works","other.example":"not-installed"}}`, "group/poor", "",
			[]string{"Authenticating with credentials from " + dir + "/config.json\n"},
			"get %s\n",
		},
		{
			"store", `{"auths":{"%s":{}},"credsStore":"works"}`, "group/poor", "",
			[]string{"Authenticating with credentials from " + dir + "/config.json\n"},
			"list \nget %s\n",
		},
		{
			"helper without them", `{"credHelpers":{"%s/group":"works"}}`, "group/demo", "",
			[]string{"Authenticating with credentials from job payload (GitLab Registry)\n"},
			"get %s/group\n",
		},
		{
			"helper that fails", `{"credHelpers":{"%s":"broken"}}`, "group/demo", "",
			[]string{"WARNING: the credentials of " + dir + "/config.json: docker-credential-broken get: exit status 7: the key is gone\n", "from job payload (GitLab Registry)\n"},
			"",
		},
		{
			"helper that is not there", `{"credsStore":"not-installed"}`, "group/demo", "",
			[]string{"docker-credential-not-installed list: ", "executable file not found", "from job payload (GitLab Registry)\n"},
			"",
		},
		{
			"of the job", `{"credHelpers":{"%s":"works"}}`, "group/poor", `{"credHelpers":{"%s":"works"}}`,
			[]string{"Authenticating with credentials from DOCKER_AUTH_CONFIG\n"},
			"get %s\n",
		},
		{
			"of the job, with another registry's", `{"credHelpers":{"other.example":"works"}}`, "group/demo", `{"credHelpers":{"%s":"works"}}`,
			[]string{"docker-credential-works is not asked: ", "from job payload (GitLab Registry)\n"},
			"",
		},
		{
			"of the job alone", `{"credHelpers":{"other.example":"broken"}}`, "group/demo", `{"credHelpers":{"%s":"works"}}`,
			[]string{
				"WARNING: the credentials of DOCKER_AUTH_CONFIG: docker-credential-works is not asked: the runner's own docker configuration does not name it for that registry\n",
				"from job payload (GitLab Registry)\n",
			},
			"",
		},
		{
			"store of the job alone", "{}", "group/demo", `{"credsStore":"works"}`,
			[]string{"docker-credential-works is not asked: the runner's own docker configuration does not name it for that registry\n", "from job payload (GitLab Registry)\n"},
			"",
		},
		{
			"a path", "{}", "group/demo", `{"credHelpers":{"%s":"x/../../../bin/true"}}`,
			[]string{`WARNING: the credentials of DOCKER_AUTH_CONFIG: "x/../../../bin/true" is no name of a credential helper`, "from job payload (GitLab Registry)\n"},
			"",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ofRegistry := strings.NewReplacer("%s", reg.Host)
			write("config.json", ofRegistry.Replace(c.config))
			write("asked", "")
			s := from(c.project)
			if c.variable != "" {
				s = withVariables(s, "DOCKER_AUTH_CONFIG", ofRegistry.Replace(c.variable))
			}
			log := r.in(t).must(job.Success, s)
			wants(t, log, append(c.wants, "\nran\n")...)
			lacks(t, log, reg.Password)
			got, err := os.ReadFile(asked)
			if want := ofRegistry.Replace(c.asked); string(got) != want || err != nil {
				t.Errorf("asked was %q, want %q (%v)", got, want, err)
			}
		})
	}
	lacks(t, r.log.String(), reg.Password)
}
