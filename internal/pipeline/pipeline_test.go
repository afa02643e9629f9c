package pipeline

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/slipway-ci/slipway/internal/job"
)

const article = `build:
  stage: build
  tags: [ dockerd ]
  image: docker:20.10.7
  before_script:
  - docker login -u "$CI_REGISTRY_USER" -p "$CI_REGISTRY_PASSWORD" $CI_REGISTRY
  script:
    - docker build -t "$CI_REGISTRY_IMAGE:$CI_COMMIT_REF_SLUG" .
    - docker push "$CI_REGISTRY_IMAGE:$CI_COMMIT_REF_SLUG"
`

func mustParse(t *testing.T, text string) *Pipeline {
	t.Helper()
	p, err := Parse(".gitlab-ci.yml", []byte(text))
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return p
}

func diff(want, got any) string { return cmp.Diff(want, got, cmpopts.EquateEmpty()) }

func TestParseArticle(t *testing.T) {
	t.Parallel()
	want := &Pipeline{
		Stages: []string{".pre", "build", "test", "deploy", ".post"},
		Jobs: []*Job{{
			Name: "build", Stage: "build", Tags: []string{"dockerd"}, Image: job.Image{Name: "docker:20.10.7"},
			Script: []string{
				`docker login -u "$CI_REGISTRY_USER" -p "$CI_REGISTRY_PASSWORD" $CI_REGISTRY`,
				`docker build -t "$CI_REGISTRY_IMAGE:$CI_COMMIT_REF_SLUG" .`,
				`docker push "$CI_REGISTRY_IMAGE:$CI_COMMIT_REF_SLUG"`,
			},
			When: OnSuccess, Line: 1, Col: 1,
		}},
	}
	got := mustParse(t, article)
	if d := diff(want, got); d != "" {
		t.Error(d)
	}
	steps := got.Jobs[0].Steps(time.Hour)
	if len(steps) != 1 || steps[0].Name != "script" || steps[0].Timeout != 3600 {
		t.Errorf("steps: %+v", steps)
	}
}

func TestParseEverything(t *testing.T) {
	t.Parallel()
	got := mustParse(t, `
stages: [ one, .post, two, one ]
variables:
  A: global
  B: { value: "b", description: what, expand: false }
  N: 20.10
  Y: yes
  EMPTY:
default:
  image: { name: "alpine:3", entrypoint: [""], pull_policy: if-not-present, docker: { platform: linux/amd64, user: 1000 } }
  tags: [ shared ]
  timeout: 1h 30m
  after_script: echo bye
before_script: [ echo hello ]
.hidden: [ anything, 1, { rules: [] } ]
first:
  stage: one
  script: echo 1
  variables: { A: job, C: 7 }
  services:
    - redis:7
    - { name: "docker:dind", alias: "docker dind", command: ["--tls=false"], entrypoint: ["dockerd"], variables: { V: 1 }, pull_policy: [ always, never ] }
  allow_failure: true
second:
  stage: two
  when: always
  tags: []
  image: busybox
  timeout: 90 seconds
  before_script: []
  after_script:
  script:
    - [ echo a, [ echo b ] ]
    - |
      echo c
      echo d
  needs:
late:
  stage: .post
  when: on_failure
  script: [ "true" ]
`)
	global := job.Variables{
		{Key: "A", Value: "global", Public: true},
		{Key: "B", Value: "b", Public: true, Raw: true},
		{Key: "N", Value: "20.1", Public: true},
		{Key: "Y", Value: "true", Public: true},
		{Key: "EMPTY", Public: true},
	}
	image := job.Image{
		Name: "alpine:3", Entrypoint: []string{""}, PullPolicies: []string{"if-not-present"},
		ExecutorOpts: job.ExecutorOpts{Docker: job.DockerOpts{Platform: "linux/amd64", User: "1000"}},
	}
	want := &Pipeline{
		Stages:    []string{".pre", "one", "two", ".post"},
		Variables: global,
		Jobs: []*Job{
			{
				Name: "first", Stage: "one", Tags: []string{"shared"}, Image: image,
				Services: []job.Service{
					{Image: job.Image{Name: "redis:7"}},
					{
						Image: job.Image{
							Name: "docker:dind", Entrypoint: []string{"dockerd"}, PullPolicies: []string{"always", "never"},
						},
						Alias: "docker dind", Command: []string{"--tls=false"},
						Variables: job.Variables{{Key: "V", Value: "1", Public: true}},
					},
				},
				Variables: append(
					job.Variables{{Key: "A", Value: "job", Public: true}},
					append(global[1:5:5], job.Variable{Key: "C", Value: "7", Public: true})...),
				Script: []string{"echo hello", "echo 1"}, AfterScript: []string{"echo bye"},
				When: OnSuccess, AllowFailure: true, Timeout: 90 * time.Minute, Line: 16, Col: 1,
			},
			{
				Name: "second", Stage: "two", Image: job.Image{Name: "busybox"}, Variables: global,
				Script: []string{"echo a", "echo b", "echo c\necho d\n"}, AfterScript: []string{"echo bye"},
				When: Always, Timeout: 90 * time.Second, Line: 24, Col: 1,
			},
			{
				Name: "late", Stage: ".post", Tags: []string{"shared"}, Image: image, Variables: global,
				Script: []string{"echo hello", "true"}, AfterScript: []string{"echo bye"},
				When: OnFailure, Timeout: 90 * time.Minute, Line: 38, Col: 1,
			},
		},
	}
	if d := diff(want, got); d != "" {
		t.Error(d)
	}
	if steps := got.Jobs[0].Steps(time.Minute); len(steps) != 2 || steps[1].When != "always" || !steps[1].AllowFailure {
		t.Errorf("steps: %+v", steps)
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	const ok = "j: { script: [ x ] }\n"
	tests := []struct{ name, text, want string }{
		{"empty", "", "f.yml: the file is empty (a pipeline needs at least one job with a script)"},
		{"only a comment", "# nothing\n", "f.yml: the file is empty (a pipeline needs at least one job with a script)"},
		{"a list", "- a\n", "f.yml:1:1: the file must be a mapping of keywords and jobs, not a list"},
		{"no job", "variables: { A: 1 }\n", "f.yml:1:1: there is no job: a pipeline needs at least one with a script"},
		{"only hidden jobs", ".a: { script: x }\n", "f.yml:1:1: there is no job: a pipeline needs at least one with a script"},
		{"only .pre", "a: { stage: .pre, script: x }\n", "f.yml:1:1: there are only jobs in .pre and .post: GitLab creates no pipeline"},
		{"not yet, several, in order", "include: x.yml\nb:\n  needs: []\n  script: x\n  rules: [ { if: a } ]\n  extends: .c\n", `
f.yml:1:1: include is not supported yet
f.yml:3:3: job b: needs is not supported yet
f.yml:5:3: job b: rules is not supported yet
f.yml:6:3: job b: extends is not supported yet`},
		{"misspelt job keyword", "b:\n  scirpt: x\n", `
f.yml:1:1: job b: there is no script (a name that starts with a dot makes it hidden)
f.yml:2:3: job b: unknown keyword "scirpt" (did you mean "script"?)`},
		{"unknown without a neighbour", "b:\n  script: x\n  frobnicate: 1\n", `f.yml:3:3: job b: unknown keyword "frobnicate"`},
		{"misspelt top keyword", "stagess: [a]\n" + ok, `f.yml:1:1: unknown keyword "stagess" (did you mean "stages"?)`},
		{"misspelt mapping", "varables: { A: 1 }\n" + ok, `
f.yml:1:1: job varables: there is no script (did you mean "variables"?)
f.yml:1:13: job varables: unknown keyword "A"`},
		{"empty job", "b:\n" + ok, "f.yml:1:1: job b: there is nothing in it"},
		{"default keyword", "default: { retry: 2, script: x, imag: y }\n" + ok, `
f.yml:1:12: default: retry is not supported yet
f.yml:1:22: default: unknown keyword "script"
f.yml:1:33: default: unknown keyword "imag" (did you mean "image"?)`},
		{"default no mapping", "default: x\n" + ok, "f.yml:1:10: default: must be a mapping, not a string"},
		{"default twice", "image: a\ndefault: { image: b }\n" + ok, "f.yml:1:1: image is given at the top of the file and in default: (keep the one in default:)"},
		{"a mistake in default is told once", "default: { tags: 1 }\na: { script: x }\nb: { script: x }\n", "f.yml:1:18: default: tags: must be a list of strings, not a number"},
		{"unknown stage", "j:\n  stage: biuld\n  script: x\n", `f.yml:2:10: job j: there is no stage "biuld" (the stages are .pre, build, test, deploy, .post)`},
		{"default stage missing", "stages: [ a ]\nj: { script: x }\n", `f.yml:2:1: job j: there is no stage "test" (the stages are .pre, a, .post)`},
		{"stages no list", "stages: a\n" + ok, "f.yml:1:9: stages: must be a list of strings, not a string"},
		{"script line with a colon", "j:\n  script:\n    - 'echo a: b'\n    - echo a: b\n", "f.yml:4:7: job j: script: a line must be a string, not a mapping (a line with a colon and a space in it needs quotes around it)"},
		{"script line true", "j: { script: [ true ] }\n", "f.yml:1:16: job j: script: a line must be a string, not a boolean (put it in quotes)"},
		{"script number", "j: { script: 5 }\n", "f.yml:1:14: job j: script: must be a string or a list of strings, not a number (put it in quotes)"},
		{"script empty", "j: { script: [] }\n", "f.yml:1:14: job j: the script is empty"},
		{"script too deep", "j: { script: [[[[[[[[[[[x]]]]]]]]]]] }\n", "f.yml:1:24: job j: script: lists nest more than 10 levels deep"},
		{"when manual", "j: { script: x, when: manual }\n", "f.yml:1:23: job j: when: manual is not supported yet"},
		{"when nonsense", "j: { script: x, when: sometimes }\n", `f.yml:1:23: job j: there is no when: "sometimes" (it is one of on_success, on_failure, always)`},
		{"allow_failure", "j: { script: x, allow_failure: maybe }\n", "f.yml:1:32: job j: allow_failure must be true or false, not a string"},
		{"allow_failure codes", "j: { script: x, allow_failure: { exit_codes: 3 } }\n", "f.yml:1:32: job j: allow_failure:exit_codes is not supported yet"},
		{"timeout", "j: { script: x, timeout: soon }\n", `f.yml:1:26: job j: timeout: "soon" is not a duration (as in "1h 30m" or "90 minutes")`},
		{"tags", "j: { script: x, tags: docker }\n", "f.yml:1:23: job j: tags: must be a list of strings, not a string"},
		{"tag number", "j: { script: x, tags: [ 1 ] }\n", "f.yml:1:25: job j: tags: an item must be a string, not a number (put it in quotes)"},
		{"image number", "j: { script: x, image: 3.1 }\n", "f.yml:1:24: job j: image: must be a string or a mapping, not a number (put it in quotes)"},
		{"image without a name", "j: { script: x, image: { entrypoint: [a] } }\n", "f.yml:1:24: job j: image: there is no name"},
		{"image keyword", "j: { script: x, image: { name: a, kubernetes: {}, pull_policies: always } }\n", `
f.yml:1:35: job j: image: kubernetes is not supported yet
f.yml:1:51: job j: image: unknown keyword "pull_policies"`},
		{"pull policy", "j: { script: x, image: { name: a, pull_policy: maybe } }\n", `f.yml:1:48: job j: image: there is no pull_policy "maybe" (it is one of always, if-not-present, never)`},
		{"services no list", "j: { script: x, services: redis }\n", "f.yml:1:27: job j: services must be a list, not a string (write it as a list, with a dash)"},
		{"service list", "j: { script: x, services: [[a]] }\n", "f.yml:1:28: job j: service: must be a string or a mapping, not a list"},
		{"variables list", "variables: [ a ]\n" + ok, "f.yml:1:12: variables: variables must be a mapping, not a list"},
		{"variable list", "variables: { A: [ a ] }\n" + ok, "f.yml:1:17: variables: variable A must be a string, not a list"},
		{"job variable description", "j: { script: x, variables: { A: { value: b, description: c } } }\n", `f.yml:1:45: job j: variable A: unknown keyword "description"`},
		{"variable expand", "j: { script: x, variables: { A: { value: b, expand: maybe } } }\n", `f.yml:1:53: job j: variable A: expand must be true or false`},
		{"syntax", "a: b\n  c: d\n", "f.yml:2: mapping values are not allowed in this context"},
		{"unknown anchor", "a: 1\nb: *nowhere\n", `f.yml:2: unknown anchor "nowhere" (an anchor (&nowhere) must stand before its alias)`},
		{"anchor in itself", "a: &a [ *a ]\n", `f.yml:1:4: the anchor "a" contains its own alias`},
		{"reference", "j:\n  script: !reference [.a, script]\n", "f.yml:2:11: !reference is not supported yet"},
		{"date", "variables: { D: 2020-01-02 }\n" + ok, `f.yml:1:17: "2020-01-02" is a date for GitLab, and dates are not allowed (put it in quotes)`},
		{"key no string", "? [a]\n: b\n", "f.yml:1:3: a key must be a string, not a list"},
		{"too deep", strings.Repeat("[", 200) + strings.Repeat("]", 200), "f.yml:1:102: more than 100 levels of nesting"},
		{"spec header", "spec:\n  inputs: {}\n---\n" + ok, "f.yml:1:1: spec is not supported yet"},
		{"merge of nothing mergeable", "j:\n  script: x\n  <<: 5\n", `f.yml:3:3: job j: unknown keyword "<<"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse("f.yml", []byte(tt.text))
			if err == nil {
				t.Fatalf("no error but %+v", p)
			}
			if p != nil {
				t.Error("a pipeline beside an error")
			}
			if d := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), err.Error()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "a: { script: x }\na:\n  script: y\n  image: b\n  image: c\n---\nignored: { script: z }\n")
	var got []string
	for _, w := range p.Warnings {
		got = append(got, w.Error())
	}
	want := []string{
		".gitlab-ci.yml:6:1: only the first document of the file is read",
		`.gitlab-ci.yml:5:3: "image" is given twice in one mapping; the last one counts`,
		`.gitlab-ci.yml:2:1: "a" is given twice in one mapping; the last one counts`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if p.Jobs[0].Script[0] != "y" || p.Jobs[0].Image.Name != "c" || len(p.Jobs) != 1 {
		t.Errorf("not the last one: %+v", p.Jobs[0])
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		want time.Duration // 0 = not a duration
	}{
		{"1h 30m", 90 * time.Minute},
		{"1h30m", 90 * time.Minute},
		{"90 minutes", 90 * time.Minute},
		{"1 hour and 30 mins", 90 * time.Minute},
		{"1 Hour, 5 Seconds", time.Hour + 5*time.Second},
		{"3600", time.Hour},
		{"1.5 hours", 90 * time.Minute},
		{"1 day", 24 * time.Hour},
		{"2w", 14 * 24 * time.Hour},
		{"1 month", 30 * 24 * time.Hour},
		{"", 0},
		{"h", 0},
		{"-1h", 0},
		{"1 fortnight", 0},
		{"0", 0},
		{"1.2.3h", 0},
		{"99999999999999999999999 years", 0},
		{"99999999999999999999999h", 0},
	}
	for _, tt := range tests {
		got, ok := parseDuration(tt.text)
		if got != tt.want || ok != (tt.want > 0) {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", tt.text, got, ok, tt.want)
		}
	}
}
