package executor

import (
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/guard"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/ledger"
)

// Settings are what an operator decided for the jobs of one [[runners]] entry, defaults filled in.
type Settings struct {
	Version, Revision string // of Slipway
	UserAgent         string // for Git

	// Who the runner is.
	ServerURL  string // of GitLab
	RunnerID   int64
	RunnerName string
	ShortToken string
	SystemID   string

	// Who the process is, for labels. See Sweep.
	Instance       string
	StateDir       string
	Ephemeral      bool                  // networks and volumes may be removed with the instance
	Network        string                // the bridge that jobs share
	NetworkOptions docker.NetworkOptions // of the networks of jobs with services; the shared one has its MTU

	// Whose jobs run.
	AllowedProjects []string // globs of full paths; empty = all
	ProtectedOnly   bool     // only jobs of protected refs

	// Account is whom jobs run as on this machine, without a container; nil = they run in one, and what follows says in which.
	Account *Account

	// What jobs run in. Container is the part of docker.Container that the configuration decides.
	Container                  docker.Container
	Image                      string
	AllowedImages              []string // globs; empty = all
	PullPolicies               []string // tried in this order
	AllowedPullPolicies        []string // what image:pull_policy may name; empty = PullPolicies
	User                       string
	AllowedUsers               []string // what image:docker:user may name; empty = all, or User alone if that is set
	AllowedPrivilegedImages    []string // globs; empty = all
	DisableEntrypointOverwrite bool
	ContainerLabels            map[string]string

	// Where things lie.
	BuildsDir, CacheDir string // in the container; without one, BuildsDir is on the host
	Volumes             []string
	DisableCache        bool // /path volumes end with the job; nor are caches kept that are only on this machine
	Cache               CacheSettings
	FixedDir            bool   // jobs may not choose their folder by GIT_CLONE_PATH
	VolumeHostDir       string // [runners.docker] cache_dir: /path volumes become folders here
	EngineSocket        string // path on the host
	Socket              string // what a volume that is the Engine's socket gives: guarded, raw or off
	Guard               GuardSettings
	Services            ServiceSettings
	Dind                string   // what becomes of a service that is a Docker-in-Docker: warm or start
	DindImages          []string // globs of images that are one, beside Docker's own

	Environment         []string // KEY=value
	Shell               string   // "sh" leaves bash out
	CloneURL            string
	CAFile              string        // for Git
	GitOutside          bool          // the job's .git is a file that leads to a folder outside of the project
	ServerTLS           job.Variables // the certificates that GitLab is reached with
	PreBuild, PostBuild string        // administrators' commands around the script
	PreGetSources       string        // before the sources are fetched
	PostGetSources      string        // and after they are there

	PrepareTimeout, GetSourcesTimeout time.Duration // 0 = the job's
	StopGrace                         time.Duration // from TERM to KILL
	OutputLimit                       int64         // bytes of job output
	FinalTries                        int           // of the final update
	DebugTraceDisabled                bool
	FeatureFlag                       func(name, jobValue string, set bool) bool
	FlagByDefault                     func(name string) bool // what it is where nobody sets it
}

// What a volume that is the Engine's socket gives.
const (
	socketGuarded = "guarded" // a socket of the job's own
	socketRaw     = "raw"     // the Engine's own
	socketOff     = "off"     // nothing
)

// GuardSettings are what an operator decided for the sockets of jobs, and what the machine is like.
type GuardSettings struct {
	Dir               string         // one folder in it per job; short, because the path of a socket has an end
	Ledger            *ledger.Ledger // whose the Engine's images are
	Builds            string         // where the last builds of projects are remembered, a folder for each; "" = nowhere
	Audit             bool
	TrustConfig       bool   // also give containers what undoes the guard
	CacheScope        string // project, protected or runner
	AllowedRegistries []string
	Limits            guard.Limits
	Secrets           string // what the guard does with masked values that get into images: warn, deny or off
	NoPorts           bool   // this process cannot enter a container's network namespace
	Machine           docker.Machine
}

// DefaultStopGrace is how long a canceled script may take to end.
//
// GitLab: ten seconds, then the container is stopped.
const DefaultStopGrace = 10 * time.Second
