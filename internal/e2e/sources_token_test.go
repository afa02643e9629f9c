package e2e

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestTokenStaysInMemory: the job token is in no file of the runner but the record of the running job, in no process's
// arguments, and not in the log. Git in the job works all the same.
func TestTokenStaysInMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t, hostNetwork)
	p := r.repository("group/demo", sample)
	s := p.spec("main",
		"git fetch origin; git ls-remote origin; git remote -v; git remote show origin; git branch -a -vv",
		"git fetch origin +refs/heads/*:refs/remotes/origin/*; git tag x; cat .git/config .git/FETCH_HEAD",
		"git clone -q $CI_SERVER_URL/group/demo.git clone; cat clone/.git/config",
		"echo asleep", "until test -e wake; do sleep 0.1; done",
	)
	s.Token = "glcbt-64_this-is-the-token-of-the-job"

	// Each request to Git is looked at while Git waits for its answer.
	var requests atomic.Int64
	var seen, leaked lockedBuffer
	r.Inject(coordinator.Fault{Endpoint: coordinator.Git, Times: -1, Match: func(*http.Request) bool {
		requests.Add(1)
		for _, line := range commandLines() {
			switch {
			case strings.Contains(line, s.Token.Reveal()):
				leaked.Write([]byte(line + "\n"))
			case strings.Contains(line, r.url+"/group/demo.git"):
				seen.Write([]byte(line + "\n"))
			}
		}
		return false
	}})
	j := r.enqueue(s)
	r.until(j, "\nasleep\n")
	r.lacksFile(t, s.Token)
	if n := requests.Load(); n < 10 || !strings.Contains(seen.String(), "fetch") || !strings.Contains(seen.String(), "remote-http") {
		t.Errorf("%d requests, by these processes:\n%s", n, seen.String())
	}
	if leaked.String() != "" {
		t.Errorf("the token was in a process's arguments:\n%s", leaked.String())
	}
	if err := os.WriteFile(filepath.Join(r.workspace(0), "wake"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	o, log := r.end(j)
	if o.State != job.Success {
		t.Errorf("job ended as %+v:\n%s", o, log)
	}
	lacks(t, string(j.Trace()), s.Token.Reveal())
	lacks(t, r.log.String(), s.Token.Reveal())
	r.lacksFile(t, s.Token)
}

// TestTokenInErrors: what Git says about a URL is shown without the token.
func TestTokenInErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", sample)
	r.Inject(coordinator.Fault{Endpoint: coordinator.Git, Status: http.StatusFound, Times: -1, Header: map[string]string{"Location": "http://127.0.0.1:1/elsewhere"}})
	s := p.spec("main", "true")
	s.Token = "glcbt-64_this-is-the-token-of-the-job"
	o, log := r.run(s)
	if o.State != job.Failed {
		t.Errorf("job ended as %+v:\n%s", o, log)
	}
	lacks(t, log, s.Token.Reveal(), "gitlab-ci-token:")
}

// commandLines are the arguments of all processes of the machine, those in containers too.
func commandLines() []string {
	var out []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range files {
		if text, err := os.ReadFile(name); err == nil { // it may have ended meanwhile
			out = append(out, string(bytes.ReplaceAll(text, []byte{0}, []byte{' '})))
		}
	}
	return out
}

// lacksFile reports files of the state folder that hold the secret, but the records of running jobs.
func (r *rig) lacksFile(t *testing.T, secret job.Secret) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(r.stateDir(), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return unlessGone(err)
		case d.IsDir() && path == filepath.Join(r.stateDir(), "jobs"):
			return fs.SkipDir
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if strings.Contains(target, secret.Reveal()) {
				t.Errorf("%s has the token", path)
			}
			return unlessGone(err)
		case !d.Type().IsRegular():
			return nil
		}
		files++
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(secret.Reveal())) {
			t.Errorf("%s has the token:\n%s", path, content)
		}
		return unlessGone(err)
	})
	if err != nil || files < 10 {
		t.Errorf("looked at %d files: %v", files, err)
	}
}

// unlessGone is an error, but not that a file is gone that was there a moment ago.
func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// workspace is the project folder of a slot on the host; the rig has one project.
func (r *rig) workspace(slot int) string {
	r.t.Helper()
	found, err := filepath.Glob(filepath.Join(r.stateDir(), "sources", "workspaces", "*", "*-"+itoa(int64(slot)), "project"))
	if err != nil || len(found) != 1 {
		r.t.Fatalf("workspaces of slot %d: %v, %v", slot, found, err)
	}
	return found[0]
}
