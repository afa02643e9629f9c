package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/pipeline"
)

// configFile is where a pipeline is described.
const configFile = ".gitlab-ci.yml"

// run is one pipeline on its way.
type run struct {
	stages  [][]*Job // those that have jobs, in their order
	current int
}

// StartPipeline reads .gitlab-ci.yml of a branch or tag and queues the jobs of its first stage; the other stages follow
// as GitLab's rules say. The jobs come in the order of their stages. What is wrong with the file is told as
// *pipeline.Error, joined.
func (c *Coordinator) StartPipeline(ctx context.Context, projectPath, ref string) ([]*Job, error) {
	c.mu.Lock()
	project := c.projects[projectPath]
	c.mu.Unlock()
	if project == nil {
		return nil, fmt.Errorf("start pipeline: there is no project %q", projectPath)
	}
	commit, err := resolve(ctx, project.RepoDir, ref)
	if err != nil {
		return nil, fmt.Errorf("start pipeline of %s: %w", projectPath, err)
	}
	file, err := git(ctx, project.RepoDir, "cat-file", "blob", commit.sha+":"+configFile)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", configFile, ref, err)
	}
	p, err := pipeline.Parse(configFile, file)
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings {
		c.opts.Log.Warn("pipeline", "project", projectPath, "warning", w.Error())
	}

	c.mu.Lock()
	c.lastPipeline++
	id := c.lastPipeline
	c.mu.Unlock()
	// GitLab: the ref that keeps the commit for the runner even if its branch moves on.
	if _, err := git(ctx, project.RepoDir, "update-ref", pipelineRef(id), commit.sha); err != nil {
		return nil, fmt.Errorf("keep the pipeline's commit: %w", err)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	r := &run{}
	var jobs []*Job
	for _, stage := range p.Stages {
		var members []*Job
		for _, pj := range p.Jobs {
			if pj.Stage == stage {
				j := newPipelineJob(id, project, commit, pj)
				j.run = r
				c.complete(j)
				members = append(members, j)
			}
		}
		if len(members) > 0 {
			r.stages = append(r.stages, members)
			jobs = append(jobs, members...)
		}
	}
	r.start()
	r.advance() // the first stage may have been skipped
	return jobs, nil
}

func pipelineRef(id int64) string { return "refs/pipelines/" + strconv.FormatInt(id, 10) }

// newPipelineJob turns a job of the file into one for a runner.
func newPipelineJob(id int64, p *Project, commit commit, pj *pipeline.Job) *Job {
	variables := append(slices.Clone(pj.Variables), p.Variables...)
	depth := 20 // GitLab: the default of projects
	if v, ok := variables.Lookup("GIT_DEPTH"); ok {
		n, _ := strconv.Atoi(v.Value)
		depth = max(0, n)
	}
	protected := commit.refType == "branch" && commit.ref == p.DefaultBranch
	timeout := cmp.Or(pj.Timeout, p.Timeout)
	j := &Job{
		project: p, when: pj.When, allowFailure: pj.AllowFailure,
		spec: job.Spec{
			AllowGitFetch: true,
			JobInfo: job.Info{
				Name: pj.Name, Stage: pj.Stage, PipelineID: id,
				ProjectID: p.ID, ProjectName: p.name(), ProjectFullPath: p.Path,
			},
			GitInfo: job.Git{
				Ref: commit.ref, SHA: commit.sha, RefType: commit.refType, Depth: depth, Protected: &protected,
				Refspecs: refspecs(id, commit, depth),
			},
			RunnerInfo: job.RunnerInfo{Timeout: int(timeout / time.Second)},
			Variables:  variables,
			Steps:      pj.Steps(timeout),
			Image:      pj.Image,
			Services:   pj.Services,
		},
	}
	for _, t := range pj.Tags {
		// GitLab: variables in tags; the predefined ones of the job itself are not among them.
		j.tags = append(j.tags, variables.Expand(t))
	}
	return j
}

// refspecs are what the runner fetches: the pipeline's own ref and the branch or tag; all of them for a full clone.
func refspecs(id int64, commit commit, depth int) []string {
	specs := []string{"+" + pipelineRef(id) + ":" + pipelineRef(id)}
	branch, tag := commit.ref, commit.ref
	if depth == 0 {
		branch, tag = "*", "*"
	}
	if depth == 0 || commit.refType == "branch" {
		specs = append(specs, "+refs/heads/"+branch+":refs/remotes/origin/"+branch)
	}
	if depth == 0 || commit.refType == "tag" {
		specs = append(specs, "+refs/tags/"+tag+":refs/tags/"+tag)
	}
	return specs
}

// advance starts the next stage when the current one is done. A stage of skipped jobs is done at once.
func (r *run) advance() {
	for r.current < len(r.stages) && !slices.ContainsFunc(r.stages[r.current], func(j *Job) bool { return !j.done() }) {
		r.current++
		r.start()
	}
}

// start queues or skips the jobs of the current stage.
func (r *run) start() {
	if r.current >= len(r.stages) {
		return
	}
	before := r.status()
	for _, j := range r.stages[r.current] {
		if j.state != Created {
			continue // canceled while it waited
		}
		if runsAfter(j.when, before) {
			j.c.enqueue(j)
			continue
		}
		j.state = Skipped
		j.notify()
	}
}

// status sums up the stages before the current one: job.Success, job.Failed, Canceled or Skipped.
func (r *run) status() job.State {
	status := job.Success
	ran := r.current == 0
	for _, stage := range r.stages[:r.current] {
		for _, j := range stage {
			ran = ran || j.state != Skipped
			switch {
			case j.allowFailure:
			case j.state == job.Failed:
				return job.Failed
			case j.state == Canceled:
				status = Canceled
			}
		}
	}
	if !ran {
		return Skipped
	}
	return status
}

// runsAfter reports whether a job runs after stages that ended so.
//
// GitLab: a canceled job before it stops even a job with when: always.
func runsAfter(when pipeline.When, before job.State) bool {
	switch when {
	case pipeline.OnFailure:
		return before == job.Failed
	case pipeline.Always:
		return before != Canceled
	}
	return before == job.Success || before == Skipped
}
