package executor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
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

// resource is what went into a build.
type resource struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest"`
}

// writeStatement says how files were made. Nobody has signed it.
//
// GitLab: the same fields, and of the variables their names only; the commit is called a sha256, whatever it is. But
// builder.version is this program's.
func (s Settings) writeStatement(w io.Writer, p *plan, files []archive.Sum, ended time.Time) error {
	repository, err := remoteURL(p.spec.GitInfo.RepoURL, "", "") // without the token in it
	if err != nil {
		return err
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
	text, err := json.MarshalIndent(map[string]any{
		"_type": statementType, "predicateType": predicateType,
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
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	_, _ = out.Write(bytes.TrimSuffix(text, []byte("\n}"))) // Flush tells
	writeSubject(out, files)
	return out.Flush()
}

// writeSubject ends a statement with the files, one by one: all at once they would take more than a kilobyte of memory each.
func writeSubject(out *bufio.Writer, files []archive.Sum) {
	_, _ = out.WriteString(",\n \"subject\": [")
	between := ""
	for _, f := range files {
		name, _ := json.Marshal(f.Name) // a string has no mistake
		fmt.Fprintf(out, "%s\n  {\n   \"name\": %s,\n   \"digest\": {\n    \"sha256\": \"%x\"\n   }\n  }", between, name, f.SHA256)
		between = ","
	}
	if len(files) > 0 {
		_, _ = out.WriteString("\n ")
	}
	_, _ = out.WriteString("]\n}")
}

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
