package executor

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/archive"
)

// stated reports whether archives of artifacts say how they were made.
//
// GitLab: SLSA_PROVENANCE_SCHEMA_VERSION has no effect any more, but for a warning.
func (p *plan) stated() bool {
	if !p.vars.Bool("RUNNER_GENERATE_ARTIFACTS_METADATA") {
		return false
	}
	if v := p.vars.Get("SLSA_PROVENANCE_SCHEMA_VERSION"); v != "" && v != "v1" {
		p.warnings = append(p.warnings, "SLSA_PROVENANCE_SCHEMA_VERSION is "+strconv.Quote(v)+": only v1 is known; using that")
	}
	return true
}

// What a statement is: in-toto's, of SLSA's provenance, in the terms of GitLab's runner.
const (
	statementType = "https://in-toto.io/Statement/v0.1"
	predicateType = "https://slsa.dev/provenance/v1"
	buildType     = "https://gitlab.com/gitlab-org/gitlab-runner/-/blob/v19.4.0/PROVENANCE.md"
)

// resource is what went into a build, or came out of it.
type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// statement says how files were made. Nobody has signed it.
//
// GitLab: the same fields, and of the variables their names only; the commit is called a sha256, whatever it is. But
// builder.version is this program's.
func (s Settings) statement(p *plan, files []archive.Sum, ended time.Time) ([]byte, error) {
	subject := make([]resource, 0, len(files))
	for _, f := range files {
		subject = append(subject, resource{Name: f.Name, Digest: map[string]string{"sha256": f.SHA256}})
	}
	repository, err := remoteURL(p.spec.GitInfo.RepoURL, "", "") // without the token in it
	if err != nil {
		return nil, err
	}
	repository = strings.TrimSuffix(repository, ".git")
	external := map[string]string{}
	for _, v := range p.spec.Variables {
		external[v.Key] = ""
	}
	external["entryPoint"], external["source"] = p.spec.JobInfo.Name, repository
	executor := "docker"
	if s.Account != nil {
		executor = "shell"
	}
	id := strconv.FormatInt(p.spec.ID, 10)
	return json.MarshalIndent(map[string]any{
		"_type": statementType, "predicateType": predicateType, "subject": subject,
		"predicate": map[string]any{
			"buildDefinition": map[string]any{
				"buildType":            buildType,
				"externalParameters":   external,
				"internalParameters":   map[string]string{"name": s.RunnerName, "executor": executor, "architecture": runtime.GOARCH, "job": id},
				"resolvedDependencies": []resource{{URI: repository, Digest: map[string]string{"sha256": p.spec.GitInfo.SHA}}},
			},
			"runDetails": map[string]any{
				"builder": map[string]any{
					"id": fmt.Sprintf("%s/-/runners/%s", repository, p.vars.Get("CI_RUNNER_ID")), "version": map[string]string{"slipway": s.Version},
				},
				"metadata": map[string]string{"invocationId": id, "startedOn": timestamp(p.began), "finishedOn": timestamp(ended)},
			},
		},
	}, "", " ")
}

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
