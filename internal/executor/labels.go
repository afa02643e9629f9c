package executor

import (
	"maps"
	"strconv"

	"github.com/slipway-ci/slipway/internal/job"
)

// The labels that say whose an object of the Engine is. See Sweep.
const (
	labelInstance  = "slipway.instance"
	labelState     = "slipway.state" // the instance's state folder
	labelEphemeral = "slipway.ephemeral"
	// labelJobNetwork is the name of a network that one job has with its services.
	labelJobNetwork = "slipway.job-network"
	labelName       = "slipway.name" // of the container itself: nobody can write it into an image, whose labels containers get
)

// gitlabPrefix begins the labels of GitLab's own runner, which operators' scripts and dashboards look for.
const gitlabPrefix = "com.gitlab.gitlab-runner."

// OwnLabels say that an object of the Engine belongs to the instance with that state folder. See Sweep.
func OwnLabels(instance, stateDir string) map[string]string {
	return map[string]string{labelInstance: instance, labelState: stateDir}
}

// ownLabels mark everything that an instance makes.
func (s Settings) ownLabels() map[string]string {
	l := OwnLabels(s.Instance, s.StateDir)
	if s.Ephemeral {
		l[labelEphemeral] = "true"
	}
	return l
}

func (s Settings) jobLabels(slot Slot, spec *job.Spec, vars job.Variables) map[string]string {
	out := make(map[string]string)
	for k, v := range s.ContainerLabels {
		out[k] = vars.Expand(v)
	}
	maps.Copy(out, s.ownLabels())
	for k, v := range map[string]string{
		"managed":           "true",
		"type":              "build",
		"job.id":            strconv.FormatInt(spec.ID, 10),
		"job.url":           vars.Get("CI_JOB_URL"),
		"job.sha":           spec.GitInfo.SHA,
		"job.before_sha":    spec.GitInfo.BeforeSHA,
		"job.ref":           spec.GitInfo.Ref,
		"job.timeout":       spec.Timeout().String(),
		"project.id":        strconv.FormatInt(spec.JobInfo.ProjectID, 10),
		"project.runner_id": strconv.Itoa(slot.ProjectID),
		"pipeline.id":       vars.Get("CI_PIPELINE_ID"),
		"runner.id":         s.ShortToken,
		"runner.local_id":   strconv.Itoa(slot.ID),
		"runner.system_id":  s.SystemID,
	} {
		out[gitlabPrefix+k] = v
	}
	return out
}
