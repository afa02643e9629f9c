package cli

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/executor"
	"github.com/slipway-ci/slipway/internal/guard"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/objects"
	"github.com/slipway-ci/slipway/internal/state"
)

// network is the bridge that the jobs of this machine share.
const network = "slipway"

// executorSettings says for one [[runners]] entry what its jobs run in and as whom.
func (c connector) executorSettings(r *config.Runner, f *state.Folder, socket string, ephemeral bool) executor.Settings {
	d := r.Docker
	s := executor.Settings{
		Version: c.build.Version, Revision: c.build.Revision, UserAgent: "slipway " + c.build.Version,
		ServerURL: r.URL, RunnerID: r.ID, RunnerName: r.Name, ShortToken: job.Secret(r.Token.Reveal()).Short(), SystemID: c.systemID,
		Instance: f.Instance, StateDir: f.Path, Ephemeral: ephemeral, Network: network, NetworkOptions: docker.NetworkOptions{MTU: d.NetworkMTU, IPv6: d.EnableIPv6},
		Container: containerSettings(d), Services: serviceSettings(d),
		Image: d.Image, AllowedImages: d.AllowedImages, PullPolicies: d.PullPolicy, AllowedPullPolicies: d.AllowedPullPolicies,
		User: d.User, AllowedUsers: d.AllowedUsers, AllowedPrivilegedImages: d.AllowedPrivilegedImages,
		DisableEntrypointOverwrite: d.DisableEntrypointOverwrite, ContainerLabels: d.ContainerLabels,
		BuildsDir: r.BuildsDir, CacheDir: r.CacheDir, Volumes: d.Volumes, DisableCache: d.DisableCache, VolumeHostDir: d.CacheDir,
		EngineSocket: socket, Socket: r.Slipway.Socket, Dind: r.Slipway.Dind, DindImages: r.Slipway.DindImages,
		AllowedProjects: r.Slipway.AllowedProjects, ProtectedOnly: r.Slipway.ProtectedOnly,
		Environment: r.Environment, Shell: r.Shell, CloneURL: r.CloneURL, CAFile: c.caFile(r), ServerTLS: c.serverTLS(r),
		PreBuild: r.PreBuildScript, PostBuild: r.PostBuildScript, PreGetSources: r.PreGetSources, PostGetSources: r.PostGetSources,
		PrepareTimeout: r.PrepareTimeout, GetSourcesTimeout: r.GetSourcesTimeout, StopGrace: executor.DefaultStopGrace,
		OutputLimit: int64(r.OutputLimit) << 10, FinalTries: r.JobStatusFinalUpdateRetryLimit,
		DebugTraceDisabled: r.DebugTraceDisabled, FeatureFlag: r.FeatureFlag, FlagByDefault: config.FlagByDefault,
		GitOutside: r.Slipway.GitDir == config.GitDirOutside,
		FixedDir:   r.CustomBuildDir.Enabled != nil && !*r.CustomBuildDir.Enabled,
	}
	s.Cache = c.cacheSettings(r)
	if r.Executor == config.ShellExecutor {
		s.BuildsDir = shellBuilds(r.BuildsDir, f.Path)
	}
	if ephemeral {
		// A network of its own, so that removing it at the end is nobody else's loss. The Engine's interface names
		// end at 15 characters.
		s.Network = "slipway-" + f.Instance[:7]
	}
	return s
}

// cacheSettings say where caches are kept beside this machine.
//
// GitLab: the names of objects are its runner's.
func (c connector) cacheSettings(r *config.Runner) executor.CacheSettings {
	if r.Cache.Type != config.CacheOnS3 {
		return executor.CacheSettings{}
	}
	cache, s := r.Cache, r.Cache.S3
	out := executor.CacheSettings{
		Prefix: cache.Path, MaxUpload: cache.MaxUploadedArchiveSize,
		S3: &objects.Options{
			Address: s.ServerAddress, Insecure: s.Insecure, Bucket: s.BucketName, Region: s.BucketLocation,
			IAM: s.AuthenticationType == config.AuthIAM, Encrypt: s.ServerSideEncryption, KeyID: s.ServerSideEncryptionKeyID,
			Keys: objects.Keys{
				Access: job.Secret(s.AccessKey.Reveal()), Secret: job.Secret(s.SecretKey.Reveal()), Session: job.Secret(s.SessionToken.Reveal()),
			},
			SingleIP: s.DualStack != nil && !*s.DualStack, PathStyle: s.PathStyle, Accelerate: s.Accelerate,
			Role: s.RoleARN, UploadRole: s.UploadRoleARN, STS: os.Getenv("AWS_ENDPOINT_URL_STS"), // as Amazon's own programs
			MaxAssume: s.AssumeRoleMaxConcurrency, FreshRights: s.DisableAssumeRoleCredentialsCaching, Roles: c.roles,
		},
	}
	if !cache.Shared {
		out.Prefix = path.Join(cache.Path, "runner", job.Secret(r.Token.Reveal()).Short())
	}
	return out
}

// shellBuilds is where the projects of the shell executor lie: by default beside the state folder, in which nobody but slipway can
// look.
func shellBuilds(dir, stateDir string) string {
	if dir == "" {
		return stateDir + "-builds"
	}
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

// guardSettings say what jobs may do through sockets of their own.
func guardSettings(r *config.Runner, dir string, images *ledger.Ledger, machine docker.Machine) executor.GuardSettings {
	s, l := r.Slipway, r.Slipway.Limits
	return executor.GuardSettings{
		Dir: dir, Ledger: images, Machine: machine,
		Audit: s.SocketPolicy == config.PolicyAudit, TrustConfig: s.TrustConfig, CacheScope: s.CacheScope,
		AllowedRegistries: s.AllowedRegistries, NoPorts: !executor.IsAdmin(), Secrets: s.BuildSecrets,
		Limits: guard.Limits{
			Containers: l.Containers, Networks: l.Networks, Volumes: l.Volumes, Execs: l.Execs, Builds: l.Builds,
			Memory: int64(l.Memory), NanoCPUs: int64(l.CPUs), PIDs: l.PIDs, ShmSize: int64(l.ShmSize), Tmpfs: int64(l.Tmpfs),
		},
	}
}

func containerSettings(d *config.Docker) docker.Container {
	return docker.Container{
		Network: d.NetworkMode,
		Limits: docker.Limits{
			Memory: int64(d.Memory), MemorySwap: int64(d.MemorySwap), MemoryReservation: int64(d.MemoryReservation),
			NanoCPUs: int64(d.CPUs), CPUShares: d.CPUShares, CPUSetCPUs: d.CPUSetCPUs, CPUSetMems: d.CPUSetMems,
			ShmSize: d.ShmSize, OOMKillDisable: d.OOMKillDisable, OOMScoreAdjust: d.OOMScoreAdjust,
			CgroupParent: d.CgroupParent, Ulimits: d.Ulimit,
		},
		Security: docker.Security{
			Privileged: d.Privileged, CapAdd: d.CapAdd, CapDrop: d.CapDrop, SecurityOpt: d.SecurityOpt, UsernsMode: d.UsernsMode,
			GroupAdd: d.GroupAdd, Sysctls: d.Sysctls, Devices: d.Devices, DeviceCgroupRules: d.DeviceCgroupRules,
			PidMode: d.PIDMode, IpcMode: d.IPCMode, Runtime: d.Runtime, GPUs: d.GPUs,
		},
		Extras: docker.Extras{
			Hostname: d.Hostname, MacAddress: d.MACAddress, ExtraHosts: d.ExtraHosts, DNS: d.DNS, DNSSearch: d.DNSSearch,
			Links: d.Links, VolumesFrom: d.VolumesFrom, VolumeDriver: d.VolumeDriver, VolumeOptions: d.VolumeDriverOps,
			Tmpfs: d.Tmpfs,
		},
	}
}

// serviceSettings are what services run in.
//
// GitLab: what is not set for services by a key of its own is as for jobs, but for capabilities, limits and devices, which
// services do not have then.
func serviceSettings(d *config.Docker) executor.ServiceSettings {
	s := executor.ServiceSettings{
		Container: docker.Container{
			Limits: docker.Limits{
				Memory: int64(d.ServiceMemory), MemorySwap: int64(d.ServiceMemorySwap), MemoryReservation: int64(d.ServiceMemoryReservation),
				NanoCPUs: int64(d.ServiceCPUs), CPUShares: d.ServiceCPUShares, CPUSetCPUs: d.ServiceCPUSetCPUs,
				CgroupParent: d.ServiceCgroupParent, ShmSize: d.ShmSize,
			},
			Security: docker.Security{
				Privileged: d.Privileged, SecurityOpt: d.ServicesSecurityOpt, UsernsMode: d.UsernsMode, Runtime: d.Runtime,
				GPUs: d.ServiceGPUs,
			},
			Extras: docker.Extras{
				ExtraHosts: d.ExtraHosts, DNS: d.DNS, DNSSearch: d.DNSSearch, VolumeDriver: d.VolumeDriver, VolumeOptions: d.VolumeDriverOps, Tmpfs: d.ServicesTmpfs,
			},
		},
		Limit: d.ServicesLimit, AllowedImages: d.AllowedServices, AllowedPrivilegedImages: d.AllowedPrivilegedServices, Devices: d.ServicesDevices,
		Wait: time.Duration(max(d.WaitForServicesTimeout, 0)) * time.Second,
	}
	if d.ServicesPrivileged != nil {
		s.Container.Security.Privileged = *d.ServicesPrivileged
	}
	for _, service := range d.Services {
		to := job.Service{Image: job.Image{Name: service.Name, Entrypoint: service.Entrypoint}, Alias: service.Alias, Command: service.Command}
		for _, e := range service.Environment {
			key, value, _ := strings.Cut(e, "=")
			to.Variables = append(to.Variables, job.Variable{Key: key, Value: value})
		}
		s.Always = append(s.Always, to)
	}
	return s
}

// caFile is what Git trusts besides the system.
func (c connector) caFile(r *config.Runner) string { return c.tlsFile(r, r.TLSCAFile, ".crt") }

// tlsFile is a file that the configuration names, or the one that lies where GitLab's runner looks for it, or "".
func (c connector) tlsFile(r *config.Runner, path, suffix string) string {
	if u, err := url.Parse(r.URL); path == "" && err == nil {
		found := filepath.Join(c.certs, u.Hostname()+suffix)
		if _, err := os.Stat(found); err == nil {
			path = found
		}
	}
	if abs, err := filepath.Abs(path); path != "" && err == nil {
		return abs
	}
	return path
}

// serverTLS are the certificates that GitLab is reached with, for jobs that call it themselves.
//
// GitLab: the runner's own key is among them.
func (c connector) serverTLS(r *config.Runner) job.Variables {
	var out job.Variables
	for _, f := range []struct{ key, path string }{
		{"CI_SERVER_TLS_CA_FILE", c.caFile(r)},
		{"CI_SERVER_TLS_CERT_FILE", c.tlsFile(r, r.TLSCertFile, ".auth.crt")},
		{"CI_SERVER_TLS_KEY_FILE", c.tlsFile(r, r.TLSKeyFile, ".auth.key")},
	} {
		if content, err := os.ReadFile(f.path); err == nil { // the client of GitLab complains about one that is not there
			out = append(out, job.Variable{Key: f.key, Value: string(content), Public: true, File: true, Raw: true})
		}
	}
	return out
}
