package config

// Docker is [runners.docker]. The fields stand in the order in which GitLab's runner writes them; what it always
// writes is written here too.
type Docker struct {
	Host        string `toml:"host,omitempty"` // "" = DOCKER_HOST, else the usual socket
	TLSCertPath string `toml:"tls_cert_path,omitempty"`
	TLSVerify   bool   `toml:"tls_verify"`

	Hostname                   string              `toml:"hostname,omitempty"`
	Image                      string              `toml:"image"` // for jobs that name none; may hold variables
	Runtime                    string              `toml:"runtime,omitempty"`
	Memory                     Bytes               `toml:"memory,omitzero"`
	MemorySwap                 Bytes               `toml:"memory_swap,omitzero"` // memory and swap together; -1 = no limit
	MemoryReservation          Bytes               `toml:"memory_reservation,omitzero"`
	CgroupParent               string              `toml:"cgroup_parent,omitempty"`
	CPUSetCPUs                 string              `toml:"cpuset_cpus,omitempty"`
	CPUSetMems                 string              `toml:"cpuset_mems,omitempty"`
	CPUs                       NanoCPUs            `toml:"cpus,omitzero"`
	CPUShares                  int64               `toml:"cpu_shares,omitzero"`
	GPUs                       string              `toml:"gpus,omitempty"` // as docker run --gpus
	DNS                        []string            `toml:"dns,omitempty"`  // IP addresses
	DNSSearch                  []string            `toml:"dns_search,omitempty"`
	Privileged                 bool                `toml:"privileged"`
	DisableEntrypointOverwrite bool                `toml:"disable_entrypoint_overwrite"`
	User                       string              `toml:"user,omitempty"` // "" = the image's
	AllowedUsers               []string            `toml:"allowed_users,omitempty"`
	GroupAdd                   []string            `toml:"group_add,omitempty"`
	UsernsMode                 string              `toml:"userns_mode,omitempty"`
	CapAdd                     []string            `toml:"cap_add,omitempty"`
	CapDrop                    []string            `toml:"cap_drop,omitempty"`
	OOMKillDisable             bool                `toml:"oom_kill_disable"`
	OOMScoreAdjust             int                 `toml:"oom_score_adjust,omitzero"`
	SecurityOpt                []string            `toml:"security_opt,omitempty"`
	Devices                    []string            `toml:"devices,omitempty"`
	DeviceCgroupRules          []string            `toml:"device_cgroup_rules,omitempty"`
	DisableCache               bool                `toml:"disable_cache"`
	Volumes                    []string            `toml:"volumes,omitempty"` // /path = cache volume, host:path[:mode] = bind
	VolumeDriver               string              `toml:"volume_driver,omitempty"`
	VolumeDriverOps            map[string]string   `toml:"volume_driver_ops,omitempty"` // of the volumes that are made for jobs
	CacheDir                   string              `toml:"cache_dir,omitempty"`         // on the host: cache volumes become folders below it
	ExtraHosts                 []string            `toml:"extra_hosts,omitempty"`
	VolumesFrom                []string            `toml:"volumes_from,omitempty"`
	NetworkMode                string              `toml:"network_mode,omitempty"`
	EnableIPv6                 bool                `toml:"enable_ipv6,omitempty"` // on jobs' own networks
	IPCMode                    string              `toml:"ipcmode,omitempty"`
	PIDMode                    string              `toml:"pid_mode,omitempty"`
	MACAddress                 string              `toml:"mac_address,omitempty"`
	Links                      []string            `toml:"links,omitempty"`
	ServicesLimit              *int                `toml:"services_limit,omitempty"`            // how many a job may have; nil or -1 = any number
	ServiceMemory              Bytes               `toml:"service_memory,omitzero"`             // of each service, as memory
	ServiceMemorySwap          Bytes               `toml:"service_memory_swap,omitzero"`        // as memory_swap
	ServiceMemoryReservation   Bytes               `toml:"service_memory_reservation,omitzero"` // as memory_reservation
	ServiceCgroupParent        string              `toml:"service_cgroup_parent,omitempty"`
	ServiceCPUSetCPUs          string              `toml:"service_cpuset_cpus,omitempty"`
	ServiceCPUs                NanoCPUs            `toml:"service_cpus,omitzero"`
	ServiceCPUShares           int64               `toml:"service_cpu_shares,omitzero"`
	ServiceGPUs                string              `toml:"service_gpus,omitempty"`        // as gpus
	ServicesPrivileged         *bool               `toml:"services_privileged,omitempty"` // nil = privileged
	ServicesSecurityOpt        []string            `toml:"services_security_opt,omitempty"`
	WaitForServicesTimeout     int                 `toml:"wait_for_services_timeout,omitzero"` // s; 30 by default, -1 = do not wait
	AllowedImages              []string            `toml:"allowed_images,omitempty"`           // doublestar patterns; none = all
	AllowedPrivilegedImages    []string            `toml:"allowed_privileged_images,omitempty"`
	AllowedPrivilegedServices  []string            `toml:"allowed_privileged_services,omitempty"` // doublestar patterns; none = all
	AllowedPullPolicies        StringList          `toml:"allowed_pull_policies,omitempty"`       // as PullPolicy by default
	AllowedServices            []string            `toml:"allowed_services,omitempty"`            // doublestar patterns; none = all
	PullPolicy                 StringList          `toml:"pull_policy,omitempty"`                 // tried in this order; [always] by default
	ShmSize                    int64               `toml:"shm_size"`                              // bytes; 0 = the Engine's default
	NetworkMTU                 int                 `toml:"network_mtu"`                           // of jobs' own networks, bytes; 0 = as the Engine's own bridge
	Tmpfs                      map[string]string   `toml:"tmpfs,omitempty"`                       // path = mount options
	ServicesTmpfs              map[string]string   `toml:"services_tmpfs,omitempty"`
	ServicesDevices            map[string][]string `toml:"services_devices,omitempty"` // by patterns of images, as in AllowedServices
	Sysctls                    map[string]string   `toml:"sysctls,omitempty"`
	ContainerLabels            map[string]string   `toml:"container_labels,omitempty"`
	Ulimit                     map[string]string   `toml:"ulimit,omitempty"` // name = "soft[:hard]"; see ParseUlimit

	Services []Service `toml:"services,omitempty"` // which every job has, before its own
}

// Service is [[runners.docker.services]].
type Service struct {
	Name        string   `toml:"name"` // of the image; may hold variables
	Alias       string   `toml:"alias,omitempty"`
	Command     []string `toml:"command,omitempty"`
	Entrypoint  []string `toml:"entrypoint,omitempty"`
	Environment []string `toml:"environment,omitempty"` // KEY=value
}

// Pull policies.
const (
	PullAlways       = "always"
	PullIfNotPresent = "if-not-present"
	PullNever        = "never"
)
