package coordinator

import (
	"cmp"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// Project is where pipelines come from.
type Project struct {
	ID            int64         // 0 = the next free one
	Path          string        // full, as in "group/demo"
	RepoDir       string        // its bare repository; empty = none
	DefaultBranch string        // empty = what the repository's HEAD names, else main; it is the one that is protected
	Variables     job.Variables // the project's CI/CD variables; they win over those of .gitlab-ci.yml
	Timeout       time.Duration // of a job that has none of its own; 0 = DefaultTimeout
	ReadableBy    []string      // paths of other projects whose jobs may read the repository. GitLab: the job token's allowlist

	// Registry is the host:port of the container registry that the jobs may use; empty = none. RegistryUser and
	// RegistryPassword open it; an empty user stands for gitlab-ci-token and the job's own token.
	Registry         string
	RegistryUser     string
	RegistryPassword job.Secret
}

// credentials are what a job logs in to the registry with.
func (p *Project) credentials(token job.Secret) (user string, password job.Secret) {
	if p.RegistryUser == "" {
		return "gitlab-ci-token", token
	}
	return p.RegistryUser, p.RegistryPassword
}

// AddProject makes a project known, or replaces the one with the same path. It returns the project with its ID.
func (c *Coordinator) AddProject(p Project) Project {
	p.Path = strings.Trim(p.Path, "/")
	if abs, err := filepath.Abs(p.RepoDir); err == nil && p.RepoDir != "" {
		p.RepoDir = abs
	}
	p.DefaultBranch = cmp.Or(p.DefaultBranch, headBranch(p.RepoDir), "main")
	p.Timeout = cmp.Or(p.Timeout, DefaultTimeout)
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.projects[p.Path]; known != nil && p.ID == 0 {
		p.ID = known.ID
	}
	if p.ID == 0 {
		p.ID = c.lastProject + 1
	}
	c.lastProject = max(c.lastProject, p.ID)
	c.projects[p.Path] = &p
	return p
}

// headBranch is the branch that a bare repository's HEAD names.
func headBranch(repo string) string {
	if repo == "" {
		return ""
	}
	head, err := os.ReadFile(filepath.Join(repo, "HEAD"))
	if err != nil {
		return ""
	}
	branch, ok := strings.CutPrefix(strings.TrimSpace(string(head)), "ref: refs/heads/")
	if !ok {
		return ""
	}
	return branch
}

func (p *Project) name() string { return path.Base(p.Path) }

func (p *Project) namespace() string {
	if dir := path.Dir(p.Path); dir != "." {
		return dir
	}
	return ""
}

var notSlug = regexp.MustCompile(`[^a-z0-9]`)

// slug is GitLab's form of a name for host names and paths.
func slug(name string) string {
	s := notSlug.ReplaceAllString(strings.ToLower(name), "-")
	return strings.Trim(s[:min(63, len(s))], "-")
}
