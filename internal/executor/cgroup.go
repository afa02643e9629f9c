package executor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"github.com/slipway-ci/slipway/internal/docker"
)

// cgroupRoot is where Linux shows the cgroups.
const cgroupRoot = "/sys/fs/cgroup"

// cpuPeriod is the time, in microseconds, within which a share of a CPU is counted: the Engine's own.
const cpuPeriod = 100_000

// jobCgroup is the cgroup of all containers of a job, its own and those that it starts: the operator's limits hold for
// them together, where each by itself could have them in full.
type jobCgroup struct {
	root, path string // path is below each hierarchy in root
}

// cgroupOf plans a job's cgroup. There is none where there is nothing to limit, or where it cannot be made: with
// systemd's driver the Engine takes slices only, which are systemd's to make.
func (s Settings) cgroupOf(l docker.Limits, token string) *jobCgroup {
	if l.Memory == 0 && l.NanoCPUs == 0 || s.Guard.Machine.CgroupDriver != "cgroupfs" || !IsAdmin() {
		return nil
	}
	parent := l.CgroupParent
	if parent == "" {
		parent = "slipway"
	}
	return &jobCgroup{cgroupRoot, path.Join("/", parent, cgroupName(s.Instance, token))}
}

func cgroupName(instance, token string) string { return instance + "-" + token }

// make makes the cgroup with the limits of one container.
func (c *jobCgroup) make(l docker.Limits) error {
	if _, err := os.Stat(filepath.Join(c.root, "cgroup.controllers")); err == nil {
		return c.makeUnified(l)
	}
	if l.Memory > 0 {
		if err := c.set("memory", map[string]int64{"memory.limit_in_bytes": l.Memory}); err != nil {
			return err
		}
	}
	if l.NanoCPUs == 0 {
		return nil
	}
	return c.set("cpu", map[string]int64{"cpu.cfs_period_us": cpuPeriod, "cpu.cfs_quota_us": l.NanoCPUs * cpuPeriod / 1e9})
}

// set writes limits in the hierarchy of one controller, as cgroups were before version 2.
func (c *jobCgroup) set(controller string, values map[string]int64) error {
	dir := filepath.Join(c.root, controller, c.path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the job's cgroup: %w", err)
	}
	for file, value := range values {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(value, 10)), 0o644); err != nil {
			return fmt.Errorf("limit the job's cgroup: %w", err)
		}
	}
	return nil
}

// makeUnified does the same with the one hierarchy of version 2, where each cgroup must hand the controllers down.
func (c *jobCgroup) makeUnified(l docker.Limits) error {
	dir := filepath.Join(c.root, c.path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the job's cgroup: %w", err)
	}
	if err := handDown(c.root, c.path); err != nil {
		return fmt.Errorf("limit the job's cgroup: %w", err)
	}
	if l.Memory > 0 {
		if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte(strconv.FormatInt(l.Memory, 10)), 0o644); err != nil {
			return fmt.Errorf("limit the job's cgroup: %w", err)
		}
	}
	if l.NanoCPUs > 0 {
		text := fmt.Sprintf("%d %d", l.NanoCPUs*cpuPeriod/1e9, cpuPeriod)
		if err := os.WriteFile(filepath.Join(dir, "cpu.max"), []byte(text), 0o644); err != nil {
			return fmt.Errorf("limit the job's cgroup: %w", err)
		}
	}
	return nil
}

// handDown lets a cgroup below root have the controllers for memory and CPU.
func handDown(root, below string) error {
	if below == "/" {
		return nil
	}
	up := path.Dir(below)
	if err := handDown(root, up); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, up, "cgroup.subtree_control"), []byte("+memory +cpu"), 0o644)
}

// remove removes the cgroup from all hierarchies: the Engine made it in those that we did not. The job's containers must
// be gone.
func (c *jobCgroup) remove() error {
	var errs []error
	found, _ := filepath.Glob(filepath.Join(c.root, "*", c.path))
	for _, dir := range append(found, filepath.Join(c.root, c.path)) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// SweepCgroups removes the cgroups of an instance's jobs that were interrupted, where nothing is left in them.
func SweepCgroups(instance string) {
	for _, hierarchy := range []string{"", "*"} {
		found, _ := filepath.Glob(filepath.Join(cgroupRoot, hierarchy, "slipway", cgroupName(instance, "*")))
		for _, dir := range found {
			_ = os.Remove(dir)
		}
	}
}
