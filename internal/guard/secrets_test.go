package guard

import (
	"encoding/base64"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/demo"
)

const theSecret = "glpat-0123456789abcdefgh"

func withSecrets(denied bool) func(*Options) {
	return func(o *Options) {
		o.Policy.Secrets = []Secret{{"DEPLOY_TOKEN", theSecret}, {"SHORT", "abc"}, {"FILE", "line one\nline two\n"}}
		o.Policy.DenySecrets = denied
	}
}

// TestSecretsInImages bakes a masked variable into an image in each of the ways that there are: the job's log says where it
// is and what to do, but never the value. Where the operator wants it, it is refused.
func TestSecretsInImages(t *testing.T) {
	t.Parallel()
	registry, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	dir := folder(t,
		"Dockerfile", "FROM "+alpine+"\nARG TOKEN\nRUN echo $TOKEN | wc -c\n",
		"Written", "FROM "+alpine+"\nENV A="+theSecret+"\n",
	)
	for _, c := range []struct {
		name string
		do   func(r *rig) (string, error)
		in   string
	}{
		{"build argument", func(r *rig) (string, error) { return r.try("build", "--build-arg", "TOKEN="+theSecret, dir) }, "--build-arg TOKEN"},
		{"part of one", func(r *rig) (string, error) {
			return r.try("build", "--build-arg", "URL=https://user:"+theSecret+"@example.com", dir)
		}, "--build-arg URL"},
		{"encoded", func(r *rig) (string, error) {
			return r.try("build", "--build-arg", "TOKEN="+base64.StdEncoding.EncodeToString([]byte(theSecret)), dir)
		}, "--build-arg TOKEN"},
		{"label", func(r *rig) (string, error) { return r.try("build", "--label", "x="+theSecret, dir) }, "--label x"},
		{"buildx", func(r *rig) (string, error) {
			return r.buildxIn(dir, "", "build", "--build-arg", "TOKEN="+theSecret, ".")
		}, "--build-arg TOKEN"},
		{"commit", func(r *rig) (string, error) {
			r.docker("run", "--name", "carrier", "-e", "T="+theSecret, alpine, "true")
			return r.try("commit", "carrier", "committed")
		}, "ENV T of the container"},
		{"change of a commit", func(r *rig) (string, error) {
			r.docker("run", "--name", "carrier", alpine, "true")
			return r.try("commit", "--change", "ENV T="+theSecret, "carrier", "committed")
		}, "--change ENV T"},
		{"push", func(r *rig) (string, error) {
			r.docker("build", "-f", filepath.Join(dir, "Written"), "-t", registry.Host+"/group/demo/written", dir)
			r.docker("login", "-u", registry.User, "-p", registry.Password, registry.Host)
			return r.try("push", registry.Host+"/group/demo/written")
		}, "ENV A of the image"},
		{"push of a history", func(r *rig) (string, error) {
			name := registry.Host + "/group/demo/history"
			careless := newRig(t, withRegistry(registry.Host, registry.Host+"/group/demo")) // this job did not look
			for _, job := range []*rig{careless, r} {
				job.docker("login", "-u", registry.User, "-p", registry.Password, registry.Host)
			}
			careless.docker("build", "--build-arg", "TOKEN="+theSecret, "-t", name, dir)
			careless.docker("push", name)
			r.docker("pull", name)
			return r.try("push", name)
		}, "in the history of the image"},
	} {
		for _, denied := range []bool{false, true} {
			r := newRig(t, withSecrets(denied), withRegistry(registry.Host, registry.Host+"/group/demo"))
			out, err := c.do(r)
			told := r.reports.String()
			if denied != (err != nil) {
				t.Errorf("%s, denied %v: %v\n%s", c.name, denied, err, out)
			}
			if !strings.Contains(told, c.in) || !strings.Contains(told, "DEPLOY_TOKEN") || strings.Contains(told, theSecret) {
				t.Errorf("%s: the job is told:\n%s", c.name, told)
			}
			if denied != strings.Contains(told, "[build-secret]") {
				t.Errorf("%s, denied %v: the job is told:\n%s", c.name, denied, told)
			}
			lacks(t, r.audit.String(), theSecret)
		}
	}
}

// TestSecretsElsewhere uses secrets as they should be used, and words that look like them.
func TestSecretsElsewhere(t *testing.T) {
	t.Parallel()
	needOldClient(t)
	r := newRig(t, withSecrets(true))
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nARG WORD\nRUN --mount=type=secret,id=t cat /run/secrets/t | wc -c\n", "t", theSecret)
	if out, err := r.oldDocker(dir, "", "build", "--secret", "id=t,src=t", "--build-arg", "WORD=abc", "--build-arg", "http_proxy=http://user:"+theSecret+"@proxy.invalid", "."); err != nil {
		t.Error(err, out)
	}
	if out, err := r.buildxIn(dir, "", "build", "--secret", "id=t,src=t", "."); err != nil {
		t.Error(err, out)
	}
	r.docker("run", "--rm", "-e", "T="+theSecret, alpine, "true")
	if status, answer := r.do(http.MethodPost, "/images/prune", nil); status != http.StatusOK {
		t.Error(status, answer)
	}
	lacks(t, r.reports.String(), "DEPLOY_TOKEN")
}
