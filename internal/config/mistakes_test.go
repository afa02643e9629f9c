package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ok is a runner without a fault; five lines.
const imageGlobs = ` (write it like "ruby:*", "registry.example.com/group/**" or "!docker:*")`

const ok = `[[runners]]
url = "https://gitlab.example.com"
token = "glrt-secret"
executor = "docker"
docker.image = "alpine"
`

// mistakes: what is said of each, errors first, then warnings; notes are marked.
var mistakes = []struct {
	name, src string
	errs      []string
	warnings  []string
}{
	{name: "nothing wrong", src: ok},

	// TOML
	{
		name: "no equals sign", src: "\nconcurrent 4\n",
		errs: []string{"f:2: no = after the key (write key = value)"},
	},
	{
		name: "text without quotes", src: "[[runners]]\n  token = glrt-secret\n",
		errs: []string{`f:2: runners.token: is no TOML value (put text in quotes: token = "…")`},
	},
	{
		name: "text without quotes that begins with a number", src: "[[runners]]\ntoken = 12secret\n",
		errs: []string{`f:2: runners: more text after the value (put text in quotes: key = "…")`},
	},
	{
		name: "open string", src: "a = 1\nlog_level = \"info\n",
		errs: []string{"f:2: log_level: the string does not end on its line (close the quotes)"},
	},
	{
		name: "twice", src: "concurrent = 1\n\nconcurrent = 2\n",
		errs: []string{"f:3: concurrent: Key 'concurrent' has already been defined (remove one of the two)"},
	},
	{
		name: "one bracket missing", src: "[[runners]\n",
		errs: []string{"f:1: the table's name does not end in its brackets (a table is written [name], a runner [[runners]])"},
	},
	{
		name: "table and list of tables", src: "[runners]\n[[runners]]\n",
		errs: []string{"f:2: Key 'runners' was already created and cannot be used as an array (remove one of the two)"},
	},
	{
		name: "not text", src: "a = \"\xff\"\n",
		errs: []string{"f:1: a: invalid UTF-8 byte: 0xff (save the file as UTF-8 text)"},
	},
	{
		name: "number too large", src: "concurrent = 99999999999999999999\n",
		errs: []string{"f:1: concurrent: the number is too large (write a smaller one)"},
	},
	{
		name: "quoted piece of a secret", src: "token = 0xsecret\n",
		errs: []string{"f:1: token: not a hexadecimal number: … (see https://toml.io for the rules)"},
	},

	// types
	{
		name: "string for a number", src: "concurrent = \"4\"\n",
		errs: []string{`f:1: concurrent: is the string "4", must be a whole number (write concurrent = 4, without quotes)`},
	},
	{
		name: "a point in a number", src: "concurrent = 4.0\ncheck_interval = 2.5\n",
		errs: []string{
			"f:1: concurrent: is the number 4.0, must be a whole number (write concurrent = 4)",
			"f:2: check_interval: is the number 2.5, must be a whole number (write check_interval = 1)",
		},
	},
	{
		name: "words for a number", src: "concurrent = \"four\"\n",
		errs: []string{`f:1: concurrent: is a string, must be a whole number (write concurrent = 1)`},
	},
	{
		name: "string for a truth", src: ok + "docker.privileged = \"true\"\n",
		errs: []string{`f:6: runners.docker.privileged: is the string "true", must be true or false (write privileged = true, without quotes)`},
	},
	{
		name: "number for a truth", src: ok + "docker.privileged = 1\n",
		errs: []string{`f:6: runners.docker.privileged: is the number 1, must be true or false (write privileged = true or privileged = false)`},
	},
	{
		name: "number for a string", src: ok + "name = 7\n",
		errs: []string{`f:6: runners.name: is the number 7, must be a string (write name = "7")`},
	},
	{
		name: "secrets stay secret", src: "[[runners]]\nurl = \"https://x\"\nexecutor = \"docker\"\ndocker.image = \"i\"\ntoken = 12345678\nenvironment = \"K=secret\"\nid = \"secret\"\n",
		errs: []string{
			`f:5: runners.token: is a number, must be a string (write token = "…")`,
			`f:6: runners.environment: is a string, must be a list of strings (write environment = ["…"])`,
			`f:7: runners.id: is a string, must be a whole number (write id = 1)`,
		},
	},
	{
		name: "string for a list", src: ok + "docker.volumes = \"/cache\"\n",
		errs: []string{`f:6: runners.docker.volumes: is a string, must be a list of strings (write volumes = ["…"])`},
	},
	{
		name: "element of a list", src: ok + "environment = [\n  \"A=1\",\n  5,\n]\n",
		errs: []string{`f:8: runners.environment: its element 2 is the number 5, must be a string (write environment = ["…"])`},
	},
	{
		name: "value of a table of strings", src: ok + "[runners.docker.sysctls]\n\"net.ipv4.ip_forward\" = 1\n",
		errs: []string{`f:7: runners.docker.sysctls."net.ipv4.ip_forward": is the number 1, must be a string (write "net.ipv4.ip_forward" = "1")`},
	},
	{
		name: "feature flag in quotes", src: ok + "[runners.feature_flags]\nFF_TIMESTAMPS = \"false\"\n",
		errs: []string{`f:7: runners.feature_flags.FF_TIMESTAMPS: is the string "false", must be true or false (write FF_TIMESTAMPS = false, without quotes)`},
	},
	{
		name: "feature flags are no table", src: ok + "feature_flags = true\n",
		errs: []string{`f:6: runners.feature_flags: is true, must be a table of true and false (write [runners.feature_flags] with the values below it)`},
	},
	{
		name: "duration without unit", src: "connection_max_age = 900\n",
		errs: []string{`f:1: connection_max_age: is the number 900, must be a duration in a string, such as "30m" (write connection_max_age = "15m")`},
	},
	{
		name: "duration of nonsense", src: ok + "unhealthy_interval = \"soon\"\n",
		errs: []string{`f:6: runners.unhealthy_interval: is a string, must be a duration in a string, such as "30m" (write unhealthy_interval = "15m")`},
	},
	{
		name: "date of nonsense", src: ok + "token_expires_at = \"never\"\n",
		errs: []string{`f:6: runners.token_expires_at: is a string, must be a date and time (write token_expires_at = 2026-01-31T12:00:00Z)`},
	},
	{
		name: "sizes", src: ok + "docker.memory = 1024\ndocker.memory_swap = \"lots\"\ndocker.memory_reservation = \"-1\"\ndocker.shm_size = \"64m\"\n",
		errs: []string{
			`f:6: runners.docker.memory: is the number 1024, must be a size in a string, such as "512m" (write memory = "1024m", with the unit that is meant)`,
			`f:7: runners.docker.memory_swap: "lots" is not a size (write memory_swap = "512m")`,
			"f:8: runners.docker.memory_reservation: a size cannot be less than nothing (leave it out for the Engine's default)",
			`f:9: runners.docker.shm_size: is a string, must be a whole number (write shm_size = 67108864, in bytes)`,
		},
	},
	{
		name: "negative sizes", src: ok + "docker.memory = \"-1\"\ndocker.memory_reservation = \"-1\"\ndocker.shm_size = -1\n",
		errs: []string{
			`f:6: runners.docker.memory: a size cannot be less than nothing (leave it out for the Engine's default)`,
			`f:7: runners.docker.memory_reservation: a size cannot be less than nothing (leave it out for the Engine's default)`,
			`f:8: runners.docker.shm_size: a size cannot be less than nothing (leave it out for the Engine's default)`,
		},
	},
	{
		name: "cpus as a number", src: ok + "docker.cpus = 2\n",
		errs: []string{`f:6: runners.docker.cpus: is the number 2, must be a number of CPUs in a string, such as "1.5" (write cpus = "2")`},
	},
	{
		name: "cpus too precise", src: ok + "docker.cpus = \"0.0000000001\"\n",
		errs: []string{`f:6: runners.docker.cpus: "0.0000000001" CPUs are too precise or too many (write cpus = "1.5")`},
	},
	{
		name: "pull policy is a number", src: ok + "docker.pull_policy = 1\n",
		errs: []string{`f:6: runners.docker.pull_policy: is the number 1, must be a string or a list of strings (write pull_policy = ["…"])`},
	},
	{
		name: "runners with one bracket", src: "[runners]\n  url = \"https://x\"\n",
		errs: []string{"f:1: runners: is a table, must be a list of tables (write [[runners]], with two brackets on each side)"},
		warnings: []string{
			`f:1: runners.executor: no executor is named: this [[runners]] is skipped` + unknownHint,
			`f:1: runners.token: ` + noToken,
		},
	},
	{
		name: "docker with two brackets", src: "[[runners]]\nurl = \"https://x\"\ntoken = \"t\"\nexecutor = \"docker\"\n[[runners.docker]]\n",
		errs: []string{
			"f:5: runners.docker: is a list of tables, must be a table (write [runners.docker])",
			`f:5: runners.docker.image: is missing (write image = "alpine:latest", or another, below [runners.docker]: jobs that name no image run in it)`,
		},
	},
	{
		name: "the second of two runners", src: ok + "\n" + ok + "limit = \"2\"\n",
		errs: []string{`f:12: runners.limit: is the string "2", must be a whole number (write limit = 2, without quotes)`},
	},

	// meaning
	{
		name: "concurrent", src: "# c\nconcurrent = 0\n",
		errs: []string{"f:2: concurrent: 0 would let no job run (write concurrent = 1 or more)"},
	},
	{
		name: "log", src: "log_level = \"loud\"\nlog_format = \"xml\"\n",
		errs: []string{
			`f:1: log_level: "loud" is not known (write trace, debug, info, warn, warning, error, fatal or panic)`,
			`f:2: log_format: "xml" is not known (write runner, text or json)`,
		},
	},
	{name: "log level in capitals", src: "log_level = \"TRACE\"\n" + ok},
	{
		name: "devices of services", src: ok + "docker.services_devices = [\"/dev/kvm\"]\n",
		errs: []string{"f:6: runners.docker.services_devices: is a list, must be a table of lists of strings (write [runners.docker.services_devices] with the values below it)"},
	},
	{
		name: "device of services", src: ok + "[runners.docker.services_devices]\n\"a:*\" = \"/dev/kvm\"\n\"b\" = [1]\n",
		errs: []string{
			`f:7: runners.docker.services_devices."a:*": is a string, must be a list of strings (write "a:*" = ["…"])`,
			"f:8: runners.docker.services_devices.b: its element 1 is the number 1, must be a string (write b = [\"…\"])",
		},
	},
	{
		name: "pattern of services with devices", src: ok + "docker.services_devices.\"[a\" = [\"/dev/kvm\"]\n",
		errs: []string{`f:6: runners.docker.services_devices."[a": "[a" is no pattern for images (write it like "emulator:*" = ["/dev/kvm"])`},
	},
	{
		name: "state_dir", src: "[slipway]\nstate_dir = \"state\"\n",
		errs: []string{`f:2: slipway.state_dir: "state" is not an absolute path (write a path that begins with /)`},
	},
	{
		name: "everything missing", src: "\n[[runners]]\n  executor = \"docker\"\n",
		errs: []string{
			`f:2: runners.docker.image: is missing (write image = "alpine:latest", or another, below [runners.docker]: jobs that name no image run in it)`,
			`f:2: runners.token: is missing (take it from the runner's page in GitLab, or let slipway register write it)`,
			`f:2: runners.url: is missing (write the address of the GitLab server, such as url = "https://gitlab.example.com")`,
		},
	},
	{
		name: "empty image", src: "[[runners]]\nurl = \"https://x\"\ntoken = \"t\"\nexecutor = \"docker\"\n[runners.docker]\nprivileged = true\n",
		errs: []string{
			`f:5: runners.docker.image: is missing (write image = "alpine:latest", or another, below [runners.docker]: jobs that name no image run in it)`,
		},
	},
	{
		name: "unset variables", src: "[[runners]]\nurl = \"$NO_URL\"\ntoken = \"${NO_TOKEN}\"\nexecutor = \"docker\"\ndocker.image = \"i\"\n",
		errs: []string{
			"f:2: runners.url: $NO_URL is not set in the environment (set it where slipway is started)",
			"f:3: runners.token: $NO_TOKEN is not set in the environment (set it where slipway is started)",
		},
	},
	{
		name: "url without scheme", src: "[[runners]]\nurl = \"gitlab.example.com\"\ntoken = \"t\"\nexecutor = \"docker\"\ndocker.image = \"i\"\n",
		errs: []string{`f:2: runners.url: "gitlab.example.com" does not begin with https:// or http:// (write the address of the GitLab server, such as url = "https://gitlab.example.com")`},
	},
	{
		name: "url without host", src: "[[runners]]\nurl = \"https://\"\ntoken = \"t\"\nexecutor = \"docker\"\ndocker.image = \"i\"\n",
		errs: []string{`f:2: runners.url: "https:" names no host (write the address of the GitLab server, such as url = "https://gitlab.example.com")`},
	},
	{
		name: "url of nonsense, with a password", src: "[[runners]]\nurl = \"https://user:secret@x:port\"\ntoken = \"t\"\nexecutor = \"docker\"\ndocker.image = \"i\"\n",
		errs: []string{`f:2: runners.url: is no address: invalid port ":port" after host (write the address of the GitLab server, such as url = "https://gitlab.example.com")`},
	},
	{
		name: "url of the API", src: urls("https://gitlab.example.com/api/v4/", "https://me:secret@example.com/gitlab/api/v4", "https://example.com/api/gitlab", "https://example.com/api/v4/runners/verify?token=x"),
		errs: []string{
			`f:2: runners.url: "https://gitlab.example.com/api/v4/" is a page of the GitLab server, not its address: /api/v4 is too much (write url = "https://gitlab.example.com")`,
			`f:7: runners.url: "https://example.com/gitlab/api/v4" is a page of the GitLab server, not its address: /api/v4 is too much (write url = "https://example.com/gitlab")`,
			`f:17: runners.url: "https://example.com/api/v4/runners/verify" is a page of the GitLab server, not its address: /api/v4/runners/verify is too much (write url = "https://example.com")`,
		},
	},
	{
		name: "url of a page", src: urls("https://gitlab.example.com/group/app/-/settings/ci_cd#runners", "https://example.com/gitlab/admin/runners"),
		errs: []string{
			`f:2: runners.url: "https://gitlab.example.com/group/app/-/settings/ci_cd" is a page of the GitLab server, not its address (write url = "https://gitlab.example.com", and behind it the path at which the whole GitLab lives, if it has one)`,
			`f:7: runners.url: "https://example.com/gitlab/admin/runners" is a page of the GitLab server, not its address: /admin/runners is too much (write url = "https://example.com/gitlab")`,
		},
	},
	{
		name: "url of GitLab CI", src: urls("https://gitlab.example.com/ci", "https://example.com/gitlab/ci/", "https://example.com/gitlab/", "https://example.com/apis"),
		warnings: []string{
			`f:2: runners.url: "https://gitlab.example.com/ci" is not the address of the GitLab server: /ci is left out (write url = "https://gitlab.example.com")`,
			`f:7: runners.url: "https://example.com/gitlab/ci/" is not the address of the GitLab server: /ci is left out (write url = "https://example.com/gitlab")`,
		},
	},
	{
		name: "check at the start", src: ok + "[runners.experimental.boot_verify]\nenabled = true\nacquire_min_backoff = \"1m\"\n",
	},
	{
		name: "check at the start with short pauses", src: ok + "[runners.experimental.boot_verify]\nenabled = true\nacquire_max_backoff = \"500ms\"\n",
	},
	{
		name: "no check at the start", src: ok + "[runners.experimental.boot_verify]\nenabled = false\nacquire_min_backoff = \"1m\"\nacquire_max_backoff = \"1s\"\n",
	},
	{
		name: "check at the start of nonsense", src: ok + "[runners.experimental.boot_verify]\nenabled = \"yes\"\ntimeout = 5\nacquire_min_backoff = \"1m\"\nacquire_max_backoff = \"1s\"\nretries = 5\n",
		errs: []string{
			`f:7: runners.experimental.boot_verify.enabled: is a string, must be true or false (write enabled = true or enabled = false)`,
			`f:8: runners.experimental.boot_verify.timeout: is the number 5, must be a duration in a string, such as "30m" (write timeout = "15m")`,
			`f:10: runners.experimental.boot_verify.acquire_max_backoff: 1s is less than acquire_min_backoff (write the larger one here)`,
		},
		warnings: []string{"f:11: runners.experimental.boot_verify.retries: unknown key, ignored"},
	},
	{
		name: "builds_dir", src: ok + "builds_dir = \"builds\"\n",
		errs: []string{`f:6: runners.builds_dir: "builds" is not an absolute path below / (write a path inside the container, such as "/builds")`},
	},
	{
		name: "builds_dir is the root", src: ok + "builds_dir = \"/x/..\"\n",
		errs: []string{`f:6: runners.builds_dir: "/x/.." is not an absolute path below / (write a path inside the container, such as "/builds")`},
	},
	{
		name: "pull policy", src: ok + "docker.pull_policy = [\"always\", \"sometimes\"]\ndocker.allowed_pull_policies = [\"always\", \"now\"]\n",
		errs: []string{
			`f:6: runners.docker.pull_policy: "sometimes" is not known (write always, if-not-present or never)`,
			`f:7: runners.docker.allowed_pull_policies: "now" is not known (write always, if-not-present or never)`,
		},
	},
	{
		name: "pull policies that exclude each other", src: ok + "docker.pull_policy = \"never\"\ndocker.allowed_pull_policies = \"always\"\n",
		warnings: []string{"f:7: runners.docker.allowed_pull_policies: allows none of pull_policy: jobs that name no policy of their own fail (add one of pull_policy)"},
	},
	{
		name: "dns", src: ok + "docker.dns = [\n\"192.0.2.1\",\n\"ns.example.com\"]\n",
		errs: []string{`f:8: runners.docker.dns: "ns.example.com" is not an IP address (write dns = ["192.0.2.53"])`},
	},
	{
		name: "ulimit", src: ok + "[runners.docker.ulimit]\nnofile = \"many\"\nnproc = \"1:x\"\ncore = \"a:b\"\n",
		errs: []string{
			`f:7: runners.docker.ulimit.nofile: soft limit "many" is not a number (nofile = "1024:2048", soft and hard limit, or "1024" for both)`,
			`f:8: runners.docker.ulimit.nproc: hard limit "x" is not a number (nproc = "1024:2048", soft and hard limit, or "1024" for both)`,
			`f:9: runners.docker.ulimit.core: soft limit "a" and hard limit "b" are not numbers (core = "1024:2048", soft and hard limit, or "1024" for both)`,
		},
	},
	{
		name: "guarded socket", src: ok + "[runners.slipway]\nsocket = \"guarded\"\nsocket_policy = \"audit\"\ntrust_config = true\ncache_scope = \"protected\"\n" +
			"allowed_registries = [\"registry.example.com:5050\", \"*.example.com\", \"[::1]:5000\"]\nlimits.containers = 5\nlimits.memory = \"2g\"\nlimits.cpus = \"1.5\"\n",
	},
	{
		name: "guard of nonsense", src: ok + "[runners.slipway]\nsocket_policy = \"log\"\ncache_scope = \"group\"\nallowed_registries = [\"a.example\",\n\"https://b.example\"]\n[runners.slipway.limits]\nbuilds = -1\nmemory = 5\nmany = 1\n",
		errs: []string{
			`f:7: runners.slipway.socket_policy: "log" is not known (write enforce or audit)`,
			`f:8: runners.slipway.cache_scope: "group" is not known (write project, protected or runner)`,
			`f:10: runners.slipway.allowed_registries: "https://b.example" is not the host of a registry, with its port if it has one (write allowed_registries = ["registry.example.com:5050", "*.example.com"])`,
			"f:12: runners.slipway.limits.builds: a limit cannot be less than nothing (leave it out for the default)",
			`f:13: runners.slipway.limits.memory: is the number 5, must be a size in a string, such as "512m" (write memory = "5m", with the unit that is meant)`,
		},
		warnings: []string{"f:14: runners.slipway.limits.many: unknown key, ignored"},
	},
	{
		name: "values of the guard", src: ok + "[runners.slipway]\nsocket_policy = \"log\"\ncache_scope = \"group\"\nallowed_registries = [\"a.example\",\n\"https://b.example\"]\ndind = \"cold\"\nbuild_secrets = \"no\"\ndind_images = [\"a b\"]\n[runners.slipway.limits]\nbuilds = -1\n",
		errs: []string{
			`f:7: runners.slipway.socket_policy: "log" is not known (write enforce or audit)`,
			`f:8: runners.slipway.cache_scope: "group" is not known (write project, protected or runner)`,
			`f:10: runners.slipway.allowed_registries: "https://b.example" is not the host of a registry, with its port if it has one (write allowed_registries = ["registry.example.com:5050", "*.example.com"])`,
			`f:11: runners.slipway.dind: "cold" is not known (write warm or start)`,
			`f:12: runners.slipway.build_secrets: "no" is not known (write warn, deny or off)`,
			`f:13: runners.slipway.dind_images: "a b" is no image, nor a pattern for images (write dind_images = ["registry.example.com/ci/docker-dind:*"])`,
			`f:15: runners.slipway.limits.builds: a limit cannot be less than nothing (leave it out for the default)`,
		},
	},
	{
		name: "keys that undo the guard",
		src:  ok + "docker.volumes = [\"/var/run/docker.sock:/var/run/docker.sock\"]\ndocker.privileged = true\ndocker.network_mode = \"host\"\ndocker.pid_mode = \"\"\ndocker.devices = [\"/dev/kvm\"]\n",
		warnings: []string{
			`f:7: runners.docker.privileged: is not given to jobs: it would undo the guard of their socket, which volumes gives them (trust_config = true in [runners.slipway] gives it, and lets every job own the machine)`,
			`f:8: runners.docker.network_mode: is not given to jobs: it would undo the guard of their socket, which volumes gives them (trust_config = true in [runners.slipway] gives it, and lets every job own the machine)`,
			`f:10: runners.docker.devices: is not given to jobs: it would undo the guard of their socket, which volumes gives them (trust_config = true in [runners.slipway] gives it, and lets every job own the machine)`,
		},
	},
	{
		name: "keys that undo the guard, trusted",
		src:  ok + "docker.volumes = [\"/var/run/docker.sock:/s\"]\ndocker.privileged = true\nslipway.trust_config = true\n",
	},
	{
		name: "limits of the machine", src: ok + "[slipway.limits]\nmin_free = \"10GB\"\nbuild_cache = \"50GB\"\n",
	},
	{
		name: "part of a disk", src: ok + "[slipway.limits]\nmin_free = \"2.5%\"\nbuildcache = \"50GB\"\n",
		warnings: []string{"f:8: slipway.limits.buildcache: unknown key, ignored (did you mean build_cache?)"},
	},
	{
		name: "limits of the machine as numbers", src: ok + "[slipway.limits]\nmin_free = 10\nbuild_cache = 50\n",
		errs: []string{
			`f:7: slipway.limits.min_free: is the number 10, must be a size in a string, such as "10GB", or a part of a disk, such as "5%" (write min_free = "10GB" or min_free = "5%")`,
			`f:8: slipway.limits.build_cache: is the number 50, must be a size in a string, such as "512m" (write build_cache = "50m", with the unit that is meant)`,
		},
	},
	{
		name: "limits of the machine that are none", src: ok + "[slipway.limits]\nmin_free = \"100%\"\nbuild_cache = \"lots\"\n",
		errs: []string{
			`f:7: slipway.limits.min_free: "100%" is no part of a disk (write min_free = "10GB" or min_free = "5%")`,
			`f:8: slipway.limits.build_cache: "lots" is not a size (write build_cache = "512m")`,
		},
	},
	{
		name: "limits of the machine below nothing", src: ok + "[slipway.limits]\nbuild_cache = \"-1\"\n",
		errs: []string{`f:7: slipway.limits.build_cache: a size cannot be less than nothing (leave it out for no bound)`},
	},
	{
		name: "build cache without a unit", src: ok + "[slipway.limits]\nbuild_cache = \"50\"\n",
		errs: []string{`f:7: slipway.limits.build_cache: 50 bytes hold no build cache (write build_cache = "50GB", or leave it out for no bound)`},
	},
	{
		name: "limits that are no table", src: ok + "[slipway]\nlimits = \"10GB\"\n",
		errs: []string{`f:7: slipway.limits: is a string, must be a table (write [slipway.limits])`},
	},
	{
		name: "socket of nonsense", src: ok + "slipway.socket = \"open\"\n",
		errs: []string{`f:6: runners.slipway.socket: "open" is not known (write guarded, raw or off)`},
	},

	// no effect
	{
		name: "unknown keys", src: "concurent = 4\n" + ok + "[runners.docker_]\nx = 1\n[runners.docker.sysctls]\nany = \"1\"\n[whatever]\nzzzzzz = 1\n",
		warnings: []string{
			"f:1: concurent: unknown key, ignored (did you mean concurrent?)",
			"f:7: runners.docker_: unknown key, ignored (did you mean docker?)",
			"f:11: whatever: unknown key, ignored",
		},
	},
	{
		name: "swapped letters", src: "[[runners]]\nurl = \"https://x\"\ntoken = \"t\"\nexecutor = \"docker\"\n[runners.docker]\nimage = \"i\"\nvoulmes = [\"/cache\"]\n",
		warnings: []string{"f:7: runners.docker.voulmes: unknown key, ignored (did you mean volumes?)"},
	},
	{
		name: "key in the wrong table", src: ok + "privileged = true\nconcurrent = 4\ndocker.limit = 1\nsession_timeout = 5\n",
		warnings: []string{
			"f:6: runners.privileged: unknown key, ignored (it belongs into [runners.docker])",
			"f:7: runners.concurrent: unknown key, ignored (it belongs to the top of the file, above every table)",
			"f:8: runners.docker.limit: unknown key, ignored (it belongs into [[runners]], above its sub-tables)",
			"f:9: runners.session_timeout: unknown key, ignored (it belongs into [session_server])",
		},
	},
	{
		name: "cache on S3", src: ok + "[runners.cache]\nType = \"s3\"\n[runners.cache.s3]\nServerAddress = \"https://s3.example.com\"\nAccessKey = \"k\"\nSecretKey = \"secret\"\n" +
			"AuthenticationType = \"key\"\nServerSideEncryption = \"on\"\nDualStack = \"true\"\n",
		errs: []string{
			`f:8: runners.cache.s3.BucketName: is missing (write BucketName = "…" below [runners.cache.s3])`,
			`f:9: runners.cache.s3.ServerAddress: is not a host, with its port if it has one (write ServerAddress = "s3.example.com:9000"; for http add Insecure = true)`,
			`f:12: runners.cache.s3.AuthenticationType: "key" is not known (write access-key or iam)`,
			`f:13: runners.cache.s3.ServerSideEncryption: "on" is not known (write S3, KMS or DSSE-KMS)`,
			`f:14: runners.cache.s3.DualStack: is the string "true", must be true or false (write DualStack = true, without quotes)`,
		},
	},
	{
		name: "values of a cache on S3", src: ok + "[runners.cache]\nType = \"s3\"\n[runners.cache.s3]\nServerAddress = \"https://me:secret@s3.example.com\"\nAccessKey = \"k\"\nSecretKey = \"secret\"\n" +
			"AuthenticationType = \"key\"\nServerSideEncryption = \"on\"\n",
		errs: []string{
			`f:8: runners.cache.s3.BucketName: is missing (write BucketName = "…" below [runners.cache.s3])`,
			`f:9: runners.cache.s3.ServerAddress: is not a host, with its port if it has one (write ServerAddress = "s3.example.com:9000"; for http add Insecure = true)`,
			`f:12: runners.cache.s3.AuthenticationType: "key" is not known (write access-key or iam)`,
			`f:13: runners.cache.s3.ServerSideEncryption: "on" is not known (write S3, KMS or DSSE-KMS)`,
		},
	},
	{
		name: "cache of another kind", src: ok + "[runners.cache]\nType = \"s4\"\nMaxUploadedArchiveSize = \"1g\"\n",
		errs: []string{
			`f:7: runners.cache.Type: "s4" is not known (write Type = "s3", or leave it out for caches on this machine)`,
			`f:8: runners.cache.MaxUploadedArchiveSize: is a string, must be a whole number (write MaxUploadedArchiveSize = 1073741824, in bytes)`,
		},
	},
	{
		name: "type of another kind", src: ok + "[runners.cache]\nType = \"s4\"\n",
		errs: []string{`f:7: runners.cache.Type: "s4" is not known (write Type = "s3", or leave it out for caches on this machine)`},
	},
	{
		name: "keys of S3 are secret", src: ok + "[runners.cache.s3]\nAccessKey = 1\nSecretKey = 2\nSessionToken = 3\n",
		errs: []string{
			`f:7: runners.cache.s3.AccessKey: is a number, must be a string (write AccessKey = "…")`,
			`f:8: runners.cache.s3.SecretKey: is a number, must be a string (write SecretKey = "…")`,
			`f:9: runners.cache.s3.SessionToken: is a number, must be a string (write SessionToken = "…")`,
		},
	},
	{
		name: "one key of S3", src: ok + "[runners.cache]\nType = \"s3\"\n[runners.cache.s3]\nBucketName = \"b\"\nAccessKey = \"k\"\nAuthenticationType = \"access-key\"\n",
		errs: []string{`f:8: runners.cache.s3.SecretKey: is missing (write it below [runners.cache.s3], or AuthenticationType = "iam")`},
	},
	{
		name: "keys of S3 that are not used", src: ok + "[runners.cache]\nType = \"s3\"\n[runners.cache.s3]\nBucketName = \"b\"\nAccessKey = \"k\"\nSecretKey = \"s\"\nRoleARN = \"arn:aws:iam::1:role/a\"\nUploadRoleARN = \"b\"\nAssumeRoleMaxConcurrency = 5\nBucketNam = 1\n",
		warnings: []string{
			"f:8: runners.cache.s3.AuthenticationType: is not set, and not all of ServerAddress, AccessKey and SecretKey are: the keys are not used, but the rights that Amazon gives to this machine (iam) (write AuthenticationType = \"access-key\" and both keys, or \"iam\")",
			`f:13: runners.cache.s3.UploadRoleARN: "b" is no ARN of a role (write it like "arn:aws:iam::123456789012:role/name")`,
			"f:13: runners.cache.s3.UploadRoleARN: is not used, because RoleARN is set (leave it out: RoleARN is for uploads too)",
			"f:15: runners.cache.s3.BucketNam: unknown key, ignored (did you mean BucketName?)",
		},
	},
	{
		name: "S3 without its type", src: ok + "[runners.cache]\nMaxUploadedArchiveSize = -1\n[runners.cache.s3]\nServerAddress = \"https://x/\"\n[runners.cache.gcs]\nBucketName = \"b\"\n[runners.cache.azure]\n",
		warnings: []string{
			`f:8: runners.cache.s3: has no effect without Type: caches stay on this machine, where other runners do not find them (write Type = "s3" below [runners.cache])`,
			"f:10: runners.cache.gcs: not implemented yet, has no effect: caches on a server go by S3, which Google's storage speaks, too",
		},
	},
	{
		name: "caches on Azure", src: ok + "[runners.cache]\nType = \"azure\"\n[runners.cache.azure]\nAccountName = \"a\"\n",
		warnings: []string{
			`f:7: runners.cache.Type: "azure" is not supported: caches stay on this machine, where other runners do not find them (write Type = "s3" for a server that speaks S3, which Azure's storage does not; or take Type out)`,
			"f:8: runners.cache.azure: not implemented yet, has no effect: caches on a server go by S3, which Azure's storage does not speak",
		},
	},
	{
		name: "patterns", src: ok + "[runners.docker]\nallowed_images = [\"**\", \"![\", \"! docker:*\", \"!\"]\nallowed_services = [\"{a\"]\nallowed_privileged_images = [\n\"a\",\n\"[\",\n]\nallowed_privileged_services = [\"a[b-\"]\n" +
			"[runners.docker.services_devices]\n\"a:*\" = []\n\"b[:*\" = [\"/dev/kvm\"]\n[runners.slipway]\nallowed_projects = [\"[\"]\ndind_images = [\"[\", \"!\"]\n",
		errs: []string{
			`f:7: runners.docker.allowed_images: "![" is no pattern` + imageGlobs,
			`f:7: runners.docker.allowed_images: "! docker:*" keeps nothing out: no image has such a name` + imageGlobs,
			`f:7: runners.docker.allowed_images: "!" keeps nothing out: no image has such a name` + imageGlobs,
			`f:8: runners.docker.allowed_services: "{a" is no pattern` + imageGlobs,
			`f:11: runners.docker.allowed_privileged_images: "[" is no pattern` + imageGlobs,
			`f:13: runners.docker.allowed_privileged_services: "a[b-" is no pattern` + imageGlobs,
			`f:16: runners.docker.services_devices."b[:*": "b[:*" is no pattern for images (write it like "emulator:*" = ["/dev/kvm"])`,
			`f:18: runners.slipway.allowed_projects: "[" is not the path of a project, nor a pattern for paths (write allowed_projects = ["group/project", "group/**"])`,
			`f:19: runners.slipway.dind_images: "[" is no image, nor a pattern for images (write dind_images = ["registry.example.com/ci/docker-dind:*"])`,
			`f:19: runners.slipway.dind_images: "!" is no image, nor a pattern for images (write dind_images = ["registry.example.com/ci/docker-dind:*"])`,
		},
	},
	{
		name: "patterns that let nothing in", src: ok + "[runners.docker]\nallowed_images = [\"\", \"ruby:* \", \"!docker:*\"]\n",
		warnings: []string{
			`f:7: runners.docker.allowed_images: "" lets nothing in: no image has such a name` + imageGlobs,
			`f:7: runners.docker.allowed_images: "ruby:* " lets nothing in: no image has such a name` + imageGlobs,
		},
	},
	{
		name: "devices for all services", src: ok + "[runners.docker]\nservices_devices = [\"/dev/kvm\"]\n",
		errs: []string{"f:7: runners.docker.services_devices: is a list, must be a table of lists of strings (write [runners.docker.services_devices] with the values below it)"},
	},
	{
		name: "web terminals", src: "[session_server]\nlisten_address = \"https://runner:8093\"\nadvertise_address = \"runner\"\nsession_timeout = -1\n" + ok,
		errs: []string{
			`f:2: session_server.listen_address: "https://runner:8093" is no address (write a host and a port without a scheme, such as "runner.example.com:8093")`,
			`f:3: session_server.advertise_address: "runner" is no address (write a host and a port without a scheme, such as "runner.example.com:8093")`,
			`f:4: session_server.session_timeout: -1 is less than 0 (write session_timeout = 1800, in seconds)`,
		},
	},
	{
		name: "web terminals at a place that can be told", src: "[session_server]\nlisten_address = \"[::]:8093\"\nadvertise_address = \"runner.example.com:8093\"\n" + ok,
	},
	{
		name: "GPUs", src: ok + "[runners.docker]\ngpus = \"some\"\nservice_gpus = \"2,capabilities=utility\"\n",
		errs: []string{`f:7: runners.docker.gpus: "some" is nothing that docker run --gpus takes (gpus = "all", a number, or "device=0,1" in quotes of its own: '"device=0,1"')`},
	},
	{
		name: "listen address", src: "listen_address = \"http://localhost:9252\"\n",
		errs: []string{`f:1: listen_address: "http://localhost:9252" is no address to listen on (write listen_address = "127.0.0.1:9252")`},
	},
	{
		name: "later", src: "user = \"ci\"\n[session_server]\nlisten_address = \":8093\"\nsession_timeout = 5\nlisten_adress = 1\n" + ok +
			"pre_clone_script = \"x\"\npost_get_sources_script = \"\"\n[runners.cache]\nType = \"gcs\"\n[runners.docker]\nisolation = \"x\"\n",
		warnings: []string{
			"f:3: session_server.listen_address: there are no web terminals, because GitLab cannot be told a host at which it gets to this machine (write advertise_address = \"runner.example.com:8093\" below it)",
			"f:5: session_server.listen_adress: unknown key, ignored (did you mean listen_address?)",
			"f:11: runners.pre_clone_script: not supported, has no effect: GitLab renamed it to pre_get_sources_script",
			`f:14: runners.cache.Type: "gcs" is not supported: caches stay on this machine, where other runners do not find them (write Type = "s3", and ServerAddress = "storage.googleapis.com", the bucket and an HMAC key of it below [runners.cache.s3])`,
			"f:16: runners.docker.isolation: not supported, has no effect: Windows containers",
		},
	},
	{
		name: "never and moot", src: ok + "clean_git_config = true\ndocker.helper_image = \"x\"\ndocker.isolation = \"hyperv\"\n",
		warnings: []string{
			"note: f:6: runners.clean_git_config: has no effect here and needs none: every job gets a Git directory of its own, which is never used again",
			"note: f:7: runners.docker.helper_image: has no effect here and needs none: there is no helper container",
			"f:8: runners.docker.isolation: not supported, has no effect: Windows containers",
		},
	},
	{
		name: "ours, later", src: ok + "[runners.slipway]\nallowed_frontends = [\"x\"]\nallowed_project = []\n",
		warnings: []string{
			"f:7: runners.slipway.allowed_frontends: not implemented yet, has no effect: frontends of Dockerfiles (# syntax=)",
			"f:8: runners.slipway.allowed_project: unknown key, ignored (did you mean allowed_projects?)",
		},
	},
	{
		name: "feature flags", src: ok + "[runners.feature_flags]\nFF_NETWORK_PER_BUILD = true\nFF_ANY = true\n",
		warnings: []string{"note: f:7: runners.feature_flags.FF_NETWORK_PER_BUILD: has no effect here and needs none: a job with services always has a network of its own"},
	},
	{
		name: "projects", src: ok + "[runners.slipway]\nallowed_projects = [\"group/**\", \"https://gitlab.example.com/group\", \"!group/evil\"]\n",
		errs: []string{
			`f:7: runners.slipway.allowed_projects: "https://gitlab.example.com/group" is not the path of a project, nor a pattern for paths (write allowed_projects = ["group/project", "group/**"])`,
		},
	},
	{
		name: "services", src: ok + "docker.services_limit = -2\n[[runners.docker.services]]\nalias = \"db\"\nenvironment = [\"x\"]\nalais = \"x\"\n",
		errs: []string{
			"f:6: runners.docker.services_limit: -2 is no number of services (write -1 for any number)",
			`f:7: runners.docker.services.name: is missing (write name = "postgres:16", the service's image)`,
		},
		warnings: []string{
			`f:9: runners.docker.services.environment: entry 1 is not KEY=value, ignored (write "KEY=value")`,
			"f:10: runners.docker.services.alais: unknown key, ignored (did you mean alias?)",
		},
	},
	{
		name: "a service that is no table", src: ok + "docker.services = [\"postgres\"]\n",
		errs: []string{"f:6: runners.docker.services: is a list, must be a list of tables (write [[runners.docker.services]], with two brackets on each side)"},
	},
	{
		name: "environment", src: ok + "environment = [\"A=1\", \"secret\", \"=x\"]\n",
		warnings: []string{
			`f:6: runners.environment: entry 2 is not KEY=value, ignored (write "KEY=value")`,
			`f:6: runners.environment: entry 3 is not KEY=value, ignored (write "KEY=value")`,
		},
	},

	// skipped runners
	{
		name: "other executors", src: ok + "\n[[runners]]\nexecutor = \"kubernetes\"\nunknown = 1\n[runners.docker]\nmemory = 5\n[[runners]]\nexecutor = \"dokcer\"\n[[runners]]\n[[runners]]\nexecutor = \"abc\"\n",
		warnings: []string{
			`f:8: runners.executor: executor "kubernetes" is not supported: this [[runners]] is skipped` + skipHint,
			`f:12: runners.docker.image: is missing (write image = "alpine:latest", or another, below [runners.docker]: jobs that name no image run in it)`,
			`f:12: runners.token: ` + noToken,
			`f:12: runners.url: is missing ` + urlHint,
			`f:13: runners.executor: executor "dokcer" is not known, did you mean "docker"?: this [[runners]] is skipped` + unknownHint,
			`f:14: runners.executor: no executor is named: this [[runners]] is skipped` + unknownHint,
			`f:14: runners.token: ` + noToken,
			`f:14: runners.url: is missing ` + urlHint,
			`f:15: runners.token: ` + noToken,
			`f:15: runners.url: is missing ` + urlHint,
			`f:16: runners.executor: executor "abc" is not known: this [[runners]] is skipped` + unknownHint,
		},
	},
	{
		name: "shell of Windows", src: "[[runners]]\nexecutor = \"docker\"\nshell = \"pwsh\"\n",
		warnings: []string{`f:3: runners.shell: shell "pwsh" is not supported: this [[runners]] is skipped` + skipHint},
	},
}

const (
	urlHint     = `(write the address of the GitLab server, such as url = "https://gitlab.example.com")`
	noToken     = "is missing (take it from the runner's page in GitLab, or let slipway register write it)"
	skipHint    = " (the others run; GitLab's own runner can serve it with a config.toml of its own)"
	unknownHint = ` (write executor = "docker" or executor = "shell")`
)

// urls is a runner for each address; each has five lines.
func urls(addresses ...string) string {
	var b strings.Builder
	for _, a := range addresses {
		b.WriteString(strings.Replace(ok, "https://gitlab.example.com", a, 1))
	}
	return b.String()
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range mistakes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, warnings, err := Parse("f", []byte(c.src), noEnv)
			if (err == nil) != (cfg != nil) {
				t.Errorf("config %v, error %v", cfg, err)
			}
			var errs, warns []string
			for _, e := range Problems(err) {
				errs = append(errs, e.Error())
			}
			for _, w := range warnings {
				s := w.String()
				if w.Note {
					s = "note: " + s
				}
				warns = append(warns, s)
			}
			if diff := cmp.Diff(c.errs, errs); diff != "" {
				t.Errorf("errors, want (-), got (+):\n%s", diff)
			}
			if diff := cmp.Diff(c.warnings, warns); diff != "" {
				t.Errorf("warnings, want (-), got (+):\n%s", diff)
			}
		})
	}
}
