package executor

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/source"
)

// sourcePlan is where the sources come from, and what Git inside the job needs in its environment.
type sourcePlan struct {
	request source.Request
	git     job.Variables
}

func (sp sourcePlan) environ(vars job.Variables) job.Variables {
	return append(vars.Unique(), sp.git...).Unique()
}

// source plans the checkout. Only the payload decides which project and commit; variables choose the manner.
func (s Settings) source(p *plan) (sourcePlan, error) {
	spec, vars := p.spec, p.vars
	strategy, ok := source.ParseStrategy(vars.Get("GIT_STRATEGY"), spec.AllowGitFetch)
	if !ok {
		p.warnings = append(p.warnings, "GIT_STRATEGY is "+strconv.Quote(vars.Get("GIT_STRATEGY"))+": not clone, fetch, none or empty; using "+string(strategy))
	}
	remote, err := remoteURL(spec.GitInfo.RepoURL, s.CloneURL, spec.JobInfo.ProjectFullPath)
	if err != nil {
		return sourcePlan{}, err
	}
	r := source.Request{
		Server: s.ServerURL, ProjectID: spec.JobInfo.ProjectID, ProjectPath: spec.JobInfo.ProjectFullPath,
		Slot: containerName(s.ShortToken) + "-" + strconv.Itoa(p.slot.ProjectID),
		Git:  spec.GitInfo, Token: spec.Token, RemoteURL: remote,
		Strategy: strategy, Checkout: p.boolean("GIT_CHECKOUT", true),
		CleanFlags: source.Words(vars.Get("GIT_CLEAN_FLAGS")), FetchFlags: source.Words(vars.Get("GIT_FETCH_EXTRA_FLAGS")),
		SkipLFS: p.boolean("GIT_LFS_SKIP_SMUDGE", false), Submodules: submodules(p),
		Objects: objectsDir, Modules: modulesDir, CAFile: s.CAFile, UserAgent: s.UserAgent,
	}
	if s.flag("FF_USE_GITALY_CORRELATION_ID", vars) && correlation.MatchString(spec.RequestID) {
		r.CorrelationID = spec.RequestID
	}
	if s.GitOutside && s.Account == nil {
		if r.GitDir = gitDir; r.Submodules.Strategy != "" && r.Submodules.Strategy != "none" {
			r.GitDir = ""
			p.warnings = append(p.warnings, `git_dir = "outside" has no effect with submodules: their Git directories lie in the project's`)
		}
	}
	if p.layout.hostRoot != "" {
		r.Root, r.Rel = p.layout.hostRoot, path.Join(p.layout.below, spec.JobInfo.ProjectFullPath)
	}
	if a := s.Account; a != nil {
		r.Objects, r.Modules = "", "" // they are the job's own: on the host nothing is mounted
		if a.Other {
			r.Owner = &source.Owner{UID: a.UID, GID: a.GID}
		}
	}
	if s.Account != nil || s.flag("FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", vars) {
		r.Umask = fs.FileMode(0o022)
	}
	return sourcePlan{r, source.JobEnv(vars, remote, spec.Token)}, nil
}

// planOwner decides whom the job's files belong to: where the Engine maps users, root of this machine is nobody in a container. In a
// folder that other containers can change, root gives nothing away.
func (s Settings) planOwner(p *plan) {
	r := &p.source.request
	root, group, known := s.Guard.Machine.OnMachine(p.container.Security.UsernsMode, 0, 0)
	if os.Geteuid() != 0 || r.Root != "" || !known {
		return
	}
	if p.mapped = root != 0; p.mapped {
		r.Owner = &source.Owner{UID: root, GID: group}
	}
	p.imageUser = s.flag("FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", p.vars)
}

// correlation is what an ID of GitLab's looks like, which becomes a header.
var correlation = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// submodules are the job's wishes for its submodules. None of them decides what the job may read.
//
// GitLab: the depth is the project's unless GIT_SUBMODULE_DEPTH says otherwise; CI_SERVER_SHELL_SSH_HOST and _PORT say how the
// server is written in SSH URLs.
func submodules(p *plan) source.Submodules {
	vars := p.vars
	s := source.Submodules{
		Strategy: vars.Get("GIT_SUBMODULE_STRATEGY"), Depth: p.spec.GitInfo.Depth,
		Paths: source.Words(vars.Get("GIT_SUBMODULE_PATHS")), Flags: source.Words(vars.Get("GIT_SUBMODULE_UPDATE_FLAGS")),
		ForceHTTPS: p.boolean("GIT_SUBMODULE_FORCE_HTTPS", false),
	}
	if text := vars.Get("GIT_SUBMODULE_DEPTH"); text != "" {
		depth, err := strconv.Atoi(text)
		if err != nil {
			p.warnings = append(p.warnings, "GIT_SUBMODULE_DEPTH is "+strconv.Quote(text)+": not a number; using "+strconv.Itoa(s.Depth))
		} else {
			s.Depth = depth
		}
	}
	host, port := vars.Get("CI_SERVER_SHELL_SSH_HOST"), vars.Get("CI_SERVER_SHELL_SSH_PORT")
	if host == "" {
		host = vars.Get("CI_SERVER_HOST")
	}
	if s.ForceHTTPS && host != "" {
		s.SSH = []string{"git@" + host + ":", "ssh://git@" + host + "/"}
		if port != "" {
			s.SSH = append(s.SSH, "ssh://git@"+host+":"+port+"/")
		}
	}
	return s
}

// remoteURL is what Git fetches from, without credentials.
//
// GitLab: clone_url replaces everything before the project's path, a path that GitLab itself lives below too.
func remoteURL(repo, cloneURL, projectPath string) (string, error) {
	if repo == "" {
		return "", nil // GIT_STRATEGY none needs none
	}
	u, err := url.Parse(repo)
	if err != nil {
		return "", &job.Error{Reason: job.SystemFailure, Err: errors.New("the server sent an invalid repository address")}
	}
	u.User = nil
	if cloneURL == "" {
		return u.String(), nil
	}
	c, err := url.Parse(cloneURL)
	if err != nil {
		return "", configurationError("correct clone_url in config.toml", "clone_url: %w", err)
	}
	u.Scheme, u.Host = c.Scheme, c.Host
	u.Path, u.RawPath = strings.TrimSuffix(c.Path, "/")+"/"+projectPath+".git", ""
	return u.String(), nil
}
