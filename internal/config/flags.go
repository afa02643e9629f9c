package config

import "strconv"

// FeatureFlag resolves a feature flag (FF_…) of GitLab's runner for a job: [runners.feature_flags], else the job's
// variable, else GitLab's default. set says whether the job has the variable at all. Any name will do; one that
// nobody knows is off by default.
//
// GitLab: a job variable that is neither true nor false, the empty one too, counts for nothing.
func (r *Runner) FeatureFlag(name, jobValue string, set bool) bool {
	if on, ok := r.FeatureFlags[name]; ok {
		return on
	}
	if on, err := strconv.ParseBool(jobValue); set && err == nil {
		return on
	}
	return FlagByDefault(name)
}

// FlagByDefault says whether a feature flag is on where nobody sets it: it knows the flags that GitLab's runner 19.4 has on, of those that mean anything to container jobs.
func FlagByDefault(name string) bool {
	switch name {
	case "FF_TIMESTAMPS",
		"FF_MASK_ALL_DEFAULT_TOKENS",
		"FF_USE_ADAPTIVE_REQUEST_CONCURRENCY",
		"FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY",
		"FF_USE_DIRECT_DOWNLOAD",
		"FF_USE_FASTZIP",
		"FF_USE_GIT_BUNDLE_URIS",
		"FF_USE_GITALY_CORRELATION_ID",
		"FF_SECRET_RESOLVING_FAILS_IF_MISSING",
		"FF_ENABLE_JOB_INPUTS_INTERPOLATION":
		return true
	}
	return false
}
