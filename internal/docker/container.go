package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Container is what a container is made of.
type Container struct {
	Name       string
	Image      string // an ID, so that what was checked is what runs
	Platform   string // os/arch[/variant], "" = the Engine's
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
	Labels     map[string]string
	Mounts     []Mount
	Binds      []string // docker run -v's form, for what a configuration says literally
	Network    string   // name of a network or a mode (host, none, bridge)
	Aliases    []string // further names in the network, which must be a user-defined one
	Init       bool     // the Engine's own init is process 1
	Background bool     // nobody attaches to it, so that it has no open stdin
	Limits     Limits
	Security   Security
	Extras     Extras
}

// Mount is a bind of a host path.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	Follow         bool // what is mounted on Source later is seen, too; that must be a shared mount
}

// Limits are the resources a container may use. Zero values leave the Engine's defaults.
type Limits struct {
	Memory, MemorySwap, MemoryReservation int64 // bytes
	NanoCPUs                              int64 // 1e-9 CPUs
	CPUShares                             int64
	CPUSetCPUs, CPUSetMems                string
	ShmSize                               int64 // bytes
	OOMKillDisable                        bool
	OOMScoreAdjust                        int
	CgroupParent                          string
	Ulimits                               map[string]string // name → "soft[:hard]"
}

// Security is what the container's processes may do.
type Security struct {
	Privileged        bool
	CapAdd, CapDrop   []string
	SecurityOpt       []string
	UsernsMode        string
	GroupAdd          []string
	Sysctls           map[string]string
	Devices           []string // host[:container[:permissions]]
	DeviceCgroupRules []string
	PidMode, IpcMode  string
	Runtime           string
	GPUs              string // as docker run --gpus; "" = none
}

// Extras are the remaining settings of docker run.
type Extras struct {
	Hostname, MacAddress       string
	ExtraHosts, DNS, DNSSearch []string
	Links, VolumesFrom         []string
	VolumeDriver               string
	VolumeOptions              map[string]string // of volumes that are made for the container, not of the container
	Tmpfs                      map[string]string
}

// macAPIVersion is the first Engine API that takes a MAC address where our client puts it.
const macAPIVersion = "1.44"

// Create makes a container, with an open stdin unless it is for the background, without starting it, and returns its ID.
func (e *Engine) Create(ctx context.Context, c Container) (string, error) {
	cfg := &container.Config{
		Image: c.Image, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir, Labels: c.Labels,
		Hostname: c.Extras.Hostname,
	}
	if !c.Background {
		cfg.OpenStdin, cfg.StdinOnce, cfg.AttachStdin, cfg.AttachStdout, cfg.AttachStderr = true, true, true, true, true
	}
	host, err := hostConfig(c)
	if err != nil {
		return "", err
	}
	opts := client.ContainerCreateOptions{Name: c.Name, Config: cfg, HostConfig: host}
	if c.Platform != "" {
		p, err := platform(c.Platform)
		if err != nil {
			return "", err
		}
		opts.Platform = &p
	}
	endpoint := &network.EndpointSettings{Aliases: c.Aliases}
	if host.NetworkMode.IsUserDefined() {
		endpoint.Links, host.Links = host.Links, nil // as docker run --link
	}
	if c.Extras.MacAddress != "" {
		if older(e.apiVersion, macAPIVersion) {
			return "", errors.New("mac_address needs Docker Engine 25.0 or newer")
		}
		mac, err := net.ParseMAC(c.Extras.MacAddress)
		if err != nil {
			return "", fmt.Errorf("mac_address: %w", err)
		}
		endpoint.MacAddress = network.HardwareAddr(mac)
	}
	if len(endpoint.Aliases) > 0 || len(endpoint.Links) > 0 || len(endpoint.MacAddress) > 0 {
		opts.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{c.Network: endpoint}}
	}
	made, err := e.api.ContainerCreate(ctx, opts)
	if err != nil {
		return "", fmt.Errorf("create container: %w", err)
	}
	return made.ID, nil
}

func hostConfig(c Container) (*container.HostConfig, error) {
	l, s, x := c.Limits, c.Security, c.Extras
	securityOpt, err := securityOptions(s.SecurityOpt)
	if err != nil {
		return nil, err
	}
	h := &container.HostConfig{
		Binds: c.Binds, NetworkMode: container.NetworkMode(c.Network),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		LogConfig:     container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m", "max-file": "1"}},
		Privileged:    s.Privileged, CapAdd: s.CapAdd, CapDrop: s.CapDrop, SecurityOpt: securityOpt,
		UsernsMode: container.UsernsMode(s.UsernsMode), GroupAdd: s.GroupAdd, Sysctls: s.Sysctls,
		PidMode: container.PidMode(s.PidMode), IpcMode: container.IpcMode(s.IpcMode), Runtime: s.Runtime,
		ExtraHosts: x.ExtraHosts, DNSSearch: x.DNSSearch, Links: x.Links, VolumesFrom: x.VolumesFrom, VolumeDriver: x.VolumeDriver, Tmpfs: x.Tmpfs,
		ShmSize: l.ShmSize, OomScoreAdj: l.OOMScoreAdjust,
		Resources: container.Resources{
			Memory: l.Memory, MemorySwap: l.MemorySwap, MemoryReservation: l.MemoryReservation, NanoCPUs: l.NanoCPUs,
			CPUShares: l.CPUShares, CpusetCpus: l.CPUSetCPUs, CpusetMems: l.CPUSetMems, CgroupParent: l.CgroupParent,
			DeviceCgroupRules: s.DeviceCgroupRules,
		},
	}
	if c.Init {
		h.Init = &c.Init
	}
	if l.OOMKillDisable {
		h.OomKillDisable = &l.OOMKillDisable
	}
	for _, m := range c.Mounts {
		bind := mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
		if m.Follow {
			bind.BindOptions = &mount.BindOptions{Propagation: mount.PropagationRSlave}
		}
		h.Mounts = append(h.Mounts, bind)
	}
	for _, d := range x.DNS {
		addr, err := netip.ParseAddr(d)
		if err != nil {
			return nil, fmt.Errorf("dns: %w", err)
		}
		h.DNS = append(h.DNS, addr)
	}
	for name, v := range l.Ulimits {
		u, err := units.ParseUlimit(name + "=" + v)
		if err != nil {
			return nil, fmt.Errorf("ulimit: %w", err)
		}
		h.Ulimits = append(h.Ulimits, u)
	}
	if s.GPUs != "" {
		var gpus opts.GpuOpts
		if err := gpus.Set(s.GPUs); err != nil {
			return nil, fmt.Errorf("gpus: %w", err)
		}
		h.DeviceRequests = gpus.Value()
	}
	for _, d := range s.Devices {
		m, err := device(d)
		if err != nil {
			return nil, err
		}
		h.Devices = append(h.Devices, m)
	}
	return h, nil
}

// Start starts a container that was created or has ended.
func (e *Engine) Start(ctx context.Context, id string) error {
	if _, err := e.api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	return nil
}

// Exit is how a container ended.
type Exit struct {
	Code      int
	OOMKilled bool
}

// Wait blocks until the container is not running and says how it ended.
func (e *Engine) Wait(ctx context.Context, id string) (Exit, error) {
	w := e.api.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case err := <-w.Error:
		return Exit{}, fmt.Errorf("wait for container: %w", err)
	case r := <-w.Result:
		exit := Exit{Code: int(r.StatusCode)}
		st, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if err != nil {
			return exit, fmt.Errorf("inspect container: %w", err)
		}
		if st.Container.State != nil {
			exit.OOMKilled = st.Container.State.OOMKilled
		}
		return exit, nil
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
}

// oomTimeout bounds the wait for the Engine's answer.
const oomTimeout = 10 * time.Second

// OOMKilled reports whether the kernel killed a process of the container, which may go on, for want of memory. It
// looks at the latest events only, and waits that long for more: the container's own state tells no sooner than its end.
func (e *Engine) OOMKilled(ctx context.Context, id string, patience time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, oomTimeout)
	defer cancel()
	events := e.api.Events(ctx, client.EventsListOptions{
		Since: "1", Filters: make(client.Filters).Add("container", id).Add("event", "oom"),
	})
	select {
	case <-events.Messages:
		return true, nil
	case <-time.After(patience): // from the Engine's answer on
		return false, nil
	case err := <-events.Err:
		return false, fmt.Errorf("read events: %w", err)
	}
}

// Kill ends all processes of the container at once. A container that is not running is no error.
func (e *Engine) Kill(ctx context.Context, id string) error {
	_, err := e.api.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "KILL"})
	if err != nil && !isNotRunning(err) && !IsNotFound(err) {
		return fmt.Errorf("kill container: %w", err)
	}
	return nil
}

// Remove kills and removes the container and its anonymous volumes. One that is gone, or is being removed, is no error.
func (e *Engine) Remove(ctx context.Context, id string) error {
	_, err := e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !IsNotFound(err) && !isInRemoval(err) {
		return fmt.Errorf("remove container: %w", err)
	}
	return nil
}

// probeTime bounds what the Engine may take to make and remove a container that is not started.
const probeTime = time.Minute

// Probe has the Engine make a container and remove it again, to see whether it would. It is not started, and its name must be one that
// nobody has. refused is why it is not made, left why it is not removed.
func (e *Engine) Probe(ctx context.Context, c Container) (refused, left error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
	defer cancel()
	_, refused = e.Create(ctx, c)
	if err := e.Remove(ctx, c.Name); err != nil { // it may be there even if the Engine could not say so
		left = fmt.Errorf("remove the container %s, which was made to try: %w", c.Name, err)
	}
	return refused, left
}

// Exec runs a command beside the container's own processes, waits for it and returns its exit code and output
// (the first 64 KiB). user "" is the container's.
func (e *Engine) Exec(ctx context.Context, id, user string, cmd ...string) (code int, output string, err error) {
	made, err := e.api.ExecCreate(ctx, id, client.ExecCreateOptions{User: user, Cmd: cmd, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, "", fmt.Errorf("create exec: %w", err)
	}
	at, err := e.api.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return 0, "", fmt.Errorf("start exec: %w", err)
	}
	output, err = readStreams(ctx, at.HijackedResponse)
	if err != nil {
		return 0, output, fmt.Errorf("read exec: %w", err)
	}
	// The exit code is set a moment after the streams have ended.
	for {
		st, err := e.api.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
		if err != nil {
			return 0, output, fmt.Errorf("inspect exec: %w", err)
		}
		if !st.Running {
			return st.ExitCode, output, nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return 0, output, context.Cause(ctx)
		}
	}
}

// Terminal runs a command on a terminal of its own beside the container's processes, until it ends or ctx does: then it
// may go on. IsNotRunning tells that the container cannot take one now.
func (e *Engine) Terminal(ctx context.Context, id, dir string, in io.Reader, out io.Writer, cmd ...string) error {
	made, err := e.api.ExecCreate(ctx, id, client.ExecCreateOptions{
		TTY: true, Cmd: cmd, WorkingDir: dir, Env: []string{"TERM=xterm"}, AttachStdin: true, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return fmt.Errorf("create exec: %w", err)
	}
	at, err := e.api.ExecAttach(ctx, made.ID, client.ExecAttachOptions{TTY: true})
	if err != nil {
		return fmt.Errorf("start exec: %w", err)
	}
	defer at.Close()
	defer context.AfterFunc(ctx, at.Close)()
	go func() { _, _ = io.Copy(at.Conn, in) }() // it ends with in, or with the connection
	_, err = io.Copy(out, at.Reader)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// IsNotRunning reports whether a container could not be entered because it does not run.
func IsNotRunning(err error) bool { return errdefs.IsConflict(err) }

// Info is a container in a list.
type Info struct {
	ID, Name, Image string
	Labels          map[string]string
	Running         bool
}

// Containers lists containers, ended ones too, that carry the label ("key" or "key=value").
func (e *Engine) Containers(ctx context.Context, label string) ([]Info, error) {
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", label)})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []Info
	for _, c := range list.Items {
		i := Info{ID: c.ID, Image: c.ImageID, Labels: c.Labels, Running: c.State == container.StateRunning}
		if len(c.Names) > 0 {
			i.Name = c.Names[0][1:]
		}
		out = append(out, i)
	}
	return out, nil
}

// Found is a container that exists, as far as it matters to others.
type Found struct {
	ID, Name string
	Running  bool
	Exit     Exit   // of the last run, if it is not running
	PID      int    // of its first process as this machine knows it, 0 = it is not running
	Network  string // it was created with
	// Addresses are those that it has now, by network.
	Addresses map[string]netip.Addr
	Mounts    []FoundMount
	Limits    Limits // memory, CPUs and cgroup parent
	CapDrop   []string
}

// FoundMount is what a container has mounted of the Engine's machine.
type FoundMount struct {
	Source, Target string
	Volume         string // "" = a bind
	ReadOnly       bool
}

// Find looks at a container, by ID or name.
func (e *Engine) Find(ctx context.Context, ref string) (Found, error) {
	r, err := e.api.ContainerInspect(ctx, ref, client.ContainerInspectOptions{})
	if err != nil {
		return Found{}, fmt.Errorf("inspect container: %w", err)
	}
	c := r.Container
	f := Found{ID: c.ID, Name: strings.TrimPrefix(c.Name, "/"), Addresses: map[string]netip.Addr{}}
	if c.State != nil {
		f.Running, f.PID, f.Exit = c.State.Running, c.State.Pid, Exit{c.State.ExitCode, c.State.OOMKilled}
	}
	if c.NetworkSettings != nil {
		for name, n := range c.NetworkSettings.Networks {
			if n != nil && n.IPAddress.IsValid() {
				f.Addresses[name] = n.IPAddress
			}
		}
	}
	if c.HostConfig != nil {
		f.Network = string(c.HostConfig.NetworkMode)
		f.CapDrop = c.HostConfig.CapDrop
		f.Limits = Limits{Memory: c.HostConfig.Memory, NanoCPUs: c.HostConfig.NanoCPUs, CgroupParent: c.HostConfig.CgroupParent}
	}
	for _, m := range c.Mounts {
		if m.Type == mount.TypeBind || m.Type == mount.TypeVolume {
			f.Mounts = append(f.Mounts, FoundMount{Source: m.Source, Target: m.Destination, Volume: m.Name, ReadOnly: !m.RW})
		}
	}
	return f, nil
}

func platform(s string) (ocispec.Platform, error) {
	var p ocispec.Platform
	parts := strings.SplitN(s, "/", 3)
	if len(parts) < 2 {
		return p, fmt.Errorf("platform %q is not os/architecture", s)
	}
	p.OS, p.Architecture = parts[0], parts[1]
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// securityOptions puts the content of a seccomp profile in the place of its path: the Engine cannot read our files.
//
// GitLab: seccomp=<path>, as docker run takes it.
func securityOptions(opts []string) ([]string, error) {
	out := slices.Clone(opts)
	for i, o := range opts {
		path, ok := strings.CutPrefix(o, "seccomp=")
		if !ok || path == "unconfined" || path == "builtin" {
			continue
		}
		profile, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("security_opt: %w", err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, profile); err != nil {
			return nil, fmt.Errorf("security_opt: %s: %w", path, err)
		}
		out[i] = "seccomp=" + compact.String()
	}
	return out, nil
}

// device reads docker run's --device form.
func device(s string) (container.DeviceMapping, error) {
	parts := strings.SplitN(s, ":", 3)
	m := container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
	if m.PathOnHost == "" {
		return m, fmt.Errorf("devices: %q names no device", s)
	}
	if len(parts) > 1 && parts[1] != "" {
		m.PathInContainer = parts[1]
	}
	if len(parts) > 2 && parts[2] != "" {
		m.CgroupPermissions = parts[2]
	}
	return m, nil
}
