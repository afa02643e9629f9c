package config

import "time"

// Runner is one [[runners]] table. The fields stand in the order in which GitLab's runner writes them.
type Runner struct {
	// Pos is where the [[runners]] line stands.
	Pos Position `toml:"-"`
	// Unsupported says why no job can run here: an executor or a shell that we lack. Such a runner is to be skipped;
	// only its name, address and token have been checked for their types, its [runners.docker] not at all.
	Unsupported string `toml:"-"`

	Name                           string        `toml:"name"`
	Limit                          int           `toml:"limit,omitzero"`                               // most jobs at once; 0 = no limit of its own
	OutputLimit                    int           `toml:"output_limit,omitzero"`                        // of a job's log, in KiB; 4096 by default
	RequestConcurrency             int           `toml:"request_concurrency,omitzero"`                 // most job requests at once; at least 1
	StrictCheckInterval            bool          `toml:"strict_check_interval,omitempty"`              // wait the interval after a job was received, too
	UnhealthyRequestsLimit         int           `toml:"unhealthy_requests_limit,omitzero"`            // refusals in a row until the runner pauses; 3 by default
	UnhealthyInterval              time.Duration `toml:"unhealthy_interval,omitzero"`                  // how long it pauses; 1 h by default
	JobStatusFinalUpdateRetryLimit int           `toml:"job_status_final_update_retry_limit,omitzero"` // tries of a job's last update; 10 by default

	URL             string    `toml:"url"` // of the GitLab server; variables of the environment are expanded
	ID              int64     `toml:"id"`  // on the server; 0 = unknown
	Token           Secret    `toml:"token"`
	TokenObtainedAt time.Time `toml:"token_obtained_at"`
	TokenExpiresAt  time.Time `toml:"token_expires_at"` // zero = never
	TLSCAFile       string    `toml:"tls-ca-file,omitempty"`
	TLSCertFile     string    `toml:"tls-cert-file,omitempty"`
	TLSKeyFile      string    `toml:"tls-key-file,omitempty"`

	Executor           string          `toml:"executor"`
	BuildsDir          string          `toml:"builds_dir,omitempty"`  // inside the container, /builds by default; with the shell executor a folder of the machine, "" = beside the state folder
	CacheDir           string          `toml:"cache_dir,omitempty"`   // inside the container; /cache by default
	CloneURL           string          `toml:"clone_url,omitempty"`   // base of the Git remote in place of the payload's
	Environment        []string        `toml:"environment,omitempty"` // KEY=value; below the job's own variables
	PreGetSources      string          `toml:"pre_get_sources_script,omitempty"`
	PostGetSources     string          `toml:"post_get_sources_script,omitempty"`
	PreBuildScript     string          `toml:"pre_build_script,omitempty"`
	PostBuildScript    string          `toml:"post_build_script,omitempty"`
	DebugTraceDisabled bool            `toml:"debug_trace_disabled,omitempty"` // CI_DEBUG_TRACE and CI_DEBUG_SERVICES count for nothing
	PrepareTimeout     time.Duration   `toml:"prepare_timeout,omitzero"`       // 0 = the job's
	GetSourcesTimeout  time.Duration   `toml:"get_sources_timeout,omitzero"`   // 0 = the job's
	Shell              string          `toml:"shell,omitempty"`                // bash or sh; "" = bash, else sh, whatever the image has
	FeatureFlags       map[string]bool `toml:"feature_flags,omitempty"`        // see FeatureFlag

	CustomBuildDir CustomBuildDir `toml:"custom_build_dir,omitempty"`

	Cache    RunnerCache    `toml:"cache,omitempty"`
	Artifact RunnerArtifact `toml:"artifact,omitempty"`

	Experimental RunnerExperimental `toml:"experimental,omitempty"`

	Docker  *Docker       `toml:"docker,omitempty"` // never nil if Unsupported is empty
	Slipway RunnerSlipway `toml:"slipway,omitempty"`
}

// CustomBuildDir is [runners.custom_build_dir].
type CustomBuildDir struct {
	Enabled *bool `toml:"enabled,omitempty"` // jobs may set GIT_CLONE_PATH; nil = in containers only
}

// RunnerExperimental is [runners.experimental].
type RunnerExperimental struct {
	BootVerify BootVerify `toml:"boot_verify,omitempty"`
}

// BootVerify is [runners.experimental.boot_verify]: a job of our own that must succeed before jobs are asked for.
type BootVerify struct {
	Enabled           bool          `toml:"enabled,omitempty"`
	Timeout           time.Duration `toml:"timeout,omitzero"`             // of one try, and until it is an error that none succeeded; 5 min by default
	AcquireMinBackoff time.Duration `toml:"acquire_min_backoff,omitzero"` // from one try to the next, which doubles each time; 1 s by default
	AcquireMaxBackoff time.Duration `toml:"acquire_max_backoff,omitzero"` // the longest of them; 10 s by default
}

// RunnerArtifact is [runners.artifact].
type RunnerArtifact struct {
	UploadTimeout         time.Duration `toml:"upload_timeout,omitzero"`          // of one try; 1 h by default
	ResponseHeaderTimeout time.Duration `toml:"response_header_timeout,omitzero"` // until the server begins to answer; 10 min by default
}

// RunnerSlipway is [runners.slipway], the settings of ours for one runner.
type RunnerSlipway struct {
	// Socket says what becomes of a volume that is the Engine's socket; SocketGuarded by default.
	Socket string `toml:"socket,omitempty"`
	// SocketPolicy says what the guard does with what it does not allow; PolicyEnforce by default.
	SocketPolicy string `toml:"socket_policy,omitempty"`
	// TrustConfig gives containers with a guarded socket also those keys of [runners.docker] that undo the guard.
	TrustConfig bool `toml:"trust_config,omitempty"`
	// CacheScope says which jobs share a build cache and local image names; ScopeProject by default.
	CacheScope string `toml:"cache_scope,omitempty"`
	// Dind says what becomes of a service that is a Docker-in-Docker; DindWarm by default.
	Dind string `toml:"dind,omitempty"`
	// DindImages are images that are a Docker-in-Docker, beside Docker's own: globs as in allowed_images.
	DindImages []string `toml:"dind_images,omitempty"`
	// BuildSecrets says what the guard does when a masked variable's value is about to be part of an image; SecretsWarn by
	// default.
	BuildSecrets string `toml:"build_secrets,omitempty"`
	// AllowedProjects are the only ones whose jobs run: globs of full paths, such as group/**; none = all.
	AllowedProjects []string `toml:"allowed_projects,omitempty"`
	// ProtectedOnly lets only jobs of protected refs run.
	ProtectedOnly bool `toml:"protected_only,omitempty"`
	// GitDir says where the Git directory of a job lies; GitDirInside by default.
	GitDir string `toml:"git_dir,omitempty"`
	// AllowedRegistries are the only ones, beside the job's own, that a guarded job may use: host[:port], *.example.com.
	AllowedRegistries []string `toml:"allowed_registries,omitempty"`
	// Limits of what one job may make through a guarded socket.
	Limits Limits `toml:"limits,omitempty"`
}

// Limits is [runners.slipway.limits]. Zero values leave the guard's defaults.
type Limits struct {
	Containers int      `toml:"containers,omitzero"`
	Networks   int      `toml:"networks,omitzero"`
	Volumes    int      `toml:"volumes,omitzero"`
	Execs      int      `toml:"execs,omitzero"`  // at work at once
	Builds     int      `toml:"builds,omitzero"` // at work at once
	Memory     Bytes    `toml:"memory,omitzero"` // per container; memory of [runners.docker] by default
	CPUs       NanoCPUs `toml:"cpus,omitzero"`   // per container; cpus of [runners.docker] by default
	PIDs       int64    `toml:"pids,omitzero"`   // per container
	ShmSize    Bytes    `toml:"shm_size,omitzero"`
	Tmpfs      Bytes    `toml:"tmpfs,omitzero"` // per mount
}

// What a job gets where a volume names the Engine's socket.
const (
	SocketGuarded = "guarded" // a socket of the job's own, on which it sees and touches only what it made
	SocketRaw     = "raw"     // the Engine's own socket: whoever runs a job owns the machine
	SocketOff     = "off"     // nothing
)

// What the guard does with what it does not allow.
const (
	PolicyEnforce = "enforce" // refuse it
	PolicyAudit   = "audit"   // log it and let it pass
)

// What becomes of a service that is a Docker-in-Docker.
const (
	DindWarm  = "warm"  // the job's guarded socket takes its place
	DindStart = "start" // it is started as it is written
)

// What the guard does when a secret is about to be part of an image.
const (
	SecretsWarn = "warn" // tell the job's author
	SecretsDeny = "deny" // refuse it
	SecretsOff  = "off"  // not look
)

// Where the Git directory of a job lies.
const (
	GitDirInside  = "inside"  // a folder in the project
	GitDirOutside = "outside" // beside the project, in which .git is a file that leads there
)

// Who shares a build cache.
const (
	ScopeProject   = "project"   // the jobs of a project
	ScopeProtected = "protected" // the same, those of protected refs apart
	ScopeRunner    = "runner"    // all jobs
)
