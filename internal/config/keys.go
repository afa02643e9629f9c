package config

import "strings"

// Status says what becomes of a key that Slipway knows and does not act on.
type Status int

const (
	// Later: it may come; a warning where it is set.
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
	Why    string // what it belongs to, or why it is not needed
}

// Unimplemented lists every known key of config.toml that has no effect yet, or never will have one.
// All others that are known are fields of Config, Runner, Docker and Slipway.
func Unimplemented() []Setting {
	return []Setting{
		{"sentry_dsn", Never, "no errors are sent to third parties"},
		{"labels", Never, "job routing by label"},
		{"machine", Quiet, "autoscaling by Docker Machine"},
		{"experimental", Never, "usage logs for billing"},

		{"runners.pre_clone_script", Never, "GitLab renamed it to pre_get_sources_script"},
		{"runners.post_clone_script", Never, "GitLab renamed it to post_get_sources_script"},
		{"runners.clean_git_config", Moot, "every job gets a Git directory of its own, which is never used again"},
		{"runners.safe_directory_checkout", Moot, "safe.directory is set in the job's environment, for every user"},
		{"runners.cache.Insecure", Never, "GitLab moved it into [runners.cache.s3]"},
		{"runners.cache.gcs", Later, "caches on a server go by S3, which Google's storage speaks, too"},
		{"runners.cache.azure", Later, "caches on a server go by S3, which Azure's storage does not speak"},
		{"runners.monitoring", Never, "metrics of queueing times"},
		{"runners.proxy_exec", Never, "a wrapper for step runners"},
		{"runners.referees", Never, "metrics from Prometheus as artifacts"},
		{"runners.use_slot_cgroups", Never, "cgroups per slot; cgroup_parent works"},
		{"runners.slot_cgroup_template", Never, "cgroups per slot; cgroup_parent works"},
		{"runners.step_runner_image", Never, "CI steps"},
		{"runners.labels", Never, "job routing by label"},
		{"runners.feature_flags.FF_NETWORK_PER_BUILD", Moot, "a job with services always has a network of its own"},
		{"runners.ssh", Quiet, "another executor"},
		{"runners.parallels", Quiet, "another executor"},
		{"runners.virtualbox", Quiet, "another executor"},
		{"runners.machine", Quiet, "another executor"},
		{"runners.kubernetes", Quiet, "another executor"},
		{"runners.custom", Quiet, "another executor"},
		{"runners.autoscaler", Quiet, "another executor"},
		{"runners.instance", Quiet, "another executor"},

		{"runners.docker.service_slot_cgroup_template", Never, "cgroups per slot"},
		{"runners.docker.slot_cgroup_template", Never, "cgroups per slot; cgroup_parent works"},
		{"runners.docker.volume_keep", Never, "a job's anonymous volumes go with it"},
		{"runners.docker.log_options", Never, "the Engine's own log of a container"},
		{"runners.docker.isolation", Never, "Windows containers"},
		{"runners.docker.helper_image", Moot, "there is no helper container"},
		{"runners.docker.helper_image_flavor", Moot, "there is no helper container"},
		{"runners.docker.helper_image_autoset_arch_and_os", Moot, "there is no helper container"},

		{"runners.slipway.allowed_frontends", Later, "frontends of Dockerfiles (# syntax=)"},
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
