package gitlab

import "runtime"

const programName = "slipway"

// Features is what a runner can do. GitLab gives it no job that needs more, and leaves out of a job's payload what
// the runner would not understand. Every key is always sent.
type Features struct {
	Variables               bool `json:"variables"`
	Image                   bool `json:"image"`
	Services                bool `json:"services"`
	Artifacts               bool `json:"artifacts"`
	Cache                   bool `json:"cache"`
	FallbackCacheKeys       bool `json:"fallback_cache_keys"`
	Shared                  bool `json:"shared"`
	UploadMultipleArtifacts bool `json:"upload_multiple_artifacts"`
	UploadRawArtifacts      bool `json:"upload_raw_artifacts"`
	Session                 bool `json:"session"`
	Terminal                bool `json:"terminal"`
	Refspecs                bool `json:"refspecs"`
	Masking                 bool `json:"masking"`
	Proxy                   bool `json:"proxy"`
	RawVariables            bool `json:"raw_variables"`
	ArtifactsExclude        bool `json:"artifacts_exclude"`
	MultiBuildSteps         bool `json:"multi_build_steps"`
	TraceReset              bool `json:"trace_reset"`
	TraceChecksum           bool `json:"trace_checksum"`
	TraceSize               bool `json:"trace_size"`
	VaultSecrets            bool `json:"vault_secrets"`
	Cancelable              bool `json:"cancelable"`
	ReturnExitCode          bool `json:"return_exit_code"`
	ServiceVariables        bool `json:"service_variables"`
	ServiceMultipleAliases  bool `json:"service_multiple_aliases"`
	ImageExecutorOpts       bool `json:"image_executor_opts"`
	ServiceExecutorOpts     bool `json:"service_executor_opts"`
	CancelGracefully        bool `json:"cancel_gracefully"`
	NativeStepsIntegration  bool `json:"native_steps_integration"`
	TwoPhaseJobCommit       bool `json:"two_phase_job_commit"`
	JobInputs               bool `json:"job_inputs"`
}

// protocolFeatures are those that need no executor.
func protocolFeatures() Features {
	return Features{
		TraceReset: true, TraceChecksum: true, TraceSize: true,
		Cancelable: true, CancelGracefully: true, TwoPhaseJobCommit: true,
	}
}

// DockerFeatures is what the docker executor can do.
func DockerFeatures() Features {
	f := protocolFeatures()
	f.Variables, f.RawVariables, f.Masking = true, true, true
	f.Image, f.ImageExecutorOpts = true, true
	f.Services, f.ServiceVariables, f.ServiceMultipleAliases, f.ServiceExecutorOpts = true, true, true, true
	f.Artifacts, f.UploadMultipleArtifacts, f.UploadRawArtifacts, f.ArtifactsExclude = true, true, true, true
	f.Cache, f.FallbackCacheKeys = true, true
	f.Refspecs, f.MultiBuildSteps = true, true
	f.ReturnExitCode = true
	return f
}

// ShellFeatures is what the shell executor can do.
func ShellFeatures() Features {
	f := DockerFeatures()
	f.Image, f.ImageExecutorOpts = false, false
	f.Services, f.ServiceVariables, f.ServiceMultipleAliases, f.ServiceExecutorOpts = false, false, false, false
	f.Shared = true
	return f
}

// info is how a runner describes itself.
type info struct {
	Name         string     `json:"name"`
	Version      string     `json:"version"`
	Revision     string     `json:"revision"`
	Platform     string     `json:"platform"`
	Architecture string     `json:"architecture"`
	Executor     string     `json:"executor,omitempty"`
	Shell        string     `json:"shell,omitempty"`
	Features     Features   `json:"features"`
	Config       infoConfig `json:"config"`
}

type infoConfig struct {
	GPUs string `json:"gpus"`
}

func newInfo(o Options) info {
	return info{
		Name: programName, Version: o.Version.Version, Revision: o.Version.Revision,
		Platform: runtime.GOOS, Architecture: runtime.GOARCH,
		Executor: o.Executor, Shell: o.Shell, Features: o.Features, Config: infoConfig{GPUs: o.GPUs},
	}
}

// withoutExecutor is the description of a runner that is yet to be set up.
func (i info) withoutExecutor() info {
	i.Executor, i.Shell, i.Features = "", "", protocolFeatures()
	return i
}
