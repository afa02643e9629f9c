package guard

import (
	"slices"

	"github.com/moby/moby/api/types/container"
)

// resources are a new container's limits: what the client asks for, at most what the job has. What weighs the container
// against those of others, or picks CPUs and disks, is dropped.
func (p *planner) resources(in container.Resources) container.Resources {
	out := p.changes(in)
	limits := p.policy.Limits
	if out.Memory == 0 {
		out.Memory = limits.Memory
	}
	if limits.Memory > 0 && out.MemorySwap == 0 {
		// Left out, it would be twice the memory.
		out.MemorySwap = max(out.Memory, min(2*out.Memory, limits.Memory))
	}
	if out.NanoCPUs == 0 && out.CPUQuota == 0 {
		out.NanoCPUs = limits.NanoCPUs
	}
	if out.PidsLimit == nil {
		out.PidsLimit = &limits.PIDs
	}
	return out
}

// changes are the limits that the client names, at most what the job has. They are what an update may change.
func (p *planner) changes(in container.Resources) container.Resources {
	var out container.Resources
	p.memory(in, &out)
	p.cpus(in, &out)
	if in.PidsLimit != nil {
		n := *in.PidsLimit
		if n <= 0 || n > p.policy.Limits.PIDs {
			if n > 0 {
				p.warn("the limit of processes became %d, the job's limit", p.policy.Limits.PIDs)
			}
			n = p.policy.Limits.PIDs
		}
		out.PidsLimit = &n
	}
	if in.OomKillDisable != nil && *in.OomKillDisable {
		p.warn("a container without memory is ended like all others")
	}
	if in.CPUShares != 0 || in.BlkioWeight != 0 || len(in.BlkioWeightDevice)+len(in.BlkioDeviceReadBps)+len(in.BlkioDeviceWriteBps)+
		len(in.BlkioDeviceReadIOps)+len(in.BlkioDeviceWriteIOps) > 0 || in.CPURealtimePeriod != 0 || in.CPURealtimeRuntime != 0 ||
		in.CpusetCpus != "" || in.CpusetMems != "" {
		p.warn("weights, CPU sets, real-time and disk limits were dropped")
	}
	out.Ulimits = p.ulimits(in.Ulimits)
	return out
}

func (p *planner) memory(in container.Resources, out *container.Resources) {
	limit := p.policy.Limits.Memory
	out.Memory, out.MemorySwap, out.MemoryReservation = in.Memory, in.MemorySwap, in.MemoryReservation
	if s := in.MemorySwappiness; s != nil && *s >= 0 && *s <= 100 {
		out.MemorySwappiness = s
	}
	if limit <= 0 {
		return
	}
	if out.Memory > limit {
		p.warn("the memory limit became %d bytes, the job's limit", limit)
		out.Memory = limit
	}
	if out.MemorySwap > limit || out.MemorySwap < 0 {
		out.MemorySwap = limit
	}
	out.MemoryReservation = min(out.MemoryReservation, limit)
}

// cpus takes both ways to say a share of the CPUs. What the Engine would not take it may say itself.
func (p *planner) cpus(in container.Resources, out *container.Resources) {
	const usualPeriod = 100_000
	limit := p.policy.Limits.NanoCPUs
	out.NanoCPUs, out.CPUPeriod, out.CPUQuota = in.NanoCPUs, in.CPUPeriod, in.CPUQuota
	if limit <= 0 {
		return
	}
	period := in.CPUPeriod
	if period <= 0 {
		period = usualPeriod
	}
	// A negative quota is none.
	if in.NanoCPUs > limit || in.CPUQuota < 0 || float64(in.CPUQuota)/float64(period) > float64(limit)/1e9 {
		p.warn("the CPU limit became %.2f, the job's limit", float64(limit)/1e9)
		out.NanoCPUs, out.CPUPeriod, out.CPUQuota = limit, 0, 0
	}
	// Never one without the other: an update would mix it with what the container has already.
	if out.CPUPeriod = 0; out.CPUQuota != 0 {
		out.CPUPeriod = period
	}
}

// maxFiles is what an Engine gives without being asked.
const maxFiles = 1 << 20

// ulimits leaves out those that would let a process push others from the machine's CPUs.
func (p *planner) ulimits(in []*container.Ulimit) []*container.Ulimit {
	var out []*container.Ulimit
	for _, u := range in {
		if u == nil {
			continue
		}
		u := *u
		switch {
		case slices.Contains([]string{"rtprio", "nice", "rttime"}, u.Name):
			p.warn("the ulimit %s was dropped", u.Name)
			continue
		case u.Name == "nofile":
			u.Soft, u.Hard = atMost(u.Soft, maxFiles), atMost(u.Hard, maxFiles)
		}
		out = append(out, &u)
	}
	return out
}

// atMost reads -1 as "without limit".
func atMost(n, limit int64) int64 {
	if n < 0 || n > limit {
		return limit
	}
	return n
}
