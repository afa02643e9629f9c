package guard

import (
	"regexp"
	"strings"
	"testing"

	control "github.com/moby/buildkit/api/services/control"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
)

// limitedSteps is the first API of Engines whose steps can be given limits.
const limitedSteps = "1.56"

// showLimits prints what a step may have of memory, of memory and swap (of swap alone with cgroup v2), and of the processors.
const showLimits = "cd /sys/fs/cgroup; " +
	"echo memory $(cat memory/memory.limit_in_bytes memory.max 2>/dev/null).; " +
	"echo swap $(cat memory/memory.memsw.limit_in_bytes memory.swap.max 2>/dev/null).; " +
	"echo cpus $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu.max 2>/dev/null).; "

// limitsOf finds that in what a client prints.
func limitsOf(out string) string {
	var found []string
	for _, name := range []string{"memory", "swap", "cpus"} {
		if m := regexp.MustCompile(`(?m)[ ^](` + name + ` [0-9a-z -]*)\.$`).FindStringSubmatch(out); m != nil {
			found = append(found, m[1])
		}
	}
	return strings.Join(found, ", ")
}

// TestLimitsOfSteps: memory and processors of a step of buildx are bounded as a container's, by limits that are part of no key in the
// build cache. On older Engines, and for builds without buildx, they are not: COMPAT.md says so.
func TestLimitsOfSteps(t *testing.T) {
	t.Parallel()
	const memory, large = 64 << 20, 1 << 30
	limited := func(memory, nanoCPUs int64) func(*Options) {
		return func(o *Options) {
			o.Policy.Limits.Memory, o.Policy.Limits.NanoCPUs, o.Policy.SwapLimit = memory, nanoCPUs, true
		}
	}
	r := newRig(t, limited(memory, 5e8))
	step := showLimits + "dd if=/dev/zero of=/dev/null bs=16M count=1 # " + r.policy.Token
	honest := folder(t, "Dockerfile", "FROM "+alpine+"\nRUN "+step+"\n")
	greedy := folder(t, "Dockerfile", "FROM "+alpine+"\nRUN "+strings.Replace(step, "16M", "200M", 1)+"\n")
	holds := regexp.MustCompile(`^memory 67108864, swap (67108864|0), cpus 50000 100000$`)

	got := limitsOf(r.buildx(honest, "build", "-t", "made", "."))
	if !r.engine.version.atLeast(limitedSteps) {
		if holds.MatchString(got) {
			t.Errorf("the limits hold on API %s, too: %s; COMPAT.md says otherwise", r.engine.version, got)
		}
		t.Skipf("builders of Engines before API %s know no limits for steps: %s", limitedSteps, got)
	}
	if !holds.MatchString(got) {
		t.Errorf("a step has %s", got)
	}
	if out, err := r.buildxIn(greedy, "", "build", "."); err == nil {
		t.Errorf("a step had more memory than the limit:\n%s", out)
	}
	if out := r.buildx(honest, "build", "."); !strings.Contains(out, "CACHED") {
		t.Errorf("the second build is not cached:\n%s", out)
	}
	// What a client asks for has no effect.
	for key, value := range map[string]string{"memory": "1073741824", "memswap": "-1", "cpuquota": "-1", "cpuperiod": "1000", "cpushares": "100000", "cpusetcpus": "0"} {
		_, err := r.asBuildx(greedy, func(_ *control.SolveRequest, f *gateway.SolveRequest) { f.FrontendOpt[key] = value })
		if err == nil {
			t.Errorf("%s=%s: a step had more memory than the limit", key, value)
		}
	}
	// Another job of the project, with other limits.
	other := newRig(t, limited(large, 1e9), func(o *Options) { o.Images, o.Policy.Scope = r.Guard.images, r.policy.Scope })
	if out := other.buildx(honest, "build", "."); !strings.Contains(out, "CACHED") {
		t.Errorf("other limits make another key:\n%s", out)
	}
	if got := limitsOf(other.buildx(greedy, "build", ".")); !regexp.MustCompile(`^memory 1073741824, swap (1073741824|0), cpus 100000 100000$`).MatchString(got) {
		t.Errorf("with larger limits a step has %s", got)
	}
	// Without swap accounting nothing is said of it.
	noSwap := newRig(t, limited(memory, 0), func(o *Options) { o.Policy.SwapLimit = false })
	if got := limitsOf(noSwap.buildx(honest, "build", "--no-cache", ".")); !strings.HasPrefix(got, "memory 67108864, ") || holds.MatchString(got) {
		t.Errorf("without a limit of swap and processors a step has %s", got)
	}
	// What COMPAT.md says of the others.
	if out, code := r.buildWith("docker", "", "--no-cache", honest); code != 0 || holds.MatchString(limitsOf(out)) {
		t.Errorf("a build without buildx: %d\n%s", code, out)
	}
}
