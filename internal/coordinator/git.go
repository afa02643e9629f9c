package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// gitEnv keeps the machine's and the user's Git settings away from the projects' repositories, whoever owns those.
func gitEnv() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_COUNT=4",
		"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		"GIT_CONFIG_KEY_1=core.hooksPath", "GIT_CONFIG_VALUE_1=" + os.DevNull,
		// GitLab: both are on.
		"GIT_CONFIG_KEY_2=uploadpack.allowFilter", "GIT_CONFIG_VALUE_2=true",
		"GIT_CONFIG_KEY_3=uploadpack.allowAnySHA1InWant", "GIT_CONFIG_VALUE_3=true",
	}
}

// git runs a Git command on a bare repository and returns what it prints.
func git(ctx context.Context, repo string, args ...string) ([]byte, error) {
	if repo == "" {
		return nil, errors.New("the project has no repository")
	}
	cmd := exec.CommandContext(ctx, "git", append([]string{"--git-dir", repo}, args...)...)
	cmd.Env = gitEnv()
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("git %s: %s", args[0], bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("git %s: %w", args[0], err)
	}
	return out, nil
}

// commit is what a branch or tag stands for.
type commit struct {
	ref, refType, sha string
}

// resolve finds a branch, else a tag.
func resolve(ctx context.Context, repo, ref string) (commit, error) {
	if strings.ContainsAny(ref, "*?[\\") {
		return commit{}, fmt.Errorf("%q is not the name of a branch or tag", ref)
	}
	kinds := []struct{ refType, prefix string }{{"branch", "refs/heads/"}, {"tag", "refs/tags/"}}
	for _, kind := range kinds {
		name := strings.TrimPrefix(ref, kind.prefix)
		// An annotated tag prints its own object and then the one that it points to.
		out, err := git(ctx, repo, "for-each-ref", "--format=%(refname) %(objectname) %(*objectname)", kind.prefix+name)
		if err != nil {
			return commit{}, err
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == kind.prefix+name {
				return commit{ref: name, refType: kind.refType, sha: f[len(f)-1]}, nil
			}
		}
	}
	return commit{}, fmt.Errorf("there is no branch or tag %q", ref)
}

var gitPath = regexp.MustCompile(`^/(.+)\.git(/info/refs|/git-upload-pack)$`)

// maxNegotiation limits what a client sends to say which objects it has, in bytes.
const maxNegotiation = 16 << 20

// git serves the projects' repositories, for reading, to jobs that run.
func (c *Coordinator) git(x *exchange) reply {
	m := gitPath.FindStringSubmatch(x.r.URL.Path)
	if m == nil {
		return message(http.StatusNotFound, "")
	}
	projectPath, service := m[1], m[2]
	user, password, ok := x.r.BasicAuth()
	if !ok || user != "gitlab-ci-token" {
		return unauthorized()
	}
	c.mu.Lock()
	j := c.jobByToken(password)
	project := c.projects[projectPath]
	c.mu.Unlock()
	switch {
	case j == nil:
		return unauthorized()
	case project == nil || project.RepoDir == "":
		return text(http.StatusNotFound, "The project you were looking for could not be found.\n")
	case j.project == nil || j.project.Path != project.Path && !slices.Contains(project.ReadableBy, j.project.Path):
		return text(http.StatusForbidden, "The job's token is for another project.\n")
	case service == "/info/refs" && (x.r.Method != http.MethodGet || x.r.URL.Query().Get("service") != "git-upload-pack"),
		service == "/git-upload-pack" && x.r.Method != http.MethodPost:
		return text(http.StatusForbidden, "This server's repositories can only be read.\n")
	}
	return c.httpBackend(x, project, service)
}

func unauthorized() reply {
	return text(http.StatusUnauthorized, "HTTP Basic: Access denied\n").
		with(map[string]string{"WWW-Authenticate": `Basic realm="GitLab"`})
}

// jobByToken finds the job that a runner has and whose token it is.
func (c *Coordinator) jobByToken(token string) *Job {
	for _, j := range c.jobs {
		if j.active() && sameToken(j.spec.Token, token) {
			return j
		}
	}
	return nil
}

// httpBackend lets Git itself answer.
func (c *Coordinator) httpBackend(x *exchange, p *Project, service string) reply {
	gitPath, err := exec.LookPath("git")
	if err != nil {
		return text(http.StatusInternalServerError, err.Error())
	}
	r := x.r.Clone(x.r.Context())
	r.Header.Del("Authorization") // it would be in Git's environment
	if len(r.TransferEncoding) > 0 {
		// CGI needs to know the length. Git sends in chunks when it has more than 1 MiB to say.
		body, err := io.ReadAll(http.MaxBytesReader(x.w, r.Body, maxNegotiation))
		if err != nil {
			return message(http.StatusRequestEntityTooLarge, "")
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	}
	var stderr bytes.Buffer
	backend := &cgi.Handler{
		Path: gitPath, Args: []string{"http-backend"}, Root: strings.TrimSuffix(r.URL.Path, service),
		Dir:    p.RepoDir,
		Env:    append(gitEnv(), "GIT_PROJECT_ROOT="+p.RepoDir, "GIT_HTTP_EXPORT_ALL=1"),
		Stderr: &stderr,
		Logger: slog.NewLogLogger(c.opts.Log.Handler(), slog.LevelDebug),
	}
	backend.ServeHTTP(x.w, r)
	if stderr.Len() > 0 {
		c.opts.Log.Debug("git http-backend", "stderr", stderr.String())
	}
	return reply{}
}
