package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// gitRecipe is busybox with this machine's Git, run as that user.
func gitRecipe(user string) demo.Recipe {
	recipe := demo.Alpine()
	recipe.Programs = map[string]string{"/usr/bin/git": "git"}
	recipe.User = user
	core, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return recipe // whoever needs Git will tell
	}
	dir := strings.TrimSpace(string(core))
	for _, name := range []string{"git-remote-http", "git-remote-https"} {
		recipe.Programs[filepath.Join(dir, name)] = filepath.Join(dir, name)
	}
	return recipe
}

// hostNetwork lets jobs reach the rig's GitLab, which is on the machine's loopback.
func hostNetwork(r *rig) { dockerKeys(`network_mode = "host"`)(r) }

// repository is a project of the rig's GitLab with a repository that the test commits to.
type repository struct {
	coordinator.Project
	t         *testing.T
	work      string
	pipelines atomic.Int64
}

// sample is a small tree with all kinds of entries.
var sample = map[string]string{
	"README": "hello\n", "dir/file": "one\n", "dir/deep/run": "#!/bin/sh\necho run\n", "link": "-> dir/file",
	".gitignore": "*.o\nnode_modules/\n",
}

// repository makes a project with one commit of these files on main.
func (r *rig) repository(path string, files map[string]string) *repository {
	r.t.Helper()
	dir := r.t.TempDir()
	p := &repository{t: r.t, work: filepath.Join(dir, "work")}
	bare := filepath.Join(dir, "bare.git")
	p.git("/", "init", "-q", "--bare", "-b", "main", bare)
	p.git("/", "init", "-q", "-b", "main", p.work)
	p.Project = r.AddProject(coordinator.Project{Path: path, RepoDir: bare})
	p.commit("main", files)
	return p
}

// commit changes files on a branch, which is made of the latest commit if it is not there, and returns the commit.
// Contents that begin with "#!" are of a program, with "-> " of a symbolic link; an empty one removes the file.
func (p *repository) commit(branch string, files map[string]string) string {
	p.t.Helper()
	if exec.Command("git", "-C", p.work, "rev-parse", "-q", "--verify", "refs/heads/"+branch).Run() == nil {
		p.git(p.work, "checkout", "-q", branch)
	} else if p.git(p.work, "branch", "--show-current") != branch {
		p.git(p.work, "checkout", "-q", "-b", branch)
	}
	for name, text := range files {
		path := filepath.Join(p.work, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.RemoveAll(path))
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = errors.Join(err, os.Symlink(target, path))
		} else if text != "" {
			mode := fs.FileMode(0o644)
			if strings.HasPrefix(text, "#!") {
				mode = 0o755
			}
			err = errors.Join(err, os.WriteFile(path, []byte(text), mode))
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	p.git(p.work, "add", "--all")
	p.git(p.work, "commit", "-q", "--allow-empty", "-m", "on "+branch)
	p.git(p.work, "push", "-q", "--force", p.RepoDir, branch)
	return p.git(p.work, "rev-parse", "HEAD")
}

// tag gives the latest commit a name.
func (p *repository) tag(name string) {
	p.t.Helper()
	p.git(p.work, "tag", "-a", "-m", name, name)
	p.git(p.work, "push", "-q", p.RepoDir, name)
}

func (p *repository) git(dir string, args ...string) string {
	p.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// spec is a job on a branch, or on a tag if the ref begins with "tags/", as a new pipeline has it.
func (p *repository) spec(ref string, script ...string) *job.Spec {
	p.t.Helper()
	s := spec(script...)
	s.AllowGitFetch = true
	s.Image.Name = gitImage
	s.JobInfo.ProjectID, s.JobInfo.ProjectFullPath, s.JobInfo.ProjectName = p.ID, p.Path, "demo"
	pipeline := fmt.Sprintf("refs/pipelines/%d", 1000+p.pipelines.Add(1))
	name, isTag := strings.CutPrefix(ref, "tags/")
	s.GitInfo = job.Git{Ref: name, RefType: "branch", Depth: 20, Refspecs: []string{"+" + pipeline + ":" + pipeline}}
	if isTag {
		s.GitInfo.RefType = "tag"
		s.GitInfo.Refspecs = append(s.GitInfo.Refspecs, "+refs/tags/"+name+":refs/tags/"+name)
	} else {
		s.GitInfo.Refspecs = append(s.GitInfo.Refspecs, "+refs/heads/"+name+":refs/remotes/origin/"+name)
	}
	s.GitInfo.SHA = p.git(p.RepoDir, "rev-parse", name+"^{commit}")
	p.git(p.RepoDir, "update-ref", pipeline, s.GitInfo.SHA)
	return s
}

// pipelineRef is what the repository calls the commit of the job's pipeline.
func pipelineRef(s *job.Spec) string {
	return strings.TrimPrefix(strings.Split(s.GitInfo.Refspecs[0], ":")[0], "+")
}

// commitFor makes a commit on main, and s a job of it: one that nobody has fetched yet.
func (p *repository) commitFor(s *job.Spec, files map[string]string) {
	p.t.Helper()
	p.commit("main", files)
	s.GitInfo.SHA = p.git(p.RepoDir, "rev-parse", "main")
	p.git(p.RepoDir, "update-ref", pipelineRef(s), s.GitInfo.SHA)
}

// listing is a command that prints all that is in the workspace: mode, owner, name and content.
const listing = `find . | sort | while IFS= read -r f; do
if test -L "$f"; then of=$(readlink "$f"); elif test -f "$f"; then of=$(sha256sum <"$f"); else of=; fi
echo "| $(stat -c '%f %u:%g %n' "$f") $of"
done`

// listed is what listing printed into a log; with index = false without the job's own index, which holds the times of
// the files.
func listed(log string, index bool) []string {
	var out []string
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "| ") && (index || !strings.Contains(line, " ./.git/index ")) {
			out = append(out, line)
		}
	}
	return out
}

// sameListing compares what two jobs found in their workspace.
func sameListing(t *testing.T, want, got string, index bool) {
	t.Helper()
	if len(listed(want, index)) < 10 {
		t.Fatalf("there is no listing in the log:\n%s", want)
	}
	if diff := cmp.Diff(listed(want, index), listed(got, index)); diff != "" {
		t.Errorf("the workspace differs:\n%s", diff)
	}
}
