// Package job says what a job is: its specification as GitLab hands it out, its variables, how it may end and what
// is reported about it. It knows nothing of how a job is fetched or run.
package job

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// DefaultTimeout is the job timeout when the payload names none.
//
// GitLab: runner_info.timeout <= 0 means two hours.
const DefaultTimeout = 2 * time.Hour

// Spec is the body of the 201 answer to POST /jobs/request. Unknown and null fields are tolerated.
type Spec struct {
	ID            int64           `json:"id"`
	Token         Secret          `json:"token"`
	AllowGitFetch bool            `json:"allow_git_fetch"`
	JobInfo       Info            `json:"job_info"`
	GitInfo       Git             `json:"git_info"`
	RunnerInfo    RunnerInfo      `json:"runner_info"`
	Variables     Variables       `json:"variables"`
	Steps         []Step          `json:"steps"`
	Image         Image           `json:"image"`
	Services      []Service       `json:"services"`
	Artifacts     []Artifact      `json:"artifacts"`
	Cache         []Cache         `json:"cache"`
	Credentials   []Credential    `json:"credentials"`
	Dependencies  []Dependency    `json:"dependencies"`
	Features      Features        `json:"features"`
	Hooks         []Hook          `json:"hooks"`
	Secrets       json.RawMessage `json:"secrets,omitempty"`
	Run           string          `json:"run,omitempty"`

	// RequestID is what the server calls the request that brought the job, "" if it does not say.
	RequestID string `json:"-"`
}

// Info is what the payload says about the job and its project. Unlike variables, a pipeline cannot set it.
type Info struct {
	ID              int64   `json:"id"`
	Name            string  `json:"name"`
	Stage           string  `json:"stage"`
	PipelineID      int64   `json:"pipeline_id"`
	ProjectID       int64   `json:"project_id"`
	ProjectName     string  `json:"project_name"`
	ProjectFullPath string  `json:"project_full_path"`
	TimeInQueue     float64 `json:"time_in_queue_seconds"`
}

// Git says which commit to check out and where it comes from.
type Git struct {
	RepoURL          string   `json:"repo_url"`
	RepoObjectFormat string   `json:"repo_object_format"`
	Ref              string   `json:"ref"`
	SHA              string   `json:"sha"`
	BeforeSHA        string   `json:"before_sha"`
	RefType          string   `json:"ref_type"` // branch or tag
	Refspecs         []string `json:"refspecs"`
	Depth            int      `json:"depth"` // commits; 0 = all
	Protected        *bool    `json:"protected"`
}

// IsProtected reports whether GitLab said that the job's ref is protected.
func (g Git) IsProtected() bool { return g.Protected != nil && *g.Protected }

// RunnerInfo carries the limits that the server sets on the job.
type RunnerInfo struct {
	Timeout int `json:"timeout"` // seconds
}

// Step is one script of the job: "script" (before_script and script together), "after_script" or "release".
type Step struct {
	Name         string   `json:"name"`
	Script       []string `json:"script"`
	Timeout      int      `json:"timeout"` // seconds
	When         string   `json:"when"`
	AllowFailure bool     `json:"allow_failure"`
}

// Image is a container image with what the job may say about its use.
type Image struct {
	Name         string       `json:"name"`
	Entrypoint   []string     `json:"entrypoint"`
	PullPolicies []string     `json:"pull_policy"`
	ExecutorOpts ExecutorOpts `json:"executor_opts"`
}

// ExecutorOpts holds image options that only one executor understands.
type ExecutorOpts struct {
	Docker DockerOpts `json:"docker"`
}

// DockerOpts is image:docker of .gitlab-ci.yml.
type DockerOpts struct {
	Platform string `json:"platform"`
	User     User   `json:"user"`
}

// User is a user name or number; GitLab sends either.
type User string

// UnmarshalJSON takes a string or a number.
func (u *User) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		*u = User(s)
		return nil
	}
	var n json.Number
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("image:docker:user is neither a string nor a number: %s", b)
	}
	*u = User(n.String())
	return nil
}

// Service is an image that runs beside the job.
type Service struct {
	Image
	Alias     string    `json:"alias"` // names separated by spaces or commas
	Command   []string  `json:"command"`
	Variables Variables `json:"variables"`
}

// Artifact is one upload that the job promises.
type Artifact struct {
	Name      string   `json:"name"`
	Untracked bool     `json:"untracked"`
	Paths     []string `json:"paths"`
	Exclude   []string `json:"exclude"`
	When      string   `json:"when"`
	Type      string   `json:"artifact_type"`
	Format    string   `json:"artifact_format"`
	ExpireIn  string   `json:"expire_in"`
}

// Cache is one entry of the cache keyword.
type Cache struct {
	Key          string   `json:"key"`
	Untracked    bool     `json:"untracked"`
	Policy       string   `json:"policy"`
	Paths        []string `json:"paths"`
	When         string   `json:"when"`
	FallbackKeys []string `json:"fallback_keys"`
}

// Credential lets the runner pull images on behalf of the job.
type Credential struct {
	Type     string `json:"type"` // registry
	URL      string `json:"url"`
	Username string `json:"username"`
	Password Secret `json:"password"`
}

// Dependency is an earlier job whose artifacts this job wants.
type Dependency struct {
	ID            int64         `json:"id"`
	Token         Secret        `json:"token"`
	Name          string        `json:"name"`
	ArtifactsFile ArtifactsFile `json:"artifacts_file"`
}

// ArtifactsFile names an archive on the server.
type ArtifactsFile struct {
	Filename string `json:"filename"`
	Size     int64  `json:"size"` // bytes
}

// Features is what the server understands and asks for.
type Features struct {
	TraceSections     bool     `json:"trace_sections"`
	TokenMaskPrefixes []string `json:"token_mask_prefixes"`
	FailureReasons    []Reason `json:"failure_reasons"`
}

// Hook is a script that the project wants to run around a stage.
type Hook struct {
	Name   string   `json:"name"`
	Script []string `json:"script"`
}

// Timeout is how long the whole job may take.
func (s *Spec) Timeout() time.Duration {
	if s.RunnerInfo.Timeout <= 0 {
		return DefaultTimeout
	}
	return time.Duration(s.RunnerInfo.Timeout) * time.Second
}

// Step returns the step of that name and whether the payload has it.
func (s *Spec) Step(name string) (Step, bool) {
	for _, st := range s.Steps {
		if st.Name == name {
			return st, true
		}
	}
	return Step{}, false
}

// Secret is a string that must not reach a log: it prints as [MASKED] and marshals as itself.
type Secret string

// String hides the value.
func (Secret) String() string { return "[MASKED]" }

// GoString hides the value.
func (Secret) GoString() string { return "[MASKED]" }

// LogValue hides the value in logs of every format; in JSON it would marshal as itself.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

// Short is the part of a runner token that may be shown: its first nine characters without the prefix.
//
// GitLab: the prefixes glrt- (with t1_ to t3_), glrtr-, glcbt- and GR with seven hex digits are stripped first.
func (s Secret) Short() string {
	t := string(s)
	switch {
	case strings.HasPrefix(t, "glrtr-"), strings.HasPrefix(t, "glcbt-"):
		t = t[len("glrtr-"):]
	case strings.HasPrefix(t, "glrt-"):
		t = t[len("glrt-"):]
		if len(t) > 3 && t[0] == 't' && t[1] >= '1' && t[1] <= '3' && t[2] == '_' {
			t = t[3:]
		}
	case len(t) > 9 && strings.HasPrefix(t, "GR") && isHex(t[2:9]):
		t = t[9:]
	}
	return t[:min(9, len(t))]
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdefABCDEF") == ""
}
