package config

import "strings"

// Status says what becomes of a key that Slipway knows and does not act on.
type Status int

const (
	// Later: a later step brings it; a warning where it is set.
	Later Status = iota
	// Never: not planned; a warning where it is set.
	Never
	// Moot: nothing is lost without it, because of how Slipway works; a note where it is set.
	Moot
	// Quiet: of no meaning by itself, or of an executor that we lack; nothing is said.
	Quiet
)

// Setting is a key of the file without effect.
type Setting struct {
	Key    string // runners.docker.services; a table stands for everything in it
	Status Status
	Step   int    // of Later: which step of the work brings it; 0 = none is planned yet
	Why    string // what it belongs to, or why it is not needed
}

// Unimplemented lists every known key of config.toml that has no effect yet, or never will have one.
// All others that are known are fields of Config, Runner, Docker and Slipway.
func Unimplemented() []Setting {
	return []Setting{
		{"sentry_dsn", Never, 0, "no errors are sent to third parties"},
		{"labels", Never, 0, "job routing by label"},
		{"machine", Quiet, 0, "autoscaling by Docker Machine"},
		{"experimental", Never, 0, "usage logs for billing"},

		{"runners.pre_get_sources_script", Never, 0, "slipway fetches the sources itself, before anything runs in the job's container"},
		{"runners.pre_clone_script", Never, 0, "GitLab renamed it to pre_get_sources_script"},
		{"runners.post_clone_script", Never, 0, "GitLab renamed it to post_get_sources_script"},
		{"runners.clean_git_config", Moot, 0, "every job gets a Git directory of its own, which is never used again"},
		{"runners.safe_directory_checkout", Moot, 0, "safe.directory is set in the job's environment, for every user"},
		{"runners.cache.Insecure", Never, 0, "GitLab moved it into [runners.cache.s3]"},
		{"runners.cache.gcs", Quiet, 0, "means nothing without Type = \"gcs\""},
		{"runners.cache.azure", Quiet, 0, "means nothing without Type = \"azure\""},
		{"runners.monitoring", Never, 0, "metrics of queueing times"},
		{"runners.experimental", Never, 0, "a synthetic job at the start"},
		{"runners.proxy_exec", Never, 0, "a wrapper for step runners"},
		{"runners.referees", Never, 0, "metrics from Prometheus as artifacts"},
		{"runners.use_slot_cgroups", Never, 0, "cgroups per slot; cgroup_parent works"},
		{"runners.slot_cgroup_template", Never, 0, "cgroups per slot; cgroup_parent works"},
		{"runners.step_runner_image", Never, 0, "CI steps"},
		{"runners.labels", Never, 0, "job routing by label"},
		{"runners.feature_flags.FF_NETWORK_PER_BUILD", Moot, 0, "a job with services always has a network of its own"},
		{"runners.ssh", Quiet, 0, "another executor"},
		{"runners.parallels", Quiet, 0, "another executor"},
		{"runners.virtualbox", Quiet, 0, "another executor"},
		{"runners.machine", Quiet, 0, "another executor"},
		{"runners.kubernetes", Quiet, 0, "another executor"},
		{"runners.custom", Quiet, 0, "another executor"},
		{"runners.autoscaler", Quiet, 0, "another executor"},
		{"runners.instance", Quiet, 0, "another executor"},

		{"runners.docker.service_slot_cgroup_template", Never, 0, "cgroups per slot"},
		{"runners.docker.slot_cgroup_template", Never, 0, "cgroups per slot; cgroup_parent works"},
		{"runners.docker.volume_keep", Never, 0, "a job's anonymous volumes go with it"},
		{"runners.docker.log_options", Never, 0, "the Engine's own log of a container"},
		{"runners.docker.isolation", Never, 0, "Windows containers"},
		{"runners.docker.helper_image", Moot, 0, "there is no helper container"},
		{"runners.docker.helper_image_flavor", Moot, 0, "there is no helper container"},
		{"runners.docker.helper_image_autoset_arch_and_os", Moot, 0, "there is no helper container"},

		{"runners.slipway.allowed_frontends", Later, 4, "frontends of Dockerfiles (# syntax=)"},
	}
}

// setting finds the entry that covers a key, and whether the key only leads to entries below it.
func setting(all []Setting, key string) (s Setting, found, above bool) {
	for _, s := range all {
		if strings.EqualFold(s.Key, key) {
			return s, true, false
		}
		if len(s.Key) > len(key) && s.Key[len(key)] == '.' && strings.EqualFold(s.Key[:len(key)], key) {
			above = true
		}
	}
	return Setting{}, false, above
}
