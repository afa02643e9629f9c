package coordinator

import (
	"cmp"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// failureReasons are those that a current GitLab lists in a payload.
var failureReasons = []job.Reason{
	"unknown_failure", "script_failure", "api_failure", "stuck_or_timeout_failure", "runner_system_failure",
	"missing_dependency_failure", "runner_unsupported", "stale_schedule", "job_execution_timeout", "archived_failure",
	"unmet_prerequisites", "scheduler_failure", "data_integrity_failure", "forward_deployment_failure", "user_blocked",
	"image_pull_failure", "runner_configuration_error", "job_token_expired",
}

// complete gives a job its ID and token and fills in what a payload needs and nobody said.
func (c *Coordinator) complete(j *Job) {
	c.adopt(j)
	s := &j.spec
	j.project = cmp.Or(j.project, c.projects[s.JobInfo.ProjectFullPath])
	if j.project != nil {
		s.JobInfo.ProjectID, s.JobInfo.ProjectFullPath = j.project.ID, j.project.Path
	}
	s.JobInfo.ProjectID = cmp.Or(s.JobInfo.ProjectID, 1)
	s.JobInfo.ProjectFullPath = cmp.Or(s.JobInfo.ProjectFullPath, "local/project")
	s.JobInfo.ProjectName = cmp.Or(s.JobInfo.ProjectName, path.Base(s.JobInfo.ProjectFullPath))
	s.JobInfo.Name = cmp.Or(s.JobInfo.Name, "job")
	s.JobInfo.Stage = cmp.Or(s.JobInfo.Stage, "test")
	s.RunnerInfo.Timeout = cmp.Or(s.RunnerInfo.Timeout, int(DefaultTimeout/time.Second))
	if s.Features.FailureReasons == nil && s.Features.TokenMaskPrefixes == nil && !s.Features.TraceSections {
		s.Features = job.Features{
			TraceSections: true, TokenMaskPrefixes: []string{"glpat-", "glptt-"}, FailureReasons: failureReasons,
		}
	}
}

// fillPayload adds what is only known when a runner has asked: its limits and the server's address. It leaves what
// j.spec points to untouched.
func (c *Coordinator) fillPayload(j *Job, r *runner, base string) {
	s, p := &j.spec, j.project
	if limit := int(r.MaximumTimeout / time.Second); limit > 0 && limit < s.RunnerInfo.Timeout {
		s.RunnerInfo.Timeout = limit
	}
	s.Steps = slices.Clone(s.Steps)
	for i, step := range s.Steps {
		if step.Timeout <= 0 || step.Timeout > s.RunnerInfo.Timeout {
			s.Steps[i].Timeout = s.RunnerInfo.Timeout
		}
		s.Steps[i].When = cmp.Or(step.When, "on_success")
	}
	s.JobInfo.TimeInQueue = time.Since(j.times.Queued).Seconds()
	if p != nil && p.Registry != "" && s.Credentials == nil {
		user, password := p.credentials(s.Token)
		s.Credentials = []job.Credential{{Type: "registry", URL: p.Registry, Username: user, Password: password}}
	}
	repo := ""
	if p != nil && p.RepoDir != "" {
		repo = repoURL(base, p.Path, s.Token)
	}
	if s.GitInfo.SHA != "" {
		s.GitInfo = completeGit(s.GitInfo, repo)
	}
	extra := predefined(j, r, base, repo)
	if _, ok := s.Variables.Lookup("GIT_STRATEGY"); !ok && s.GitInfo.RepoURL == "" {
		extra = append(extra, job.Variable{Key: "GIT_STRATEGY", Value: "none", Public: true})
	}
	s.Variables = append(extra, s.Variables...)
	if j.run != nil {
		s.Variables = expandAll(s.Variables.Unique())
	}
	// GitLab: empty lists, not null.
	s.Services, s.Cache = orEmpty(s.Services), orEmpty(s.Cache)
	s.Dependencies, s.Hooks = orEmpty(s.Dependencies), orEmpty(s.Hooks)
}

// completeGit fills in what a hand-made job leaves out about its commit.
func completeGit(g job.Git, repo string) job.Git {
	g.RepoURL = cmp.Or(g.RepoURL, repo)
	g.RepoObjectFormat = cmp.Or(g.RepoObjectFormat, objectFormat(g.SHA))
	g.BeforeSHA = cmp.Or(g.BeforeSHA, strings.Repeat("0", len(g.SHA)))
	g.RefType = cmp.Or(g.RefType, "branch")
	return g
}

func objectFormat(sha string) string {
	if len(sha) == 64 {
		return "sha256"
	}
	return "sha1"
}

// repoURL is the address of a repository with the job's token in it.
func repoURL(base, projectPath string, token job.Secret) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	u = u.JoinPath(projectPath + ".git")
	u.User = url.UserPassword("gitlab-ci-token", token.Reveal())
	return u.String()
}

// predefined are the variables that GitLab sets, in its order.
func predefined(j *Job, r *runner, base, repo string) job.Variables {
	var vs job.Variables
	add := func(key, value string) { vs = append(vs, job.Variable{Key: key, Value: value, Public: true}) }
	hide := func(key string, value job.Secret) {
		vs = append(vs, job.Variable{Key: key, Value: value.Reveal(), Masked: true})
	}
	s, info, git, p := &j.spec, j.spec.JobInfo, j.spec.GitInfo, j.project
	if p == nil {
		p = &Project{ID: info.ProjectID, Path: info.ProjectFullPath, DefaultBranch: "main"}
	}
	web := base + "/" + p.Path

	pipelineID := strconv.FormatInt(info.PipelineID, 10)
	add("CI_PIPELINE_ID", pipelineID)
	add("CI_PIPELINE_URL", web+"/-/pipelines/"+pipelineID)
	add("CI_JOB_ID", strconv.FormatInt(s.ID, 10))
	add("CI_JOB_URL", web+"/-/jobs/"+strconv.FormatInt(s.ID, 10))
	add("CI", "true")
	add("GITLAB_CI", "true")
	add("CI_SERVER_URL", base)
	if u, err := url.Parse(base); err == nil {
		add("CI_SERVER_HOST", u.Hostname())
		add("CI_SERVER_PORT", cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]))
		add("CI_SERVER_PROTOCOL", u.Scheme)
	}
	add("CI_PROJECT_ID", strconv.FormatInt(p.ID, 10))
	add("CI_PROJECT_NAME", p.name())
	add("CI_PROJECT_PATH", p.Path)
	add("CI_PROJECT_NAMESPACE", p.namespace())
	add("CI_PROJECT_PATH_SLUG", slug(p.Path))
	add("CI_PROJECT_URL", web)
	add("CI_DEFAULT_BRANCH", p.DefaultBranch)
	if git.SHA != "" {
		add("CI_COMMIT_SHA", git.SHA)
		add("CI_COMMIT_SHORT_SHA", git.SHA[:min(8, len(git.SHA))])
		add("CI_COMMIT_REF_NAME", git.Ref)
		add("CI_COMMIT_REF_SLUG", slug(git.Ref))
		if git.RefType == "tag" {
			add("CI_COMMIT_TAG", git.Ref)
		} else {
			add("CI_COMMIT_BRANCH", git.Ref)
		}
	}
	add("CI_JOB_NAME", info.Name)
	add("CI_JOB_STAGE", info.Stage)
	add("CI_NODE_TOTAL", "1")
	if p.Registry != "" {
		add("CI_REGISTRY", p.Registry)
		add("CI_REGISTRY_IMAGE", p.Registry+"/"+strings.ToLower(p.Path))
	}
	add("CI_API_V4_URL", base+"/api/v4")
	add("CI_RUNNER_ID", strconv.FormatInt(r.ID, 10))
	add("CI_RUNNER_TAGS", tagList(r.Tags))
	hide("CI_JOB_TOKEN", s.Token)
	if p.Registry != "" {
		user, password := p.credentials(s.Token)
		add("CI_REGISTRY_USER", user)
		hide("CI_REGISTRY_PASSWORD", password)
	}
	if repo != "" {
		vs = append(vs, job.Variable{Key: "CI_REPOSITORY_URL", Value: repo})
	}
	return vs
}

// tagList prints tags as Ruby prints a list.
func tagList(tags []string) string {
	quoted := make([]string, len(tags))
	for i, t := range tags {
		quoted[i] = strconv.Quote(t)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
