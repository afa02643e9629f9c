package cli

import (
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-ci/slipway/internal/docker"
)

// fixedEngine is the first that has the fixes of the holes in builds by which an image's author gets at the machine: CVE-2024-23651,
// -23652 and -23653 (24.0.9, 25.0.2), and of the daemon's socket, CVE-2024-41110 (25.0.6).
const fixedEngine = "25.0.6"

// machine judges what the Engine at host says of itself.
func (d *doctor) machine(host, version string, m docker.Machine) {
	if olderVersion(version, fixedEngine) {
		d.bad(warning, "update it, unless your distribution brings fixes to old versions", "the Engine at %s is %s: known holes are closed since %s (CVE-2024-23651 to -23653, CVE-2024-41110)", host, version, fixedEngine)
	} else {
		d.fine("the Engine at %s is %s", host, version)
	}
	if m.StorageDriver == "vfs" || m.StorageDriver == "devicemapper" {
		d.bad(warning, `let "storage-driver" in daemon.json be overlay2`, "its storage driver is %s, which makes each layer a copy", m.StorageDriver)
	}
	if m.CgroupDriver == "none" {
		d.bad(warning, "run the Engine as root, or with cgroup v2 and systemd", "it has no cgroups: limits of memory and processors do not hold")
	}
	for _, w := range m.Warnings {
		if strings.Contains(w, "API is accessible") {
			d.bad(broken, `take that "hosts" out of daemon.json, or protect it with TLS`, "who gets at the Engine's port owns this machine: %s", strings.TrimPrefix(w, "WARNING: "))
		}
	}
}

// users tells what does not work where the users of containers have other numbers on the machine.
func (d *doctor) users(m docker.Machine, root bool) {
	switch {
	case !m.MapsUsers:
	case m.FirstUser == 0:
		d.bad(warning, "use an Engine that runs as root, with userns-remap if containers are to have users of their own",
			"nobody knows whom the Engine maps the users of containers to: jobs cannot change the modes of their sources, nor with FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR the sources themselves")
	case !root:
		d.bad(warning, "run slipway as root", "the Engine maps the users of containers to %d and following (userns-remap): what jobs leave as such users, slipway cannot remove", m.FirstUser)
	default:
		d.fine("the Engine maps the users of containers to %d and following: jobs' files are given to those", m.FirstUser)
	}
}

// olderVersion compares the numbers at the beginning of two versions.
func olderVersion(a, b string) bool {
	numbers := func(v string) (out []int) {
		v, _, _ = strings.Cut(v, "+")
		v, _, _ = strings.Cut(v, "-")
		for part := range strings.SplitSeq(v, ".") {
			n, _ := strconv.Atoi(part)
			out = append(out, n)
		}
		return out
	}
	return slices.Compare(numbers(a), numbers(b)) < 0
}
