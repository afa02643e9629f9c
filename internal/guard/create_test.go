package guard

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// object is a JSON object.
type object = map[string]any

// container asks for a container with the test image and a shell line, and returns its ID.
func (r *rig) container(name, line string, host object, more ...object) string {
	r.t.Helper()
	body := object{"Image": alpine, "Cmd": []string{"sh", "-c", line}, "HostConfig": host}
	for _, m := range more {
		maps.Copy(body, m)
	}
	status, text := r.do("POST", "/containers/create?name="+name, body)
	if status != http.StatusCreated {
		r.t.Fatalf("create %s: %d %s", name, status, text)
	}
	var answer struct {
		ID       string `json:"Id"`
		Warnings []string
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		r.t.Fatal(err)
	}
	r.warnings = strings.Join(answer.Warnings, "\n")
	return answer.ID
}

// output runs a container of the guard's and returns what it printed.
func (r *rig) output(id string) string {
	r.t.Helper()
	return r.host("start", "--attach", id)
}

// TestCreateRefused attacks. Nothing of it may reach the Engine.
func TestCreateRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) {
		o.Policy.Sockets = append(o.Policy.Sockets, "/builds/run/docker.sock")
	})
	victim := strings.TrimSpace(r.host("run", "--detach", "--volume", "/victim", alpine, "sleep", "600"))
	t.Cleanup(func() { r.host("rm", "--force", "--volumes", victim) })
	volume := "slipway-test-" + r.policy.Token
	r.host("volume", "create", volume)
	t.Cleanup(func() { r.host("volume", "rm", volume) })
	for name, target := range map[string]string{
		"etc": "/etc", "root": "/", "proc": "/proc/self/root/etc", "up": "../../../../../../etc", "run": "/var/run", "engine": "/run",
		"chain": "etc/ssl",
	} {
		if err := os.Symlink(target, r.workspace+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	before := r.calls.String()

	var flood strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&flood, `"%d/tcp":{},`, i+1)
	}
	const forbidden, bad = http.StatusForbidden, http.StatusBadRequest
	host := func(fields string) string { return `{"Image":"` + alpine + `","HostConfig":{` + fields + `}}` }
	for _, c := range []struct {
		name, body string
		status     int
		says       string
	}{
		// What a container may be.
		{"privileged", host(`"Privileged":true`), forbidden, "[privileged]"},
		{"a flood of ports", `{"Image":"` + alpine + `","ExposedPorts":{` + strings.TrimSuffix(flood.String(), ",") + `},"HostConfig":{"PublishAllPorts":true}}`, forbidden, "[limit-ports]"},
		{"lower case", `{"image":"` + alpine + `","hostconfig":{"privileged":true}}`, forbidden, "[privileged]"},
		{"twice", `{"Image":"` + alpine + `","HostConfig":{},"HostConfig":{"Privileged":true}}`, bad, "twice"},
		{"twice, folded", `{"Image":"` + alpine + `","HostConfig":{},"hostConfig":{"Privileged":true}}`, bad, "twice"},
		{"long s", `{"Image":"` + alpine + `","Ho` + "ſ" + `tConfig":{"Privileged":true}}`, bad, "not ASCII"},
		{"long s, escaped", `{"Image":"` + alpine + `","Ho\u017ftConfig":{"Privileged":true}}`, bad, "not ASCII"},
		{"Kelvin", host(`"Networ` + "\u212a" + `Mode":"host"`), bad, "not ASCII"},
		{"second document", host(``) + host(`"Privileged":true`), bad, "more after"},
		{"trailing text", host(``) + `x`, bad, "not acceptable"},
		{"BOM", "\ufeff" + host(``), bad, "not acceptable"},
		{"not UTF-8", host(`"Runtime":"` + "\xff" + `"`), bad, "UTF-8"},
		{"an array", `[` + host(``) + `]`, bad, "decoded"},
		{"null", `null`, bad, "image is missing"},
		{"empty", `{}`, bad, "image is missing"},
		{"no body", ``, bad, "Config cannot be empty"},
		{"long labels", `{"Image":"` + alpine + `","Labels":{"a":"` + strings.Repeat("a", maxLabels) + `"}}`, bad, "too long"},
		{"long command", `{"Image":"` + alpine + `","Cmd":["` + strings.Repeat("a", maxCommand+1) + `"]}`, bad, "too long"},
		{"many values", `{"HostConfig":{"Mounts":[` + strings.Repeat(`{},`, 60_000) + `{}]}}`, bad, "more than 50000 values"},
		{"deep", strings.Repeat(`{"HostConfig":`, 100) + `1` + strings.Repeat(`}`, 100), bad, "nests deeper"},
		{"PidMode", host(`"PidMode":"host"`), forbidden, "[namespace-host]"},
		{"UTSMode", host(`"UTSMode":"host"`), forbidden, "[namespace-host]"},
		{"IpcMode", host(`"IpcMode":"host"`), forbidden, "[namespace-host]"},
		{"UsernsMode", host(`"UsernsMode":"host"`), forbidden, "[namespace-host]"},
		{"CgroupnsMode", host(`"CgroupnsMode":"host"`), forbidden, "[namespace-host]"},
		{"Cgroup", host(`"Cgroup":"container:` + victim + `"`), forbidden, "[namespace-host]"},
		{"PidMode of another", host(`"PidMode":"container:` + victim + `"`), bad, "No such container: " + victim},
		{"IpcMode of another", host(`"IpcMode":"container:` + victim[:12] + `"`), bad, "No such container: " + victim[:12]},
		{"CapAdd", host(`"CapAdd":["SYS_ADMIN"]`), forbidden, "[capability]"},
		{"CapAdd, long", host(`"CapAdd":["cap_sys_ptrace"]`), forbidden, "[capability]"},
		{"CapAdd all", host(`"CapAdd":["all"]`), forbidden, "[capability]"},
		{"seccomp", host(`"SecurityOpt":["seccomp=unconfined"]`), forbidden, "[security-opt]"},
		{"apparmor", host(`"SecurityOpt":["no-new-privileges","apparmor:unconfined"]`), forbidden, "[security-opt]"},
		{"cgroups", host(`"SecurityOpt":["writable-cgroups=true"]`), forbidden, "[security-opt]"},
		{"no-new-privileges off", host(`"SecurityOpt":["no-new-privileges=false"]`), forbidden, "[security-opt]"},
		{"MaskedPaths", host(`"MaskedPaths":[]`), forbidden, "[masked-paths]"},
		{"ReadonlyPaths", host(`"ReadonlyPaths":[]`), forbidden, "[masked-paths]"},
		{"Devices", host(`"Devices":[{"PathOnHost":"/dev/kmsg","PathInContainer":"/dev/kmsg","CgroupPermissions":"rwm"}]`), forbidden, "[devices]"},
		{"DeviceCgroupRules", host(`"DeviceCgroupRules":["a *:* rwm"]`), forbidden, "[devices]"},
		{"DeviceRequests", host(`"DeviceRequests":[{"Count":-1,"Capabilities":[["gpu"]]}]`), forbidden, "[devices]"},
		{"kernel sysctl", host(`"Sysctls":{"kernel.core_pattern":"|/x"}`), forbidden, "[sysctl]"},
		{"sysctl path", host(`"Sysctls":{"net.ipv4/../../kernel/core_pattern":"|/x"}`), forbidden, "[sysctl]"},
		{"log driver", host(`"LogConfig":{"Type":"syslog","Config":{"syslog-address":"tcp://127.0.0.1:514"}}`), forbidden, "[log-driver]"},
		{"runtime", host(`"Runtime":"io.containerd.runc.v2"`), forbidden, "[runtime]"},
		{"volume driver", host(`"VolumeDriver":"sshfs"`), forbidden, "[volume-driver]"},
		// Networks.
		{"host network", host(`"NetworkMode":"host"`), forbidden, "[network-host]"},
		{"network of another", host(`"NetworkMode":"container:` + victim + `"`), bad, "No such container"},
		{"strange network", host(`"NetworkMode":"docker_gwbridge"`), bad, "network docker_gwbridge not found"},
		{"strange endpoint", `{"Image":"` + alpine + `","NetworkingConfig":{"EndpointsConfig":{"docker_gwbridge":{}}}}`, bad, "network docker_gwbridge not found"},
		{"host endpoint", `{"Image":"` + alpine + `","NetworkingConfig":{"EndpointsConfig":{"host":{}}}}`, bad, "network host not found"},
		{"link to another", host(`"Links":["` + victim + `:db"]`), bad, "No such container"},
		// Places.
		{"root", host(`"Binds":["/:/host"]`), forbidden, "[bind-socket-parent]"},
		{"root, the cure for who wants files", host(`"Binds":["/:/host"]`), forbidden, "; else only /builds/group/demo"},
		{"etc", host(`"Binds":["/etc:/x"]`), forbidden, "[bind-outside]"},
		{"secret", host(`"Binds":["/var/company-secret:/tmp"]`), forbidden, "only /builds/group/demo can be shared"},
		{"etc, long", host(`"Mounts":[{"Type":"bind","Source":"/etc","Target":"/x"}]`), forbidden, "[bind-outside]"},
		{"lower case mount", host(`"mounts":[{"type":"bind","source":"/etc","target":"/x"}]`), forbidden, "[bind-outside]"},
		{"etc by volume options", host(`"Mounts":[{"Type":"volume","Source":"v","Target":"/x","VolumeOptions":{"DriverConfig":{"Name":"local","Options":{"type":"none","o":"bind","device":"/etc"}}}}]`), forbidden, "[volume-driver]"},
		{"etc by nameless volume options", host(`"Mounts":[{"Type":"volume","Target":"/x","VolumeOptions":{"DriverConfig":{"Options":{"o":"bind","device":"/etc","type":"none"}}}}]`), forbidden, "[volume-driver]"},
		{"etc by VolumesFrom", host(`"VolumesFrom":["` + victim + `"]`), bad, "No such container"},
		{"dots", host(`"Binds":["/builds/group/demo/../../../etc:/x"]`), forbidden, "[bind-outside]"},
		{"near name", host(`"Binds":["/builds/group/demolition:/x"]`), forbidden, "[bind-outside]"},
		{"parent", host(`"Binds":["/builds/group:/x"]`), forbidden, "[bind-outside]"},
		{"link to etc", host(`"Binds":["/builds/group/demo/etc:/x"]`), forbidden, "[bind-outside]"},
		{"link to etc, long", host(`"Mounts":[{"Type":"bind","Source":"/builds/group/demo/etc","Target":"/x"}]`), forbidden, "[bind-outside]"},
		{"through a link", host(`"Binds":["/builds/group/demo/etc/ssl:/x"]`), forbidden, "/etc/ssl is a path of the machine"},
		{"chain", host(`"Binds":["/builds/group/demo/chain:/x"]`), forbidden, "[bind-outside]"},
		{"link to root", host(`"Binds":["/builds/group/demo/root:/x"]`), forbidden, "[bind-socket-parent]"},
		{"link to proc", host(`"Binds":["/builds/group/demo/proc:/x"]`), forbidden, "[bind-outside]"},
		{"link upwards", host(`"Binds":["/builds/group/demo/up:/x"]`), forbidden, "[bind-outside]"},
		{"proc", host(`"Binds":["/proc/1/root/etc:/x"]`), forbidden, "[bind-outside]"},
		{"the guard's folder", host(`"Binds":["` + r.dir + `:/x"]`), forbidden, "[bind-socket-parent]"},
		{"/var/run", host(`"Binds":["/var/run:/x"]`), forbidden, "[bind-socket-parent]"},
		{"/run/", host(`"Mounts":[{"Type":"bind","Source":"/run/","Target":"/x"}]`), forbidden, "[bind-socket-parent]"},
		{"link to run", host(`"Binds":["/builds/group/demo/run:/x"]`), forbidden, "[bind-socket-parent]"},
		{"containerd", host(`"Binds":["/run/containerd/containerd.sock:/x"]`), forbidden, "[bind-outside]"},
		{"Engine's data", host(`"Binds":["/var/lib/docker:/x"]`), forbidden, "[bind-outside]"},
		{"volume's folder", host(`"Binds":["/var/lib/docker/volumes/` + volume + `/_data:/x"]`), forbidden, "[bind-outside]"},
		{"propagation", host(`"Binds":["/builds/group/demo:/x:rshared"]`), forbidden, "[bind-propagation]"},
		{"propagation, long", host(`"Mounts":[{"Type":"bind","Source":"/builds/group/demo","Target":"/x","BindOptions":{"Propagation":"rshared"}}]`), forbidden, "[bind-propagation]"},
		{"relative", host(`"Binds":["../etc:/x"]`), bad, "includes invalid characters"},
		{"missing", host(`"Mounts":[{"Type":"bind","Source":"/builds/group/demo/none","Target":"/x"}]`), bad, "bind source path does not exist: /builds/group/demo/none"},
		{"newline", host(`"Binds":["/builds/group/demo/a\nb:/x"]`), bad, "character"},
		{"zero", host(`"Binds":["/builds/group/demo/a\u0000b:/x"]`), bad, "character"},
		{"too long", host(`"Binds":["/builds/group/demo` + strings.Repeat("/x", 3000) + `:/x"]`), bad, "too long"},
		{"too deep", host(`"Binds":["/builds/group/demo` + strings.Repeat("/x", 1000) + `:/x"]`), bad, "file name too long"},
		{"too many", host(`"Binds":["v:/x0"` + strings.Repeat(`,"v:/x"`, 100) + `]`), forbidden, "[limit-mounts]"},
		{"four parts", host(`"Binds":["/builds/group/demo:/x:ro:rw"]`), bad, "invalid volume specification"},
		{"unknown mode", host(`"Binds":["/builds/group/demo:/x:exec"]`), bad, "invalid mode"},
		{"at root", host(`"Binds":["/builds/group/demo:/"]`), bad, "invalid volume specification"},
		{"npipe", host(`"Mounts":[{"Type":"npipe","Source":"/etc","Target":"/x"}]`), forbidden, "[mount-type]"},
		{"cluster", host(`"Mounts":[{"Type":"cluster","Source":"x","Target":"/x"}]`), forbidden, "[mount-type]"},
		{"no type", host(`"Mounts":[{"Source":"/etc","Target":"/x"}]`), forbidden, "[mount-type]"},
		{"subpath upwards", host(`"Mounts":[{"Type":"volume","Source":"v","Target":"/x","VolumeOptions":{"Subpath":"../.."}}]`), bad, "subpath"},
		{"tmpfs option", host(`"Tmpfs":{"/x":"size=1m,mpol=bind:0"}`), forbidden, "[tmpfs-option]"},
		{"tmpfs option, long", host(`"Mounts":[{"Type":"tmpfs","Target":"/x","TmpfsOptions":{"Options":[["shared"]]}}]`), forbidden, "[tmpfs-option]"},
		{"nulls", host(`"Mounts":[{}],"Ulimits":[null],"BlkioWeightDevice":[null]`), bad, "mount path"},
	} {
		status, text := r.do("POST", "/containers/create?name=attack", c.body)
		if status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %s", c.name, status, text)
		}
		lacks(t, text, r.workspace) // no path of the machine
	}
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	if status, text := r.do("POST", "/containers/create?name=attack", host(`"Privileged":true`), form...); status != forbidden || !strings.Contains(text, "[form-body]") {
		t.Errorf("a form: %d %s", status, text)
	}
	for _, name := range []string{"../x", "a/b", "a%20b", "-x", "a", "%C5%BF" + "abc"} {
		if status, text := r.do("POST", "/containers/create?name="+name, host(``)); status != bad {
			t.Errorf("the name %q: %d %s", name, status, text)
		}
	}
	lacks(t, strings.TrimPrefix(r.calls.String(), before), "POST /")
	if left := r.host("ps", "-aq", "--filter", "label="+LabelGuard+"="+r.policy.Token); left != "" {
		t.Errorf("there are containers: %s", left)
	}
}

// TestCreateVolumeNotOwned: a volume of somebody else is another volume of the same name.
func TestCreateVolumeNotOwned(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	volume := "slipway-test-" + r.policy.Token
	r.host("run", "--rm", "--volume", volume+":/v", alpine, "sh", "-c", "echo secret > /v/secret")
	t.Cleanup(func() { r.host("volume", "rm", volume) })
	for i, host := range []object{
		{"Binds": []string{volume + ":/v"}},
		{"Mounts": []object{{"Type": "volume", "Source": volume, "Target": "/v"}}},
	} {
		id := r.container(fmt.Sprintf("reader%d", i), "ls -a /v; echo mine > /v/mine", host)
		lacks(t, r.output(id), "secret")
	}
	lacks(t, r.host("run", "--rm", "--volume", volume+":/v", alpine, "ls", "/v"), "mine")
}

// TestCreateHonest is what jobs do all day.
func TestCreateHonest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := os.MkdirAll(r.workspace+"/sub/deep", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"file": "top", "sub/file": "below", "sub/deep/file": "deep"} {
		if err := os.WriteFile(r.workspace+"/"+name, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"near": "sub", "absolute": jobDir + "/sub/deep", "sock": "/var/run/docker.sock"} {
		if err := os.Symlink(target, r.workspace+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct {
		name, line string
		says       []string
		host, more object
	}{
		{
			"writing", "cat /w/file /sub/file; echo made > /w/made; touch /sub/written; echo new > /fresh/new; echo kept > /v/x; ls -d /x:y; touch /a/x /b/x /c/x && echo anonymous",
			[]string{"top", "below", "/x:y", "anonymous"},
			object{
				"Binds": []string{jobDir + ":/w", jobDir + "/sub:/sub:rw", jobDir + "/fresh/folder:/fresh", "data:/v", "/a"},
				"Mounts": []object{
					{"Type": "bind", "Source": jobDir + "/a b,c\"d:ro", "Target": "/x:y", "BindOptions": object{"CreateMountpoint": true}},
					{"Type": "volume", "Target": "/b"},
				},
			},
			object{"Volumes": object{"/c": object{}}},
		},
		{
			"reading", "exec 2>&1; cat /w/made /m/file /sub/file /long/file /file /near/file /absolute/file /dots/file /v/x; for f in w m sub v; do touch /$f/x || echo refused; done",
			[]string{"made\ntop\nbelow\nbelow\nbelow\nbelow\ndeep\nbelow\nkept\n", "/w/x: Read-only", "/m/x: Read-only", "/sub/x: Read-only", "/v/x: Read-only"},
			object{
				"Binds": []string{jobDir + "/:/w:ro,z", jobDir + "/sub:/sub:ro", jobDir + "/sub/file:/file", jobDir + "/near:/near", jobDir + "/absolute:/absolute:Z", jobDir + "/sub/deep/..:/dots:cached"},
				"Mounts": []object{
					{"Type": "bind", "Source": jobDir, "Target": "/m", "ReadOnly": true},
					{"Type": "bind", "Source": jobDir + "/sub", "Target": "/long", "Consistency": "cached", "BindOptions": object{"Propagation": "rprivate"}},
					{"Type": "volume", "Source": "data", "Target": "/v", "ReadOnly": true},
				},
			},
			nil,
		},
		{"the socket", "for s in /var/run/docker.sock /a /b /c; do test -S $s && echo socket; done", []string{"socket\nsocket\nsocket\nsocket\n"}, object{
			"Binds":  []string{"/var/run/docker.sock:/var/run/docker.sock", jobDir + "/sock:/a", r.Socket() + ":/b"},
			"Mounts": []object{{"Type": "bind", "Source": "/run/docker.sock", "Target": "/c", "ReadOnly": true}},
		}, nil},
		{
			"settings", "id -u; pwd; echo $A; ulimit -n; df -k /dev/shm | tail -1; cat /proc/sys/net/core/somaxconn /etc/hosts; mount | grep -E ' /(t|u) '; touch /x || echo refused",
			[]string{"1000\n/srv\nb\n512\n", " 131072 ", "\n99\n", "10.1.2.3", "size=65536k", "size=64k", "refused"},
			object{
				"ReadonlyRootfs": true, "Init": true, "ShmSize": 128 << 20, "Ulimits": []object{{"Name": "nofile", "Soft": 512, "Hard": 1024}},
				"Sysctls": object{"net.core.somaxconn": "99"}, "ExtraHosts": []string{"db:10.1.2.3"}, "Dns": []string{"192.0.2.1"}, "GroupAdd": []string{"7"},
				"Tmpfs": object{"/t": "size=64m,exec"}, "Mounts": []object{{"Type": "tmpfs", "Target": "/u", "TmpfsOptions": object{"SizeBytes": 65536}}},
			},
			object{"User": "1000:1000", "WorkingDir": "/srv", "Env": []string{"A=b"}},
		},
		{"capabilities", "grep CapEff /proc/self/status", []string{"CapEff:\t0000000000000001"}, object{"CapDrop": []string{"ALL"}, "CapAdd": []string{"CAP_CHOWN"}, "SecurityOpt": []string{"no-new-privileges:true"}}, nil},
		{"a command that is a string", "", []string{"hello"}, nil, object{"Entrypoint": []string{"echo", "hello"}, "Cmd": "there"}},
		{"zero values", "echo fine", []string{"fine"}, object{
			"Memory": 0, "KernelMemory": 0, "KernelMemoryTCP": 0, "MemorySwappiness": -1, "MaskedPaths": nil, "NetworkMode": "none",
			"PortBindings": object{}, "RestartPolicy": object{"Name": "no"}, "LogConfig": object{"Type": "", "Config": object{}}, "ConsoleSize": []int{0, 0},
			"Isolation": "", "ContainerIDFile": "/tmp/id", "OomKillDisable": false, "BlkioWeightDevice": []any{}, "PidsLimit": 0, "Binds": nil,
		}, object{"MacAddress": "", "NetworkingConfig": object{"EndpointsConfig": object{"none": nil}}}},
	} {
		if c.host == nil {
			c.host = object{}
		}
		c.host["NetworkMode"] = "none"
		id := r.container(fmt.Sprintf("honest%d", i), c.line, c.host, c.more)
		out := r.output(id)
		for _, says := range c.says {
			if !strings.Contains(out, says) {
				t.Errorf("%s: there is no %q in %q", c.name, says, out)
			}
		}
		r.host("rm", "--volumes", id)
		if r.warnings != "" {
			t.Errorf("%s: %s", c.name, r.warnings)
		}
	}
	for name, text := range map[string]string{"made": "made", "fresh/folder/new": "new", "sub/written": ""} {
		if got, err := os.ReadFile(r.workspace + "/" + name); err != nil || strings.TrimSpace(string(got)) != text {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	if _, err := os.Stat(r.workspace + "/x"); err == nil {
		t.Error("something was written through a read-only mount")
	}
}

// TestCreateDecided looks at the end state of what is changed in silence or with a warning.
func TestCreateDecided(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) {
		o.Policy.CgroupParent = "/slipway-test-" + o.Policy.Token
		o.Policy.CapDrop, o.Policy.CapAdd = []string{"NET_RAW"}, []string{"CAP_SYS_PTRACE"}
		o.Policy.Limits = Limits{Memory: 256 << 20, NanoCPUs: 1e9, PIDs: 100, ShmSize: 32 << 20, Tmpfs: 1 << 20}
	})
	id := r.container("decided", "true", object{
		"NetworkMode": "none", "CgroupParent": "/", "Memory": 1 << 40, "MemorySwap": -1, "NanoCpus": int64(8e9), "PidsLimit": -1, "OomKillDisable": true,
		"OomScoreAdj": -900, "CpuShares": 4096, "BlkioWeight": 900, "CpusetCpus": "0", "ShmSize": 1 << 30,
		"Ulimits":       []object{{"Name": "rtprio", "Soft": 99, "Hard": 99}, {"Name": "nofile", "Soft": -1, "Hard": -1}},
		"RestartPolicy": object{"Name": "always"}, "LogConfig": object{"Type": "json-file", "Config": object{"max-size": "1t"}},
		"CapAdd": []string{"NET_RAW", "SYS_PTRACE"}, "Tmpfs": object{"/t": "size=90%"}, "Annotations": object{"a": "b"},
		"StorageOpt": object{"size": "1t"}, "Runtime": "runc", "Whatever": 1,
	}, object{"Labels": object{"mine": "yes", "slipway.guard": "other", "SLIPWAY.x": "y"}, "StopTimeout": 3600, "MacAddress": "02:42:ac:11:00:09"})
	wants(t, r.warnings, "Whatever", "memory limit", "CPU limit", "restart policy always became no", "/dev/shm", "NET_RAW", "annotations", "rtprio", "stop timeout", "MAC address")
	var doc []struct {
		Name   string
		Config struct {
			Labels      map[string]string
			StopTimeout int
			Image       string
		}
		HostConfig struct {
			CgroupParent                            string
			Memory, MemorySwap, NanoCpus, PidsLimit int64
			CPUShares                               int64 `json:"CpuShares"`
			BlkioWeight, OomScoreAdj                int
			CpusetCpus                              string
			OomKillDisable                          *bool
			ShmSize                                 int64
			Ulimits                                 []struct {
				Name       string
				Soft, Hard int64
			}
			RestartPolicy struct{ Name string }
			LogConfig     struct {
				Type   string
				Config map[string]string
			}
			CapAdd, CapDrop   []string
			Tmpfs, StorageOpt map[string]string
			Runtime           string
		}
	}
	if err := json.Unmarshal([]byte(r.host("inspect", id)), &doc); err != nil {
		t.Fatal(err)
	}
	d := doc[0]
	h := d.HostConfig
	got := fmt.Sprintln(d.Name, d.Config.StopTimeout, h.CgroupParent, h.Memory, h.MemorySwap >= 0 && h.MemorySwap <= 256<<20, h.NanoCpus, h.PidsLimit, h.CPUShares, h.BlkioWeight, h.OomScoreAdj,
		h.CpusetCpus, h.OomKillDisable == nil || !*h.OomKillDisable, h.ShmSize, h.Ulimits, h.RestartPolicy, h.LogConfig, h.CapAdd, h.CapDrop, h.Tmpfs, h.StorageOpt, h.Runtime)
	want := fmt.Sprintln("/"+r.policy.prefix()+"decided", 60, "/slipway-test-"+r.policy.Token, 256<<20, true, int64(1e9), 100, 0, 0, 0,
		"", true, 32<<20, "[{nofile 1048576 1048576}]", "{no}", "{json-file map[max-file:3 max-size:10m]}", "[SYS_PTRACE]", "[NET_RAW]", "map[/t:size=1048576]", "map[]", "runc")
	got, want = strings.ReplaceAll(got, "CAP_", ""), strings.ReplaceAll(want, "CAP_", "")
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	labels := fmt.Sprint(d.Config.Labels)
	wants(t, labels, "mine:yes", LabelGuard+":"+r.policy.Token)
	lacks(t, strings.ToLower(labels), "other", "slipway.x")

	status, text := r.do("POST", "/containers/decided/update", object{"Memory": 1 << 40, "MemorySwap": -1, "NanoCpus": int64(9e9), "PidsLimit": -1, "RestartPolicy": object{"Name": "always"}, "CpuShares": 9999})
	if status != http.StatusOK {
		t.Fatalf("update: %d %s", status, text)
	}
	if err := json.Unmarshal([]byte(r.host("inspect", id)), &doc); err != nil {
		t.Fatal(err)
	}
	if u := doc[0].HostConfig; u.Memory != 256<<20 || u.NanoCpus != 1e9 || u.PidsLimit != 100 || u.RestartPolicy.Name != "no" || u.CPUShares != 0 {
		t.Errorf("after the update: %+v", u)
	}
	if status, text = r.do("POST", "/containers/decided/update", object{"CpuQuota": 90_000_000}); status == http.StatusOK {
		if err := json.Unmarshal([]byte(r.host("inspect", id)), &doc); err != nil {
			t.Fatal(err)
		}
		if n := doc[0].HostConfig.NanoCpus; n != 1e9 {
			t.Errorf("after another update: %d %s", n, text)
		}
	}
	// Less is the client's to choose.
	if status, text = r.do("POST", "/containers/decided/update", object{"PidsLimit": 50}); status != http.StatusOK {
		t.Errorf("update: %d %s", status, text)
	}
	if got := r.host("inspect", "--format", "{{.HostConfig.PidsLimit}}", id); strings.TrimSpace(got) != "50" {
		t.Errorf("the limit of processes is %s", got)
	}
}

// TestUpdateForeign: neither others' containers nor the job's own can be updated.
func TestUpdateForeign(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	victim := strings.TrimSpace(r.host("create", "--network", "none", alpine, "true"))
	t.Cleanup(func() { r.host("rm", "--force", victim) })
	if status, text := r.do("POST", "/containers/"+victim+"/update", object{"PidsLimit": 7}); status != http.StatusNotFound {
		t.Errorf("%d %s", status, text)
	}
	r.JobContainer(victim, "the-job")
	status, text := r.do("POST", "/containers/the-job/update", object{"PidsLimit": 7})
	if status != http.StatusForbidden {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "[job-container]")
	lacks(t, r.host("inspect", "--format", "{{.HostConfig.PidsLimit}}", victim), "7")
	lacks(t, r.calls.String(), "/update")
	if status, text := r.do("POST", "/containers/create?name=the-job", object{"Image": alpine}); status != http.StatusConflict {
		t.Errorf("the name of the job's container: %d %s", status, text)
	}
}

// TestCreateNetworks: names, links, the job's default network, and the namespaces of other containers.
func TestCreateNetworks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if status, text := r.do("POST", "/networks/create", object{"Name": "mine"}); status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	db := r.container("db", "sleep 600", object{"NetworkMode": "default", "PortBindings": object{"80/tcp": []object{{"HostPort": "8080-8090"}}, "53/udp": nil}, "PublishAllPorts": true},
		object{"NetworkingConfig": object{"EndpointsConfig": object{"default": object{"Aliases": []string{"database"}, "IPAMConfig": object{"IPv4Address": "10.9.8.7"}}}}, "ExposedPorts": object{"5432/tcp": object{}}})
	wants(t, r.warnings, "fixed address")
	r.host("start", db)
	rec, err := r.objects.container("db")
	if got := fmt.Sprint(rec.Ports); err != nil || got != "[{53 udp  0 0} {80 tcp  8080 8090} {5432 tcp  0 0}]" {
		t.Errorf("ports: %s %v", got, err)
	}
	lacks(t, r.host("port", db), "8080")
	pinged := r.container("ping", "for n in db database store; do ping -c1 -w60 $n >/dev/null && echo reached $n; done", object{"Links": []string{"/db:/ping/store"}})
	wants(t, r.output(pinged), "reached db", "reached database", "reached store")
	other := r.container("other", "ping -c1 -w1 db >/dev/null 2>&1 || echo apart", object{"NetworkMode": "mine"}, object{"NetworkingConfig": object{"EndpointsConfig": object{"mine": object{}}}})
	wants(t, r.output(other), "apart")
	beside := r.container("beside", "hostname", object{"NetworkMode": "container:db", "PidMode": "container:" + db[:12], "IpcMode": "private"})
	wants(t, r.output(beside), db[:12])
	if status, text := r.do("POST", "/containers/create?name=db", object{"Image": alpine, "HostConfig": object{"NetworkMode": "none"}}); status != http.StatusConflict || strings.Contains(text, "slipwayjob") {
		t.Errorf("a name twice: %d %s", status, text)
	}
	if status, text := r.do("POST", "/containers/create", object{"Image": alpine, "HostConfig": object{"NetworkMode": "container:db", "PortBindings": object{"80/tcp": []object{{"HostPort": "1"}}}}}); status != http.StatusBadRequest {
		t.Errorf("ports of another's network: %d %s", status, text)
	}
	r.host("rm", "--force", db)
}

// TestCreatePins: a pin stays where it was while names are swapped, also over a restart; it goes with its last user.
func TestCreatePins(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if r.engine.version.atLeast("1.45") {
		t.Skip("this Engine mounts parts of volumes safely")
	}
	secret := t.TempDir()
	for name, text := range map[string]string{r.workspace + "/sub/mark": "mine", secret + "/mark": "secret"} {
		if err := os.MkdirAll(name[:strings.LastIndex(name, "/")], 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	host := object{"NetworkMode": "none", "Binds": []string{jobDir + "/sub:/x"}}
	first := r.container("first", "cat /x/mark", host)
	second := r.container("second", "cat /x/mark", object{"NetworkMode": "none", "VolumesFrom": []string{"first:ro"}})
	if err := os.Rename(r.workspace+"/sub", r.workspace+"/old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, r.workspace+"/sub"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{first, second, first} {
		if out := r.output(id); out != "mine\n" {
			t.Errorf("%s shows %q", id[:12], out)
		}
	}
	rec, err := r.objects.container(first)
	if err != nil || len(rec.Pins) != 1 || rec.Sources["/x"] != jobDir+"/sub" {
		t.Errorf("%+v %v", rec, err)
	}
	r.unpin(rec.ID)
	r.host("rm", first)
	if out := r.output(second); out != "mine\n" {
		t.Errorf("without the first one: %q", out)
	}
	if n := r.pins.Len(); n != 1 {
		t.Errorf("%d pins", n)
	}
	r.host("rm", second)
	if err := r.forgetGone(t.Context()); err != nil {
		t.Error(err)
	}
	if n := r.pins.Len(); n != 0 {
		t.Errorf("%d pins are left", n)
	}
	if got, err := os.ReadFile(r.workspace + "/old/mark"); err != nil || string(got) != "mine\n" {
		t.Errorf("%q %v", got, err)
	}
}

// TestCreateRace exchanges a folder and a link to a secret while containers are made and started.
func TestCreateRace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	secret := t.TempDir()
	for name, text := range map[string]string{r.workspace + "/x/mark": "mine", secret + "/mark": "secret"} {
		if err := os.MkdirAll(name[:strings.LastIndex(name, "/")], 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, r.workspace+"/y"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond): // leaves a CPU to the others
				_ = unix.Renameat2(unix.AT_FDCWD, r.workspace+"/x", unix.AT_FDCWD, r.workspace+"/y", unix.RENAME_EXCHANGE)
			}
		}
	})
	made, refused := 0, 0
	for i := 0; i < 40 && (made < 4 || refused < 4); i++ {
		status, text := r.do("POST", fmt.Sprintf("/containers/create?name=race%d", i), object{
			"Image": alpine, "Cmd": []string{"cat", "/s/mark"}, "HostConfig": object{"NetworkMode": "none", "Binds": []string{jobDir + "/x:/s"}},
		})
		switch {
		case status == http.StatusForbidden:
			refused++
		case status != http.StatusCreated:
			t.Errorf("%d %s", status, text)
		case made < 4:
			made++
			// An Engine that looks the name up again at the start may refuse it then.
			out, err := run(engineHost(), "", "start", "--attach", r.policy.prefix()+fmt.Sprintf("race%d", i))
			if out != "mine\n" && (err == nil || !r.engine.version.atLeast("1.45") || !strings.Contains(out, "escapes")) {
				t.Errorf("run %d shows %q %v", i, out, err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if made == 0 {
		t.Errorf("%d made, %d refused", made, refused)
	}
}

// TestCreateNeedsRoot: without CAP_SYS_ADMIN a part of the workspace is refused, the whole of it works.
func TestCreateNeedsRoot(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Root = false })
	if err := os.Mkdir(r.workspace+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if r.engine.version.atLeast("1.45") {
		t.Skip("this Engine mounts parts of volumes safely")
	}
	status, text := r.do("POST", "/containers/create", object{"Image": alpine, "HostConfig": object{"NetworkMode": "none", "Binds": []string{jobDir + "/sub:/x"}}})
	if status != http.StatusForbidden {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "[needs-root]", "share the whole of "+jobDir)
	lacks(t, r.calls.String(), "/containers/create")
	id := r.container("whole", "ls /x", object{"NetworkMode": "none", "Binds": []string{jobDir + ":/x"}})
	wants(t, r.output(id), "sub")
}

// TestCreateReadOnlyPlace: what the job has read-only, its containers have read-only.
func TestCreateReadOnlyPlace(t *testing.T) {
	t.Parallel()
	fixed := t.TempDir()
	r := newRig(t, func(o *Options) {
		o.Policy.Mounts = append(o.Policy.Mounts, Mount{Destination: "/fixed", Source: fixed, ReadOnly: true})
	})
	if err := os.Mkdir(fixed+"/sub", 0o777); err != nil {
		t.Fatal(err)
	}
	for i, source := range []string{"/fixed", "/fixed/sub"} {
		id := r.container(fmt.Sprintf("ro%d", i), "touch /x/made || echo refused", object{"NetworkMode": "none", "Binds": []string{source + ":/x:rw"}})
		wants(t, r.output(id), "refused")
	}
	if status, text := r.do("POST", "/containers/create", object{"Image": alpine, "HostConfig": object{"NetworkMode": "none", "Binds": []string{"/fixed/none:/x"}}}); status != http.StatusBadRequest {
		t.Errorf("%d %s", status, text)
	}
}

// TestCreateLimit counts containers that are there, not those that were.
func TestCreateLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Limits.Containers = 2 })
	first := r.container("one", "true", object{"NetworkMode": "none"})
	r.container("two", "true", object{"NetworkMode": "none"})
	status, text := r.do("POST", "/containers/create?name=three", object{"Image": alpine})
	if status != http.StatusForbidden {
		t.Errorf("%d %s", status, text)
	}
	wants(t, text, "[limit-containers]")
	r.host("rm", first)
	r.container("three", "true", object{"NetworkMode": "none"})
}

// TestCreateWhileClosing: what is made while the guard closes does not stay.
func TestCreateWhileClosing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var wg sync.WaitGroup
	first := make(chan struct{})
	var once sync.Once
	for i := range 8 {
		wg.Go(func() {
			for n := range 20 {
				body := fmt.Sprintf(`{"Image":%q,"Volumes":{"/v":{}},"HostConfig":{"NetworkMode":"none","Binds":["%s/sub%d:/s"]}}`, alpine, jobDir, i)
				req, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://guard/containers/create?name=c%d-%d", i, n), strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				client := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "unix", r.Socket())
				}}
				resp, err := client.RoundTrip(req)
				if err != nil {
					return // the guard is closed
				}
				resp.Body.Close()
				once.Do(func() { close(first) })
			}
		})
	}
	<-first
	if err := r.Close(context.Background()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	r.leftovers()
	if pins, err := filepath.Glob(r.dir + "/m*"); err != nil || len(pins) > 0 {
		t.Errorf("pins are left: %v %v", pins, err)
	}
}

// TestCreateAudit lets everything pass and tells of it.
func TestCreateAudit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Audit = true })
	id := r.container("audited", "test -f /x/passwd && echo read", object{"SecurityOpt": []string{"seccomp=unconfined"}, "NetworkMode": "host", "Binds": []string{"/etc:/x:ro"}})
	wants(t, r.output(id), "read")
	wants(t, r.audit.String(), "rule=security-opt", "rule=network-host", "rule=bind-outside")
}

// TestHideFolderVolumes: errors of the Engine do not tell where its volumes are.
func TestHideFolderVolumes(t *testing.T) {
	t.Parallel()
	g := &Guard{policy: Policy{Token: "0123456789ab"}}
	got := g.hideFolderVolumes("base: /data/volumes/slipwayjob-0123456789ab-.folder0/_data, subpath: x")
	if want := "base: the job's folder, subpath: x"; got != want {
		t.Errorf("%q", got)
	}
}

// TestCreateFromJob: the job's own container is a source of mounts and namespaces, and stays as it is.
func TestCreateFromJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := r.job()
	r.host("exec", job, "touch", jobDir+"/mark")
	id := r.container("beside", "ls "+jobDir+"; test -S /var/run/docker.sock && echo socket; hostname; ls /proc/1/root/"+jobDir,
		object{"VolumesFrom": []string{job[:12]}, "NetworkMode": "container:" + job[:12], "PidMode": "container:" + job, "Binds": []string{"/anonymous"}})
	out := r.output(id)
	wants(t, out, "mark\nsocket\n"+job[:12], "mark\n")
	lacks(t, r.calls.String(), "/update")
	if volumes := r.jobVolumes(); len(volumes) != 1 {
		t.Errorf("volumes: %v", volumes)
	}
}

// TestCreateByClients runs what people type, with the clients of this machine.
func TestCreateByClients(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := os.MkdirAll(r.workspace+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.workspace+"/sub/file", []byte("below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := r.docker("run", "--name", "web", "--volume", jobDir+"/sub:/x:ro", "--volume", "data:/data", "--volume", "/anonymous", "--tmpfs", "/t", "--memory", "64m", "--cpus", "0.5",
		"--env", "A=b", "--user", "0", "--workdir", "/srv", "--init", "--read-only", "--cap-drop", "ALL", "--publish", "127.0.0.1:8080:80", "--add-host", "db:10.1.2.3",
		"--label", "mine=yes", "--health-cmd", "true", "--hostname", "web", "--restart", "unless-stopped", "--cidfile", t.TempDir()+"/id", alpine, "cat", "/x/file")
	wants(t, out, "below")
	shown := r.docker("inspect", "web")
	wants(t, shown, `"Source": "`+jobDir+`/sub"`, `"/web"`)
	lacks(t, shown, r.workspace, r.dir, r.policy.prefix(), ".folder")
	for i, path := range []string{"/usr/bin/docker", "/usr/local/bin/docker"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		cmd := exec.Command(path, "run", "--rm", "--volume", jobDir+"/sub:/x", "--mount", "type=bind,readonly,source="+jobDir+",target=/y", "--name", fmt.Sprintf("client%d", i), alpine, "cat", "/x/file", "/y/sub/file")
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+r.Socket())
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "below\nbelow\n" {
			t.Errorf("%s: %s %v", path, out, err)
		}
	}
	r.refused("privileged", "run", "--privileged", alpine, "true")
	r.refused("bind-outside", "run", "--volume", "/var/company-secret:/tmp", alpine, "cat", "/tmp/x")
	r.refused("masked-paths", "run", "--security-opt", "systempaths=unconfined", alpine, "true")
	r.docker("rm", "--volumes", "web")
	if n := r.pins.Len(); n > 1 {
		t.Errorf("%d pins are left", n)
	}
}
