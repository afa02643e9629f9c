package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
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
		`{"Image":"a","HostConfig":{"Binds":["/builds/group/demo/x:/x:ro","v:/v:nocopy","/var/run/docker.sock:/s"],"Tmpfs":{"/t":"size=1g"}}}`,
		`{"Image":"a","HostConfig":{"Mounts":[{"Type":"volume","Source":"v","Target":"/v","VolumeOptions":{"Subpath":"a","DriverConfig":{}}},{"Type":"image","Source":"b","Target":"/i"},{"Type":"tmpfs","Target":"/t"}]}}`,
		`{"Image":"a","HostConfig":{"NetworkMode":"mine","PidMode":"container:mine","VolumesFrom":["mine:ro"],"Links":["mine:db"]},"NetworkingConfig":{"EndpointsConfig":{"mine":{"Aliases":["x"]},"default":null}}}`,
		`{"Image":"a","HostConfig":{"Memory":-1,"MemorySwap":-1,"CpuQuota":9223372036854775807,"CpuPeriod":1,"Ulimits":[{"Name":"nofile","Soft":-1,"Hard":-1},null],"PidsLimit":0}}`,
		`{"Image":"a","HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"::","HostPort":"80-90"},{}],"53/udp":null},"PublishAllPorts":true}}`,
		`{"Image":"a","HostConfig":{"CapAdd":["NET_RAW","chown"],"CapDrop":["ALL"],"SecurityOpt":["no-new-privileges"],"Sysctls":{"net.ipv4.ip_forward":"1"},"Binds":["/builds/group/demo:/a:z"]},"Labels":{"slipway.guard":"x"}}`,
		`{"Image":"a","MacAddress":"02:42:ac:11:00:09","HostConfig":{"KernelMemory":1,"DiskQuota":5,"Runtime":"runc","LogConfig":{"Type":"none"},"RestartPolicy":{"Name":"always"}}}`,
		`{"Image":"a","Volumes":{"/x":{}},"Healthcheck":{"Interval":1},"StopTimeout":-1,"ExposedPorts":{"80":{}}}`,
		`null`, `[]`, `{}`, `{"Image":"a"}{"Image":"b"}`, `{"Image":"a","HostConfig":null,"NetworkingConfig":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var in createRequest
		if len(data) > createBody || decodeStrict(data, &in) != nil || in.Config == nil {
			return
		}
		p := fuzzPlanner()
		planned, err := p.plan("web", &in)
		if err != nil {
			var d *Denial
			var a *apiError
			if !errors.As(err, &d) && !errors.As(err, &a) {
				t.Fatalf("neither refused nor answered: %v", err)
			}
			return
		}
		request, err := p.finish(planned, fuzzMaker(p))
		if err != nil {
			t.Fatal(err)
		}
		sent, err := json.Marshal(request)
		if err != nil {
			t.Fatalf("decided upon what cannot be sent: %v", err)
		}
		if len(sent) > 16*len(data)+8192 {
			t.Fatalf("%d bytes became %d", len(data), len(sent))
		}
		var engine container.CreateRequest
		dec := json.NewDecoder(bytes.NewReader(sent))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&engine); err != nil || dec.More() {
			t.Fatalf("the Engine would not read %s: %v", sent, err)
		}
		again, err := json.Marshal(engine)
		if err != nil || !bytes.Equal(sent, again) {
			t.Fatalf("the Engine would read something else:\n%s\n%s", sent, again)
		}
		if err := checkJSON(sent); err != nil {
			t.Fatalf("what is sent can be read in two ways: %v", err)
		}
		if err := harmless(p, &engine); err != nil {
			t.Fatalf("%v: %s", err, sent)
		}
	})
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
		"tmpfs":        slices.ContainsFunc(keys(h.Tmpfs), func(s string) bool { return !strings.Contains(h.Tmpfs[s], "size=") }),
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

// TestCreateFieldsKnown fails when the types get a field that nobody decided about.
func TestCreateFieldsKnown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		of   any
		want int
	}{
		{container.Config{}, 24}, {container.HostConfig{}, 42}, {container.Resources{}, 29}, {mount.Mount{}, 10},
		{mount.BindOptions{}, 5}, {mount.VolumeOptions{}, 4}, {mount.TmpfsOptions{}, 3}, {mount.ImageOptions{}, 1},
	} {
		if n := reflect.TypeOf(c.of).NumField(); n != c.want {
			t.Errorf("%T has %d fields, not the %d that rules were written for", c.of, n, c.want)
		}
	}
}
