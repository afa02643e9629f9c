package executor

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/archive"
	"github.com/slipway-ci/slipway/internal/job"
)

func TestStatement(t *testing.T) {
	t.Parallel()
	vars := job.Variables{{Key: "CI_RUNNER_ID", Value: "12"}, {Key: "KEY", Value: "a secret"}, {Key: "RUNNER_GENERATE_ARTIFACTS_METADATA", Value: "true"}}
	p := &plan{began: time.Unix(1_000_000_000, 5).In(time.FixedZone("", 3600)), vars: vars, spec: &job.Spec{
		ID: 7, JobInfo: job.Info{Name: "build: it"}, Variables: vars,
		GitInfo: job.Git{RepoURL: "https://gitlab-ci-token:a-token@gitlab.test/group/demo.git", SHA: "0123abcd"},
	}}
	s := Settings{Version: "1.2.3", RunnerName: "a runner"}
	state := func(files ...archive.Sum) string {
		var b strings.Builder
		if err := s.writeStatement(&b, p, files, time.Unix(1_000_000_060, 0)); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	want := `{
 "_type": "https://in-toto.io/Statement/v0.1",
 "predicate": {
  "buildDefinition": {
   "buildType": "https://gitlab.com/gitlab-org/gitlab-runner/-/blob/v19.4.0/PROVENANCE.md",
   "externalParameters": {
    "CI_RUNNER_ID": "",
    "KEY": "",
    "RUNNER_GENERATE_ARTIFACTS_METADATA": "",
    "entryPoint": "build: it",
    "source": "https://gitlab.test/group/demo"
   },
   "internalParameters": {
    "architecture": "` + runtime.GOARCH + `",
    "executor": "docker",
    "job": "7",
    "name": "a runner"
   },
   "resolvedDependencies": [
    {
     "uri": "https://gitlab.test/group/demo",
     "digest": {
      "sha256": "0123abcd"
     }
    }
   ]
  },
  "runDetails": {
   "builder": {
    "id": "https://gitlab.test/group/demo/-/runners/12",
    "version": {
     "slipway": "1.2.3"
    }
   },
   "metadata": {
    "finishedOn": "2001-09-09T01:47:40Z",
    "invocationId": "7",
    "startedOn": "2001-09-09T01:46:40Z"
   }
  }
 },
 "predicateType": "https://slsa.dev/provenance/v1",
 "subject": [
  {
   "name": "out/a",
   "digest": {
    "sha256": "` + strings.Repeat("0a", 32) + `"
   }
  },
  {
   "name": "b\"\u003c\n",
   "digest": {
    "sha256": "` + strings.Repeat("b0", 32) + `"
   }
  }
 ]
}`
	sum := func(b byte) (out [sha256.Size]byte) { return [sha256.Size]byte(bytes.Repeat([]byte{b}, len(out))) }
	if text := state(archive.Sum{Name: "out/a", SHA256: sum(0x0a)}, archive.Sum{Name: "b\"<\n", SHA256: sum(0xb0)}); text != want {
		t.Errorf("%s", text)
	}
	s.Account = &Account{}
	if text := state(); !strings.Contains(text, `"executor": "shell"`) || !strings.HasSuffix(text, "\"subject\": []\n}") || !json.Valid([]byte(text)) {
		t.Errorf("%s", text)
	}
}

// TestLargeStatement: a statement of many files is never in memory as a whole.
func TestLargeStatement(t *testing.T) {
	t.Parallel()
	files := make([]archive.Sum, 10_000)
	for i := range files {
		files[i].Name = fmt.Sprint("file", i)
	}
	var out pieces
	if err := (Settings{}).writeStatement(&out, &plan{spec: &job.Spec{}}, files, time.Now()); err != nil || out.all < 1_000_000 || out.largest > 64<<10 {
		t.Errorf("%d bytes, the largest piece %d: %v", out.all, out.largest, err)
	}
	if err := (Settings{}).writeStatement(failing{}, &plan{spec: &job.Spec{}}, files, time.Now()); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("whoever cannot be written to gives %v", err)
	}
}

// pieces knows how large what was written to it is, and the largest piece of it.
type pieces struct{ all, largest int }

func (p *pieces) Write(b []byte) (int, error) {
	p.all, p.largest = p.all+len(b), max(p.largest, len(b))
	return len(b), nil
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// TestStated: only archives say how they were made, and only if the job asks for it.
func TestStated(t *testing.T) {
	t.Parallel()
	artifacts := []job.Artifact{{Format: "zip"}, {Name: "../$KEY"}, {Format: "gzip", Name: "junit.xml"}, {Format: "raw"}}
	names := func(vars ...job.Variable) string {
		p := &plan{vars: vars, spec: &job.Spec{Artifacts: artifacts}}
		got, err := p.planArtifacts()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, a := range got {
			out = append(out, a.statement)
		}
		return strings.Join(append(out, p.warnings...), ",")
	}
	key, on := job.Variable{Key: "KEY", Value: "a/b"}, job.Variable{Key: "RUNNER_GENERATE_ARTIFACTS_METADATA", Value: "true"}
	version := func(v string) job.Variable { return job.Variable{Key: "SLSA_PROVENANCE_SCHEMA_VERSION", Value: v} }
	for got, want := range map[string]string{
		names(key, version("v0.2")):     ",,,",
		names(key, on):                  "artifacts-metadata.json,b-metadata.json,,",
		names(key, on, version("v1")):   "artifacts-metadata.json,b-metadata.json,,",
		names(key, on, version("v0.2")): `artifacts-metadata.json,b-metadata.json,,,SLSA_PROVENANCE_SCHEMA_VERSION is "v0.2": only v1 is known; using that`,
	} {
		if got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}
