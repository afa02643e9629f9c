package executor

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// flags are the feature flags that have an effect here; the others are accepted silently.
var flags = []string{
	"FF_TIMESTAMPS", "FF_MASK_ALL_DEFAULT_TOKENS", "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", "FF_USE_ADAPTIVE_REQUEST_CONCURRENCY",
	"FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", "FF_USE_DIRECT_DOWNLOAD", "FF_HASH_CACHE_KEYS", "FF_CLEAN_UP_FAILED_CACHE_EXTRACT",
	"FF_DISABLE_AUTOMATIC_TOKEN_ROTATION", "FF_EXPORT_HIGH_CARDINALITY_METRICS", "FF_ENABLE_BASH_EXIT_CODE_CHECK", "FF_SCRIPT_SECTIONS",
	"FF_USE_INIT_WITH_DOCKER_EXECUTOR", "FF_USE_GITALY_CORRELATION_ID",
}

// changedFlags are those of a job that are not as they are by default, for its log.
func (s Settings) changedFlags(vars job.Variables) string {
	var out []string
	for _, name := range flags {
		if on := s.flag(name, vars); on != s.FlagByDefault(name) {
			out = append(out, fmt.Sprintf("%s:%t", name, on))
		}
	}
	return strings.Join(out, ", ")
}

func (s Settings) flag(name string, vars job.Variables) bool {
	v, set := vars.Lookup(name)
	return s.FeatureFlag(name, v.Value, set)
}

// variables are all variables of a job, expanded.
//
// GitLab: the order of precedence is feature flags, the runner's own and the configuration's environment, the
// payload's, and last what says where the job runs.
func (s Settings) variables(slot Slot, spec *job.Spec, dir, tempDir string) job.Variables {
	var vars job.Variables
	public := func(key, value string) { vars = append(vars, job.Variable{Key: key, Value: value, Public: true}) }
	for _, f := range flags {
		public(f, strconv.FormatBool(s.flag(f, spec.Variables)))
	}
	if spec.Image.Name != "" && s.Account == nil {
		public("CI_JOB_IMAGE", spec.Image.Name)
	}
	for _, e := range s.Environment {
		key, value, _ := strings.Cut(e, "=")
		vars = append(vars, job.Variable{Key: key, Value: value})
	}
	public("CI_BUILDS_DIR", s.BuildsDir)
	public("CI_PROJECT_DIR", dir)
	public("CI_CONCURRENT_ID", strconv.Itoa(slot.ID))
	public("CI_CONCURRENT_PROJECT_ID", strconv.Itoa(slot.ProjectID))
	public("CI_SERVER", "yes")
	public("CI_JOB_STATUS", string(job.Running))
	public("CI_JOB_TIMEOUT", strconv.Itoa(int(spec.Timeout().Seconds())))
	vars = append(vars, s.ServerTLS...)
	vars = append(vars, spec.Variables...)
	public("CI_RUNNER_SHORT_TOKEN", s.ShortToken)
	if s.Account != nil {
		public("CI_SHARED_ENVIRONMENT", "true")
	} else {
		public("CI_DISPOSABLE_ENVIRONMENT", "true")
	}
	public("CI_RUNNER_VERSION", s.Version)
	public("CI_RUNNER_REVISION", s.Revision)
	public("CI_RUNNER_EXECUTABLE_ARCH", runtime.GOOS+"/"+runtime.GOARCH)
	public("RUNNER_TEMP_PROJECT_DIR", tempDir)
	public("GITLAB_ENV", envFile(tempDir))
	return vars.Expanded(func(key string) string { return path.Join(tempDir, key) })
}

// envFile is where a stage may write KEY=VALUE lines for the stages after it.
func envFile(tempDir string) string { return path.Join(tempDir, "gitlab_runner_env") }

// environ is the variables as the container's processes see them: of a file variable, its path.
func environ(vars job.Variables, tempDir string) []string {
	var out []string
	for _, v := range vars {
		if v.File {
			v.Value = path.Join(tempDir, v.Key)
		}
		out = append(out, v.Key+"="+v.Value)
	}
	return out
}

// What Linux takes in a process's environment: so long may one entry be (MAX_ARG_STRLEN without the final zero), and so
// much all of them, each with a pointer, with the stack of 8 MiB that an Engine gives.
const (
	longestEnv = 128<<10 - 1
	wholeEnv   = 2 << 20
	pointer    = 8
)

// fitsEnvironment says which variable no process can be started with. What the Engine says is no help.
func fitsEnvironment(env []string) error {
	all := 0
	for _, e := range env {
		if key, value, _ := strings.Cut(e, "="); len(e) > longestEnv {
			return configurationError("make it a file variable (type File)", "variable %s has %d bytes, too many for the environment", key, len(value))
		}
		all += len(e) + 1 + pointer
	}
	if all > wholeEnv {
		return configurationError("make the largest ones file variables (type File)", "the variables have %d bytes together, too many for the environment", all)
	}
	return nil
}

// proxySecrets are the passwords in the addresses of this process's proxies, as they stand there and as they are meant: jobs of the
// shell executor have them in their environment.
func proxySecrets() (out []string) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		address := os.Getenv(name)
		at := strings.LastIndex(address, "@")
		if at < 0 {
			continue
		}
		_, user, found := strings.Cut(address[:at], "://")
		if !found {
			user = address[:at]
		}
		_, password, _ := strings.Cut(user, ":")
		plain, err := url.PathUnescape(password)
		if err != nil {
			plain = password
		}
		if len(plain) >= shortestSecret {
			out = append(out, password, plain)
		}
	}
	return out
}

// shortestSecret is how long a value has to be that is masked without anybody having asked for it.
//
// GitLab: of masked variables.
const shortestSecret = 8
