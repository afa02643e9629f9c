package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// lines is a command that prints "line 1" to "line n".
func lines(n int) string { return fmt.Sprintf("seq 1 %d | sed 's/^/line /'", n) }

// numbered fails the test unless the log has "line 1" to "line n", each once and in order.
func numbered(t *testing.T, log string, n int) {
	t.Helper()
	next := 1
	for line := range strings.Lines(log) {
		text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "line ")
		if !ok {
			continue
		}
		if text != strconv.Itoa(next) {
			t.Errorf("the log has line %s where line %d is due", text, next)
			return
		}
		next++
	}
	if next != n+1 {
		t.Errorf("the log ends with line %d of %d", next-1, n)
	}
}

// gitProject makes a project of one commit with that file.
func (r *rig) gitProject(file, text string) coordinator.Project {
	r.t.Helper()
	dir := r.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"add", "."},
		{"-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "one"},
	} {
		if out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
			r.t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	return r.AddProject(coordinator.Project{Path: "group/project", RepoDir: filepath.Join(dir, ".git")})
}

// withGit makes a job one of the project's only commit.
func withGit(p coordinator.Project, s *job.Spec) *job.Spec {
	sha, _ := exec.Command("git", "-C", p.RepoDir, "rev-parse", "main").Output()
	s.JobInfo.ProjectID, s.JobInfo.ProjectFullPath, s.JobInfo.ProjectName = p.ID, p.Path, "project"
	s.GitInfo = job.Git{Ref: "main", SHA: strings.TrimSpace(string(sha)), Refspecs: []string{"+refs/heads/main:refs/remotes/origin/main"}}
	return s
}
