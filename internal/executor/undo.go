package executor

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/guard"
)

// strict reports whether the configuration must not undo the guard: neither raw nor trust_config says that it may.
func (s Settings) strict() bool { return s.Socket != socketRaw && !s.Guard.TrustConfig }

// withhold takes from a container what would let a job around its guard, and names the keys of [runners.docker].
func withhold(c docker.Container) (docker.Container, []string) {
	var keys []string
	sec, x := c.Security, c.Extras
	if sec.Privileged {
		sec.Privileged = false
		keys = append(keys, "privileged")
	}
	for _, m := range []struct {
		key  string
		mode *string
	}{{"network_mode", &c.Network}, {"pid_mode", &sec.PidMode}, {"ipcmode", &sec.IpcMode}, {"userns_mode", &sec.UsernsMode}} {
		if *m.mode == "host" || strings.HasPrefix(*m.mode, "container:") {
			keys = append(keys, fmt.Sprintf("%s = %q", m.key, *m.mode))
			*m.mode = ""
		}
	}
	kept := keep(sec.CapAdd, guard.IsDefaultCapability)
	if len(kept) < len(sec.CapAdd) {
		keys = append(keys, "cap_add")
	}
	sec.CapAdd = kept
	kept = keep(sec.SecurityOpt, guard.IsNoNewPrivileges)
	if len(kept) < len(sec.SecurityOpt) {
		keys = append(keys, "security_opt")
	}
	sec.SecurityOpt = kept
	for _, l := range []struct {
		key  string
		list *[]string
	}{{"devices", &sec.Devices}, {"device_cgroup_rules", &sec.DeviceCgroupRules}, {"volumes_from", &x.VolumesFrom}} {
		if len(*l.list) > 0 {
			*l.list = nil
			keys = append(keys, l.key)
		}
	}
	c.Security, c.Extras = sec, x
	return c, keys
}

func keep(list []string, ok func(string) bool) (out []string) {
	for _, s := range list {
		if ok(s) {
			out = append(out, s)
		}
	}
	return out
}

// otherSockets are those of containerd and of other engines: whoever reaches one owns the machine as with the Engine's.
var otherSockets = []string{
	"/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock",
	"/run/buildkit/buildkitd.sock",
}

// dataFolders are where Engines and containerd have images and the files of running containers. Some may be "".
func dataFolders(m docker.Machine) []string {
	return []string{"/var/lib/containerd", "/run/containerd", "/run/docker", m.DataRoot, m.LayersDir, m.ArchivesDir}
}

// checkSource refuses a volume that leads around the guard.
func (s Settings) checkSource(text, source string, readOnly bool) error {
	if !s.strict() || !path.IsAbs(source) {
		return nil // names of volumes are looked at when the Engine says what they are
	}
	refuse := func(cure, what string) error {
		return configurationError(cure+`; or write trust_config = true in [runners.slipway], and every job owns the machine`,
			"volume %q of `volumes` in [runners.docker] gives jobs %s", text, what)
	}
	mounts := readMounts()
	if socket := s.engineSocket(); holds(mounts, source, socket) || holds(mounts, source, defaultSocket) {
		return refuse(fmt.Sprintf("write %q for a guarded socket, and name the other files one by one", socket+":"+defaultSocket), "the Engine's own socket")
	}
	for _, socket := range append(slices.Clone(otherSockets), s.Guard.Machine.ContainerdSocket) {
		if socket != "" && holds(mounts, source, socket) {
			return refuse("name the files that jobs need one by one", "the socket "+socket+" of another engine")
		}
	}
	for _, root := range dataFolders(s.Guard.Machine) {
		if root != "" && overlap(mounts, source, root) {
			return refuse(`use a named volume ("name:/path") instead`, "the Engine's data in "+root)
		}
	}
	for _, dir := range []string{s.StateDir, s.Guard.Dir} {
		if dir != "" && overlap(mounts, source, dir) {
			return refuse("name the folders that jobs need one by one", "Slipway's own files in "+dir)
		}
	}
	if outer := s.writableAround(mounts, source, false); outer != "" {
		return refuse(fmt.Sprintf("make %q read-only, or put the two side by side", outer), fmt.Sprintf("a place in volume %q, where a job could put a link to anywhere in its stead", outer))
	}
	for _, dir := range []string{"/proc", "/sys"} {
		if !readOnly && (isBelow(resolved(source), dir) || resolved(source) == "/") {
			return refuse(fmt.Sprintf("write %q", strings.TrimSuffix(text, ":rw")+":ro"), "the machine's kernel settings in "+dir)
		}
	}
	return nil
}

// writableAround is the volume through which jobs may write to a folder that is passed on the way to a place of the host:
// what they put there would be followed when the place is mounted for the next job. whole says that the place itself must
// not be such a volume, because only what lies in it is given to jobs.
func (s Settings) writableAround(mounts []mountPoint, source string, whole bool) string {
	for _, text := range s.Volumes {
		outer, target, mode, err := splitVolume(text)
		if err != nil || !path.IsAbs(outer) || isReadOnly(mode) || path.Clean(target) == path.Clean(s.BuildsDir) || s.isSocket(outer) {
			continue
		}
		// Each step by itself: a link that a job put in the place of one leads away from the volume.
		for p := path.Clean(source); p != "/"; p = path.Dir(p) {
			if (p != path.Clean(source) || whole || resolved(p) != resolved(outer)) && holds(mounts, outer, p) {
				return text
			}
		}
	}
	return ""
}

// CheckSource says why a place of the host must not be given to who has a guarded socket: it would lead around the guard.
// socket is the Engine's, own are the caller's folders.
func CheckSource(source, socket string, machine docker.Machine, own ...string) error {
	mounts := readMounts()
	for _, s := range append(slices.Clone(otherSockets), socket, defaultSocket, machine.ContainerdSocket) {
		if s != "" && holds(mounts, source, s) {
			return fmt.Errorf("%s has %s in it, which owns the machine", source, s)
		}
	}
	for _, dir := range slices.Concat(own, dataFolders(machine)) {
		if dir != "" && overlap(mounts, source, dir) {
			return fmt.Errorf("%s and %s, which belongs to the guard or the Engine, lie in each other", source, dir)
		}
	}
	return nil
}

// IsAdmin reports whether this process may mount and enter namespaces, by whatever user.
func IsAdmin() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// systemSockets lead to programs of the machine that do what root asks, who is root in a container too.
var systemSockets = []string{"/run/dbus", "/run/dbus/system_bus_socket", "/run/systemd", "/run/systemd/private"}

// systemFolders belong to the machine: who may write there can become its root without any socket.
var systemFolders = []string{"/etc", "/root", "/boot", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/var/spool", "/home"}

// socketWarnings are what a job's author should know about its socket.
func (s Settings) socketWarnings(p *plan) (out []string) {
	if !hasSocket(p.volumes) {
		return nil
	}
	if s.Socket == socketRaw {
		return []string{"the Engine's socket is mounted raw: this job controls the machine, and jobs beside it can read its variables and files"}
	}
	if s.Guard.TrustConfig {
		out = append(out, "trust_config = true in [runners.slipway]: the guard of the Engine's socket does not hold against what [runners.docker] gives this job")
	}
	if s.Guard.Audit {
		out = append(out, `socket_policy = "audit" in [runners.slipway]: what the guard of the Engine's socket would refuse is only noted`)
	}
	for _, key := range p.withheld {
		if key == "privileged" && p.dind != nil {
			continue // it was for the Docker-in-Docker
		}
		out = append(out, key+" in [runners.docker] is not given to this job, because it would undo the guard of the Engine's socket "+
			"(the runner's operator can write trust_config = true in [runners.slipway])")
	}
	for _, v := range p.volumes {
		if s.Guard.TrustConfig || v.socket || !path.IsAbs(v.source) {
			continue
		}
		source := resolved(v.source)
		if slices.Contains(systemSockets, source) {
			out = append(out, fmt.Sprintf("volume %q of [runners.docker] lets this job ask the machine's own services in %s: the guard of the Engine's socket does not hold against that", v.bind, source))
		}
		if v.readOnly {
			continue
		}
		for _, dir := range systemFolders {
			if source == dir || dir == "/etc" && isBelow(source, dir) {
				out = append(out, fmt.Sprintf("volume %q of [runners.docker] lets this job write to the machine's own %s: the guard of the Engine's socket does not hold against that", v.bind, source))
			}
		}
	}
	return out
}
