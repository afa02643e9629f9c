package guard

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
)

// hostConfig decides about a container's part of the host, but for mounts and networks.
func (p *planner) hostConfig(in *hostConfig, out *container.HostConfig) error {
	for _, decide := range []func(*hostConfig, *container.HostConfig) error{
		p.privileges, p.namespaces, p.capabilities, p.securityOptions, p.maskedPaths, p.devices, p.sysctls, p.logs, p.runtimes,
	} {
		if err := decide(in, out); err != nil {
			return err
		}
	}
	r := p.resources(in.Resources)
	r.Devices, r.DeviceCgroupRules, r.DeviceRequests = out.Devices, out.DeviceCgroupRules, out.DeviceRequests
	r.CgroupParent = p.policy.CgroupParent
	out.Resources = r
	if in.KernelMemory != 0 || in.KernelMemoryTCP != 0 {
		p.warn("a limit for the kernel's memory was dropped")
	}
	out.OomScoreAdj = max(in.OomScoreAdj, 0)
	out.ShmSize = in.ShmSize
	if out.ShmSize > p.policy.Limits.ShmSize {
		out.ShmSize = p.policy.Limits.ShmSize
		p.warn("the size of /dev/shm became %d bytes, the job's limit", out.ShmSize)
	}
	out.RestartPolicy = p.restart(in.RestartPolicy)
	if len(in.StorageOpt) > 0 {
		p.warn("storage options were dropped")
	}
	out.AutoRemove, out.ConsoleSize, out.ReadonlyRootfs, out.Init = in.AutoRemove, in.ConsoleSize, in.ReadonlyRootfs, in.Init
	out.DNS, out.DNSOptions, out.DNSSearch, out.ExtraHosts = in.DNS, in.DNSOptions, in.DNSSearch, in.ExtraHosts
	out.GroupAdd, out.Umask = in.GroupAdd, in.Umask
	return nil
}

func (p *planner) privileges(in *hostConfig, out *container.HostConfig) error {
	if !in.Privileged {
		return nil
	}
	cure := "for Docker in a container mount /var/run/docker.sock instead, for a single capability ask the runner's operator"
	switch repository(p.asked) {
	case "testcontainers/ryuk":
		// It asks for what it does not need, and it only speaks with the job's own socket.
		p.warn("Ryuk is not privileged: it does without")
		return nil
	case "moby/buildkit":
		cure = "the default builder (docker buildx use default) has this project's warm cache already: no other is needed"
	case "tonistiigi/binfmt", "multiarch/qemu-user-static":
		cure = "ask the runner's operator to install binfmt on the machine, once for all jobs"
	}
	out.Privileged = true // in audit mode
	return p.refuse(deny("privileged", cure, "a privileged container is root on the machine"))
}

// repository is an image's path below its registry, without tag.
func repository(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	return reference.Path(named)
}

// namespaces decides whose namespaces a container lives in. Networks are decided elsewhere.
func (p *planner) namespaces(in *hostConfig, out *container.HostConfig) error {
	for _, ns := range []struct {
		name, value string
		harmless    []string
		set         func(string)
	}{
		{"PidMode", string(in.PidMode), nil, func(s string) { out.PidMode = container.PidMode(s) }},
		{"IpcMode", string(in.IpcMode), []string{"none", "private", "shareable"}, func(s string) { out.IpcMode = container.IpcMode(s) }},
		{"UTSMode", string(in.UTSMode), nil, func(s string) { out.UTSMode = container.UTSMode(s) }},
		{"UsernsMode", string(in.UsernsMode), nil, func(s string) { out.UsernsMode = container.UsernsMode(s) }},
		{"CgroupnsMode", string(in.CgroupnsMode), []string{"private"}, func(s string) { out.CgroupnsMode = container.CgroupnsMode(s) }},
		{"Cgroup", string(in.Cgroup), nil, func(s string) { out.Cgroup = container.CgroupSpec(s) }},
	} {
		if ns.value == "" || slices.Contains(ns.harmless, ns.value) {
			ns.set(ns.value)
			continue
		}
		if ref, ok := strings.CutPrefix(ns.value, "container:"); ok && (ns.name == "PidMode" || ns.name == "IpcMode") {
			other, err := p.container(ref)
			if err != nil {
				return err
			}
			ns.set("container:" + other.ID)
			continue
		}
		ns.set(ns.value) // in audit mode
		err := p.refuse(deny("namespace-host", "leave the option out, or use container:NAME with a container of this job",
			"%s=%s is a namespace of the machine or of somebody else", ns.name, printable(ns.value)))
		if err != nil {
			return err
		}
	}
	if out.CgroupnsMode != "" {
		return nil
	}
	info, err := p.info()
	if info.CgroupVersion == "2" { // whatever the Engine's own default is
		out.CgroupnsMode = container.CgroupnsModePrivate
	}
	return err
}

// defaultCapabilities are what every container has.
var defaultCapabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// IsDefaultCapability reports whether every container has a capability, with or without CAP_ before its name.
//
// Source: Docker's default set.
func IsDefaultCapability(name string) bool {
	return slices.Contains(defaultCapabilities, Capability(name))
}

// Capability is a capability's name in its one spelling: upper case, without CAP_.
func Capability(name string) string { return strings.TrimPrefix(strings.ToUpper(name), "CAP_") }

// IsNoNewPrivileges reports whether a security option is the one that only makes a container's walls stronger.
func IsNoNewPrivileges(option string) bool {
	switch option {
	case "no-new-privileges", "no-new-privileges:true", "no-new-privileges=true":
		return true
	}
	return false
}

func (p *planner) capabilities(in *hostConfig, out *container.HostConfig) error {
	allowed := slices.Clone(defaultCapabilities)
	for _, c := range p.policy.CapAdd {
		allowed = append(allowed, Capability(c))
	}
	var dropped []string
	for _, c := range p.policy.CapDrop {
		dropped = append(dropped, Capability(c))
	}
	for _, c := range in.CapAdd {
		c = Capability(c)
		if !slices.Contains(allowed, c) {
			err := p.refuse(deny("capability", "leave --cap-add out, or ask the runner's operator to allow it", "the capability %s reaches beyond the container", printable(c)))
			if err != nil {
				return err
			}
		}
		// What is added wins over what is dropped, at the Engine.
		if slices.Contains(dropped, c) {
			p.warn("the capability %s is taken from all containers of this job", c)
			continue
		}
		out.CapAdd = append(out.CapAdd, c)
	}
	for _, c := range in.CapDrop {
		out.CapDrop = append(out.CapDrop, Capability(c))
	}
	out.CapDrop = append(out.CapDrop, dropped...)
	return nil
}

func (p *planner) securityOptions(in *hostConfig, out *container.HostConfig) error {
	for _, o := range in.SecurityOpt {
		if !IsNoNewPrivileges(o) {
			if err := p.refuse(deny("security-opt", "leave the option out", "the security option %q weakens the container's walls", printable(o))); err != nil {
				return err
			}
		}
		out.SecurityOpt = append(out.SecurityOpt, o)
	}
	return nil
}

// maskedPaths: an empty list is not "none given", it uncovers all of /proc.
func (p *planner) maskedPaths(in *hostConfig, out *container.HostConfig) error {
	if in.MaskedPaths == nil && in.ReadonlyPaths == nil {
		return nil
	}
	out.MaskedPaths, out.ReadonlyPaths = in.MaskedPaths, in.ReadonlyPaths // in audit mode
	return p.refuse(deny("masked-paths", "leave --security-opt systempaths, MaskedPaths and ReadonlyPaths out",
		"a list of masked or read-only paths of one's own opens /proc, and with it the machine"))
}

func (p *planner) devices(in *hostConfig, out *container.HostConfig) error {
	if len(in.Devices) == 0 && len(in.DeviceCgroupRules) == 0 && len(in.DeviceRequests) == 0 {
		return nil
	}
	out.Devices, out.DeviceCgroupRules, out.DeviceRequests = in.Devices, in.DeviceCgroupRules, in.DeviceRequests // in audit mode
	return p.refuse(deny("devices", "leave --device, --device-cgroup-rule and --gpus out", "devices belong to the machine"))
}

// sysctlForm is what the kernel keeps per network or IPC namespace, which the container has for itself.
var sysctlForm = regexp.MustCompile(`^(net\.ipv[46]\.[a-z0-9_.-]+|net\.core\.somaxconn|net\.unix\.max_dgram_qlen|` +
	`kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\.[a-z_]+)$`)

func (p *planner) sysctls(in *hostConfig, out *container.HostConfig) error {
	for _, k := range slices.Sorted(maps.Keys(in.Sysctls)) {
		if sysctlForm.MatchString(k) {
			continue
		}
		if err := p.refuse(deny("sysctl", "only net.ipv4.*, net.ipv6.*, net.core.somaxconn and those of IPC can be set", "the kernel setting %s is not the container's own", printable(k))); err != nil {
			return err
		}
	}
	out.Sysctls = in.Sysctls
	return nil
}

// logs keeps a container's output on this machine and small: other drivers send it elsewhere with the Engine's network
// and the Engine's rights.
func (p *planner) logs(in *hostConfig, out *container.HostConfig) error {
	out.LogConfig = container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "3"}}
	switch t := in.LogConfig.Type; t {
	case "", "json-file":
	case "local":
		out.LogConfig.Type = t
	case "none":
		out.LogConfig = container.LogConfig{Type: t}
	default:
		out.LogConfig = in.LogConfig // in audit mode
		return p.refuse(deny("log-driver", "use json-file, local or none", "the log driver %s sends output from the machine itself", printable(t)))
	}
	return nil
}

// runtimes is about what only names a program or a setting of the machine.
func (p *planner) runtimes(in *hostConfig, out *container.HostConfig) error {
	if len(in.Annotations) > 0 {
		p.warn("annotations were dropped")
	}
	// ContainerIDFile is the client's own note of where it writes the ID.
	if v := in.VolumeDriver; v != "" && v != "local" {
		out.VolumeDriver = v // in audit mode
		if err := p.refuse(volumeDriverDenial(v)); err != nil {
			return err
		}
	}
	if !in.Isolation.IsDefault() {
		return badRequest("invalid isolation (%s): linux does not support it", printable(string(in.Isolation)))
	}
	if in.Runtime == "" {
		return nil
	}
	info, err := p.info()
	if err != nil || in.Runtime == info.DefaultRuntime {
		return err
	}
	out.Runtime = in.Runtime // in audit mode
	return p.refuse(deny("runtime", "leave --runtime out", "the runtime %s is not the one that this machine runs containers with", printable(in.Runtime)))
}

func volumeDriverDenial(name string) *Denial {
	return deny("volume-driver", "use a volume without driver and options, or share a folder of the workspace",
		"the volume driver or option %s can mount any folder of the machine", printable(name))
}

// maxRestarts bounds the only restart policy there is.
const maxRestarts = 3

// restart lets no container outlive its job: the Engine would start it again after a reboot.
func (p *planner) restart(in container.RestartPolicy) container.RestartPolicy {
	switch {
	case in.Name == "" || in.Name == container.RestartPolicyDisabled:
	case in.Name == container.RestartPolicyOnFailure && in.MaximumRetryCount > 0 && in.MaximumRetryCount <= maxRestarts:
		return in
	default:
		p.warn("the restart policy %s became no: containers end with their job", printable(string(in.Name)))
	}
	return container.RestartPolicy{Name: container.RestartPolicyDisabled}
}
