package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/volume"

	"github.com/slipway-ci/slipway/internal/wire"
)

const (
	fuzzNetwork   = "1111111111111111111111111111111111111111111111111111111111111111"
	fuzzContainer = "2222222222222222222222222222222222222222222222222222222222222222"
	fuzzImage     = "sha256:3333333333333333333333333333333333333333333333333333333333333333"
)

// fuzzPlanner decides without an Engine.
func fuzzPlanner() *planner {
	p := Policy{
		Token: "0123456789ab", Scope: "s", Mounts: []Mount{{Destination: jobDir, Source: "/host/work"}, {Destination: "/cache", Volume: "cachevolume", Source: "/host/cache"}},
		Sockets: []string{"/var/run/docker.sock"}, CgroupParent: "/job", CapDrop: []string{"NET_RAW"}, CapAdd: []string{"SYS_PTRACE"},
		Limits: Limits{Memory: 1 << 30, NanoCPUs: 2e9}.withDefaults(),
	}
	return &planner{
		policy: p, socket: "/guard/docker.sock", version: apiVersion{1, 56},
		refuse: func(d *Denial) error { return d },
		container: func(ref string) (containerRecord, error) {
			if ref == "mine" {
				return containerRecord{ID: fuzzContainer, Name: "mine"}, nil
			}
			return containerRecord{}, noContainer(ref)
		},
		network: func(ref string) (networkRecord, error) {
			if ref == "mine" {
				return networkRecord{ID: fuzzNetwork, Name: "mine"}, nil
			}
			return networkRecord{}, noNetwork(ref)
		},
		image: func(ref string) (image, error) { return image{ID: fuzzImage}, nil },
		info:  func() (engineInfo, error) { return engineInfo{"runc", "2"}, nil },
	}
}

// fuzzMaker knows places by their names only.
func fuzzMaker(p *planner) maker {
	return maker{
		network: func() (string, error) { return strings.Repeat("4", 64), nil },
		volume:  func(name string) (string, error) { return p.policy.prefix() + name, nil },
		bind: func(m plannedMount) (boundPlace, error) {
			if m.source != path.Clean(m.source) {
				return boundPlace{}, errors.New("a path was decided upon that is not clean: " + m.source)
			}
			for _, place := range p.policy.Mounts {
				if m.source == place.Destination || within(m.source, place.Destination) {
					return boundPlace{source: "/guard/m1"}, nil
				}
			}
			if m.kind == mountSocket {
				return boundPlace{source: p.socket}, nil
			}
			return boundPlace{}, errors.New("a place was decided upon that the job does not have: " + m.source)
		},
	}
}

// FuzzCreate: whatever a client sends, what goes to the Engine means there what was decided here, and is harmless.
func FuzzCreate(f *testing.F) {
	for _, seed := range []string{
		`{"Image":"a","Cmd":["true"]}`,
		`{"image":"a","hostconfig":{"privileged":true}}`,
		`{"Image":"a","HostConfig":{"Binds":["/builds/group/demo/x:/x:ro","vol:/v:nocopy","/var/run/docker.sock:/s"],"Tmpfs":{"/t":"size=1g"}}}`,
		`{"Image":"a","HostConfig":{"Mounts":[{"Type":"volume","Source":"vol","Target":"/v","VolumeOptions":{"Subpath":"a","DriverConfig":{}}},{"Type":"image","Source":"b","Target":"/i"},{"Type":"tmpfs","Target":"/t"}]}}`,
		`{"Image":"a","HostConfig":{"NetworkMode":"mine","PidMode":"container:mine","VolumesFrom":["mine:ro"],"Links":["mine:db"]},"NetworkingConfig":{"EndpointsConfig":{"mine":{"Aliases":["x"]},"default":null}}}`,
		`{"Image":"a","HostConfig":{"Memory":-1,"MemorySwap":-1,"CpuQuota":9223372036854775807,"CpuPeriod":1,"Ulimits":[{"Name":"nofile","Soft":-1,"Hard":-1},null],"PidsLimit":0}}`,
		`{"Image":"a","HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"::","HostPort":"80-90"},{}],"53/udp":null},"PublishAllPorts":true}}`,
		`{"Image":"a","HostConfig":{"CapAdd":["NET_RAW","chown"],"CapDrop":["ALL"],"SecurityOpt":["no-new-privileges"],"Sysctls":{"net.ipv4.ip_forward":"1"},"Binds":["/builds/group/demo:/a:z"]},"Labels":{"slipway.guard":"x"}}`,
		`{"Image":"a","MacAddress":"02:42:ac:11:00:09","HostConfig":{"KernelMemory":1,"DiskQuota":5,"Runtime":"runc","LogConfig":{"Type":"none"},"RestartPolicy":{"Name":"always"}}}`,
		`{"Image":"a","Volumes":{"/x":{}},"Healthcheck":{"Interval":1},"StopTimeout":-1,"ExposedPorts":{"80":{}}}`,
		`{"Image":"a","HostConfig":{"Tmpfs":{"/t":"size=100g"},"Mounts":[{"Type":"tmpfs","Target":"/u","TmpfsOptions":{"SizeBytes":1099511627776}}]}}`,
		`{"Image":"a","HostConfig":{"Binds":["/builds/group/demo/a/../../../etc:/x","/builds/group/demo/../../../etc:/y"]}}`,
		`null`, `[]`, `{}`, `{"Image":"a"}{"Image":"b"}`, `{"Image":"a","HostConfig":null,"NetworkingConfig":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkCreate(t, data) })
}

// checkCreate decides about a body and looks at what would be sent, if anything would.
func checkCreate(t *testing.T, data []byte) (sent bool) {
	t.Helper()
	var in createRequest
	if len(data) > createBody || wire.Decode(data, &in) != nil || in.Config == nil {
		return false
	}
	p := fuzzPlanner()
	planned, err := p.plan("web", &in)
	if err != nil {
		var d *Denial
		var a *apiError
		if !errors.As(err, &d) && !errors.As(err, &a) {
			t.Fatalf("neither refused nor answered: %v", err)
		}
		return false
	}
	request, err := p.finish(planned, fuzzMaker(p))
	if err != nil {
		t.Fatal(err)
	}
	document, err := json.Marshal(request)
	if err != nil {
		t.Fatalf("decided upon what cannot be sent: %v", err)
	}
	if len(document) > 16*len(data)+8192 {
		t.Fatalf("%d bytes became %d", len(data), len(document))
	}
	var engine container.CreateRequest
	dec := json.NewDecoder(bytes.NewReader(document))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&engine); err != nil || dec.More() {
		t.Fatalf("the Engine would not read %s: %v", document, err)
	}
	again, err := json.Marshal(engine)
	if err != nil || !bytes.Equal(document, again) {
		t.Fatalf("the Engine would read something else:\n%s\n%s", document, again)
	}
	if err := wire.Check(document); err != nil {
		t.Fatalf("what is sent can be read in two ways: %v", err)
	}
	if err := harmless(p, &engine); err != nil {
		t.Fatalf("%v: %s", err, document)
	}
	return true
}

// TestCreateRandom fills the types with values that attackers and honest clients use, in any case of the keys.
func TestCreateRandom(t *testing.T) {
	t.Parallel()
	sent := 0
	const runs = 4000
	for seed := range uint64(runs) {
		g := &generator{rand.New(rand.NewPCG(seed, 1))}
		doc := g.value(reflect.TypeFor[createRequest](), 0)
		if m, ok := doc.(map[string]any); ok && seed%8 != 0 {
			m["Image"] = "a"
		}
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if checkCreate(t, data) {
			sent++
		}
	}
	t.Logf("%d of %d would be sent", sent, runs)
	if sent < runs/20 {
		t.Errorf("only %d of %d would be sent: the values are too wild to tell much", sent, runs)
	}
}

// generator makes JSON values for a type.
type generator struct{ *rand.Rand }

var wildStrings = []string{
	"", "a", "host", "none", "default", "bridge", "private", "shareable", "mine", "container:mine", "container:other", "container:", "other",
	"/", "/etc", "/etc:/x", "/x", "/builds/group/demo", "/builds/group/demo/x:/y:ro", "/builds/group/demo/../../..:/z", "/cache:/c:Z,ro", "vol:/v:nocopy",
	"/var/run/docker.sock:/s", "/run:/r", "/guard:/g", "mine:ro", "vol", "other:/o", "mine:db", "mine:rshared", "ALL", "SYS_ADMIN", "chown", "CAP_NET_RAW", "no-new-privileges", "seccomp=unconfined",
	"bind", "volume", "tmpfs", "image", "npipe", "cluster", "rprivate", "rshared", "local", "json-file", "syslog", "runc", "evil", "always", "on-failure", "no",
	"size=90%,exec", "size=1k", "mpol=bind", "net.ipv4.ip_forward", "kernel.core_pattern", "80/tcp", "80-90", "rtprio", "nofile", "../..", "sub/dir", "\x00", "é\u2028", "slipway.guard",
}

func (g *generator) value(t reflect.Type, depth int) any {
	if g.IntN(40) == 0 || depth > 8 {
		return nil
	}
	switch t.String() {
	case "netip.Addr":
		return []string{"", "10.0.0.1", "::1"}[g.IntN(3)]
	case "network.HardwareAddr":
		return []string{"", "02:42:ac:11:00:02"}[g.IntN(2)]
	}
	switch t.Kind() {
	case reflect.Pointer:
		return g.value(t.Elem(), depth)
	case reflect.Struct:
		out := map[string]any{}
		g.fields(t, depth, out)
		return out
	case reflect.Slice, reflect.Array:
		out := []any{}
		n := g.IntN(3)
		if t.Kind() == reflect.Array {
			n = t.Len()
		}
		for range n {
			out = append(out, g.value(t.Elem(), depth+1))
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for range g.IntN(3) {
			out[g.key(t.Key())] = g.value(t.Elem(), depth+1)
		}
		return out
	case reflect.Bool:
		return g.IntN(4) == 0
	case reflect.String:
		return wildStrings[g.IntN(len(wildStrings))]
	case reflect.Int, reflect.Int64:
		return []int64{-1, 0, 1, 3, 1000, 1 << 20, 1 << 40, math.MaxInt64, math.MinInt64}[g.IntN(9)]
	}
	return g.IntN(1000) // unsigned
}

// key is a map's key; ports are the only ones that are not plain strings.
func (g *generator) key(t reflect.Type) string {
	if t.Kind() == reflect.Struct {
		return []string{"80/tcp", "53/udp", "9/sctp"}[g.IntN(3)]
	}
	return wildStrings[g.IntN(len(wildStrings))]
}

func (g *generator) fields(t reflect.Type, depth int, out map[string]any) {
	for f := range fieldsOf(t) {
		if f.Anonymous {
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			g.fields(inner, depth, out)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		// Most are left out, or nearly everything would be refused.
		if !f.IsExported() || depth > 0 && g.IntN(12) != 0 && f.Name != "Type" && f.Name != "Target" && f.Name != "Source" || depth == 0 && g.IntN(3) == 0 {
			continue
		}
		if g.IntN(10) == 0 {
			name = strings.ToLower(name)
		}
		out[name] = g.value(f.Type, depth+1)
	}
}

func fieldsOf(t reflect.Type) iter.Seq[reflect.StructField] {
	return func(yield func(reflect.StructField) bool) {
		for field := range t.Fields() {
			if !yield(field) {
				return
			}
		}
	}
}

// harmless says what a container would have that no job gets. It knows nothing of how that is decided.
func harmless(p *planner, r *container.CreateRequest) error {
	h := r.HostConfig
	for name, bad := range map[string]bool{
		"privileged": h.Privileged,
		"ports":      len(h.PortBindings) > 0 || h.PublishAllPorts,
		"devices":    len(h.Devices)+len(h.DeviceCgroupRules)+len(h.DeviceRequests) > 0,
		"paths":      h.MaskedPaths != nil || h.ReadonlyPaths != nil,
		"cgroup":     h.CgroupParent != "/job" || h.Cgroup != "" || h.CgroupnsMode != "private",
		"namespace":  h.UTSMode != "" || h.UsernsMode != "" || strings.Contains(string(h.PidMode)+string(h.IpcMode), "host"),
		"another's":  !ownOnly(string(h.PidMode)) || !ownOnly(string(h.IpcMode)) || !ownOnly(string(h.NetworkMode)),
		"runtime":    h.Runtime != "" || h.Isolation != "" || h.VolumeDriver != "" || h.ContainerIDFile != "" || len(h.Annotations)+len(h.StorageOpt)+len(h.Links) > 0,
		"memory":     h.Memory <= 0 && h.Memory != in64(r) || h.Memory > 1<<30 || h.MemorySwap > 1<<30,
		"cpus":       h.NanoCPUs > 2e9 || h.CPUQuota > 0 && (h.CPUPeriod <= 0 || float64(h.CPUQuota)/float64(h.CPUPeriod) > 2) || h.CPUQuota < 0 || h.NanoCPUs == 0 && h.CPUQuota == 0,
		"pids":       h.PidsLimit == nil || *h.PidsLimit <= 0 || *h.PidsLimit > DefaultLimits.PIDs,
		"weights":    h.CPUShares != 0 || h.CpusetCpus != "" || h.CpusetMems != "" || h.BlkioWeight != 0 || h.CPURealtimeRuntime != 0 || h.OomKillDisable != nil || h.OomScoreAdj < 0,
		"shm":        h.ShmSize > DefaultLimits.ShmSize,
		"restart":    h.RestartPolicy.Name != "no" && (h.RestartPolicy.Name != "on-failure" || h.RestartPolicy.MaximumRetryCount > 3 || h.RestartPolicy.MaximumRetryCount < 1),
		"log driver": !slices.Contains([]string{"json-file", "local", "none"}, h.LogConfig.Type) || h.LogConfig.Type != "none" && h.LogConfig.Config["max-size"] != "10m",
		"image":      r.Image != fuzzImage,
		"label":      r.Labels[LabelGuard] != p.policy.Token,
		"on build":   len(r.OnBuild) > 0,
		"capability": slices.Contains(h.CapAdd, "NET_RAW") || !slices.Contains(h.CapDrop, "NET_RAW"),
		"no-privileges": slices.ContainsFunc(h.SecurityOpt, func(s string) bool {
			return !strings.HasPrefix(s, "no-new-privileges") || strings.HasSuffix(s, "false")
		}),
		"sysctl":       slices.ContainsFunc(keys(h.Sysctls), func(s string) bool { return strings.Contains(s, "/") || strings.HasPrefix(s, "kernel.core") }),
		"volumes from": slices.ContainsFunc(h.VolumesFrom, func(s string) bool { return !strings.HasPrefix(s, fuzzContainer) }),
		"tmpfs": slices.ContainsFunc(keys(h.Tmpfs), func(s string) bool {
			_, size, _ := strings.Cut(h.Tmpfs[s], "size=")
			n, err := parseSize(size)
			return err != nil || n <= 0 || n > DefaultLimits.Tmpfs
		}),
	} {
		if bad {
			return errors.New(name)
		}
	}
	for _, c := range h.CapAdd {
		if !slices.Contains(append([]string{"SYS_PTRACE"}, defaultCapabilities...), c) {
			return fmt.Errorf("capability %s", c)
		}
	}
	for k, e := range r.NetworkingConfig.EndpointsConfig {
		if k != fuzzNetwork && k != strings.Repeat("4", 64) {
			return fmt.Errorf("network %s", k)
		}
		if e.IPAMConfig != nil || len(e.MacAddress) > 0 || len(e.DriverOpts) > 0 || e.GwPriority != 0 {
			return fmt.Errorf("endpoint %+v", e)
		}
	}
	mounts := slices.Clone(h.Mounts)
	for _, b := range h.Binds {
		source, _, _ := strings.Cut(b, ":")
		kind := mount.TypeVolume
		if path.IsAbs(source) {
			kind = mount.TypeBind
		}
		mounts = append(mounts, mount.Mount{Type: kind, Source: source})
	}
	for _, m := range mounts {
		fine := false
		switch m.Type {
		case mount.TypeBind:
			fine = m.Source == "/guard/m1" || m.Source == "/guard/docker.sock"
			fine = fine && (m.BindOptions == nil || m.BindOptions.Propagation == "" && !m.BindOptions.CreateMountpoint)
		case mount.TypeVolume:
			fine = (m.Source == "" || strings.HasPrefix(m.Source, p.policy.prefix())) && (m.VolumeOptions == nil || m.VolumeOptions.DriverConfig == nil)
		case mount.TypeTmpfs:
			fine = m.TmpfsOptions != nil && m.TmpfsOptions.SizeBytes > 0 && m.TmpfsOptions.SizeBytes <= DefaultLimits.Tmpfs
		case mount.TypeImage:
			fine = m.Source == fuzzImage
		}
		if !fine {
			return fmt.Errorf("mount %+v", m)
		}
	}
	return nil
}

// in64 lets a memory limit below zero through: the Engine refuses it itself.
func in64(r *container.CreateRequest) int64 {
	if r.HostConfig.Memory < 0 {
		return r.HostConfig.Memory
	}
	return 1
}

// ownOnly reports whether a mode names no container but the job's.
func ownOnly(mode string) bool {
	return mode != "host" && (!strings.HasPrefix(mode, "container:") || mode == "container:"+fuzzContainer)
}

func keys(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}

// TestFieldsKnown fails when the types that clients' bodies are decoded into get a field that nobody decided about: some
// of them are forwarded whole.
func TestFieldsKnown(t *testing.T) {
	t.Parallel()
	known := map[string]string{
		"container.CreateRequest": "Config HostConfig NetworkingConfig",
		"container.Config": "Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd Healthcheck " +
			"ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled OnBuild Labels StopSignal StopTimeout Shell",
		"v1.HealthcheckConfig": "Test Interval Timeout StartPeriod StartInterval Retries",
		"container.HostConfig": "Binds ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver VolumesFrom ConsoleSize " +
			"Annotations CapAdd CapDrop CgroupnsMode DNS DNSOptions DNSSearch ExtraHosts GroupAdd IpcMode Cgroup Links OomScoreAdj PidMode Privileged " +
			"PublishAllPorts ReadonlyRootfs SecurityOpt StorageOpt Tmpfs UTSMode UsernsMode ShmSize Sysctls Runtime Umask Isolation Resources Mounts " +
			"MaskedPaths ReadonlyPaths Init",
		"container.LogConfig": "Type Config", "network.PortBinding": "HostIP HostPort", "container.RestartPolicy": "Name MaximumRetryCount",
		"container.Resources": "CPUShares Memory NanoCPUs CgroupParent BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps " +
			"BlkioDeviceReadIOps BlkioDeviceWriteIOps CPUPeriod CPUQuota CPURealtimePeriod CPURealtimeRuntime CpusetCpus CpusetMems Devices " +
			"DeviceCgroupRules DeviceRequests MemoryReservation MemorySwap MemorySwappiness OomKillDisable PidsLimit Ulimits CPUCount CPUPercent " +
			"IOMaximumIOps IOMaximumBandwidth",
		"mount.Mount":         "Type Source Target ReadOnly Consistency BindOptions VolumeOptions ImageOptions TmpfsOptions ClusterOptions",
		"mount.BindOptions":   "Propagation NonRecursive CreateMountpoint ReadOnlyNonRecursive ReadOnlyForceRecursive",
		"mount.VolumeOptions": "NoCopy Labels Subpath DriverConfig",
		"mount.Driver":        "Name Options",
		"mount.ImageOptions":  "Subpath",
		"mount.TmpfsOptions":  "SizeBytes Mode Options",
		"network.EndpointSettings": "IPAMConfig Links Aliases DriverOpts GwPriority NetworkID EndpointID Gateway IPAddress MacAddress IPPrefixLen " +
			"IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen DNSNames",
		"network.EndpointIPAMConfig": "IPv4Address IPv6Address LinkLocalIPs", "network.NetworkingConfig": "EndpointsConfig",
		"container.UpdateConfig":      "Resources RestartPolicy",
		"container.ExecCreateRequest": "User Privileged Tty ConsoleSize AttachStdin AttachStderr AttachStdout DetachKeys Env WorkingDir Cmd",
		"container.ExecStartRequest":  "Detach Tty ConsoleSize",
		"network.CreateRequest":       "Name Driver Scope EnableIPv4 EnableIPv6 IPAM Internal Attachable Ingress ConfigOnly ConfigFrom Options Labels",
		"network.IPAM":                "Driver Options Config", "network.ConfigReference": "Network",
		"network.ConnectRequest": "Container EndpointConfig", "network.DisconnectRequest": "Container Force",
		"volume.CreateRequest": "ClusterVolumeSpec Driver DriverOpts Labels Name",
		"registry.AuthConfig":  "Username Password Auth ServerAddress IdentityToken RegistryToken",
	}
	// What is dropped or refused whole, whatever is in it, and what has no fields of its own.
	whole := []string{
		"blkiodev.WeightDevice", "blkiodev.ThrottleDevice", "container.DeviceMapping", "container.DeviceRequest", "units.Ulimit", "mount.ClusterOptions",
		"network.IPAMConfig", "volume.ClusterVolumeSpec", "netip.Addr", "struct {}",
	}
	seen := map[reflect.Type]bool{}
	var walk func(of reflect.Type)
	walk = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
			walk(of.Elem())
			return
		}
		if of.Kind() != reflect.Struct || seen[of] || slices.Contains(whole, of.String()) {
			return
		}
		seen[of] = true
		var fields []string
		for f := range fieldsOf(of) {
			fields = append(fields, f.Name)
			walk(f.Type)
		}
		if got := strings.Join(fields, " "); got != known[of.String()] {
			t.Errorf("%s has the fields\n%s\nRules were written for\n%s", of, got, known[of.String()])
		}
	}
	for _, body := range []any{
		container.CreateRequest{},
		container.UpdateConfig{},
		container.ExecCreateRequest{},
		container.ExecStartRequest{},
		network.CreateRequest{},
		network.ConnectRequest{},
		network.DisconnectRequest{},
		volume.CreateRequest{},
		registry.AuthConfig{},
	} {
		walk(reflect.TypeOf(body))
	}
	if len(seen) != len(known) {
		t.Errorf("of the %d types %d are used", len(known), len(seen))
	}
}
