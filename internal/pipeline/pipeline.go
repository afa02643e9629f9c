// Package pipeline reads a .gitlab-ci.yml: text in, jobs out, every complaint with its line. It knows nothing of Git, of
// servers, or of how a job is run.
package pipeline

import (
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// When says on what outcome of the earlier stages a job runs.
type When string

// The outcomes that a job can wait for.
const (
	OnSuccess When = "on_success" // nothing failed (the default)
	OnFailure When = "on_failure" // something failed
	Always    When = "always"     // either
)

// Pipeline is what one .gitlab-ci.yml asks for.
type Pipeline struct {
	// Stages in the order they run, with .pre first and .post last; not every one has jobs.
	Stages []string
	// Variables of the whole pipeline. The jobs' own Variables already contain them.
	Variables job.Variables
	// Jobs that run, in the order of the file; hidden ones are not among them.
	Jobs []*Job
	// Warnings are about what GitLab accepts in silence although it is hardly meant.
	Warnings []*Error
}

// Job is one job of a pipeline, with everything that it inherits filled in.
type Job struct {
	Name         string
	Stage        string
	Tags         []string  // as written; the server expands variables in them
	Image        job.Image // its Name is empty when the file names none
	Services     []job.Service
	Variables    job.Variables // the pipeline's, then the job's; each key once
	Script       []string      // before_script and script
	AfterScript  []string
	When         When
	AllowFailure bool
	Timeout      time.Duration // 0 = the project's
	Line, Col    int           // of the job's name
}

// Steps are the job's scripts in the form that a runner gets; timeout is the whole job's.
func (j *Job) Steps(timeout time.Duration) []job.Step {
	seconds := int(timeout / time.Second)
	steps := []job.Step{{Name: "script", Script: j.Script, Timeout: seconds, When: "on_success"}}
	if len(j.AfterScript) > 0 {
		// GitLab: after_script runs whatever happened, and its failure changes nothing.
		steps = append(steps, job.Step{
			Name: "after_script", Script: j.AfterScript, Timeout: seconds, When: "always", AllowFailure: true,
		})
	}
	return steps
}

// Parse reads the text of a .gitlab-ci.yml. name stands for the file in errors, which are one *Error or several, joined
// in the order of their lines.
func Parse(name string, data []byte) (*Pipeline, error) {
	r := &reader{file: name}
	root := r.parse(data)
	if len(r.errs) > 0 {
		return nil, r.err()
	}
	p := r.pipeline(root)
	if len(r.errs) > 0 {
		return nil, r.err()
	}
	p.Warnings = r.warnings
	return p, nil
}
