package guard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/internal/netns"
)

// place is where ports are opened and where containers are dialled from.
type place struct {
	ns     *netns.Namespace // nil = this machine's
	listen string           // address to listen on, "" = all
	joined map[string]bool  // IDs of the networks that can be reached from there; nil = all
}

// jobPlace is the network namespace of a job's container.
type jobPlace struct {
	pid     int
	started string
	ns      *netns.Namespace
}

// place finds where ports are opened; ok is false if nowhere.
func (p *ports) place(ctx context.Context) (at place, ok bool, err error) {
	job := p.g.objects.jobContainer()
	if job == "" {
		if !p.g.policy.PublishLocal {
			p.g.once("ports-nowhere", "slipway: published ports are not opened: no container is named as the job's (--publish-local opens them on this machine's 127.0.0.1)")
		}
		return place{listen: "127.0.0.1"}, p.g.policy.PublishLocal, nil
	}
	if !p.g.policy.Root {
		p.g.once("ports-need-root", "slipway: published ports are not opened: that needs root")
		return place{}, false, nil
	}
	c, err := p.inspect(ctx, job)
	if err != nil {
		return place{}, false, fmt.Errorf("inspect the job's container: %w", err)
	}
	ns, err := p.enter(ctx, job, c)
	if err != nil {
		return place{}, false, err
	}
	at = place{ns: ns, joined: map[string]bool{}}
	for _, n := range c.NetworkSettings.Networks {
		at.joined[n.NetworkID] = true
	}
	own, err := ns.Own()
	if own { // a job on the machine's own network: open to it alone, not to the machine's neighbours
		at.listen, at.joined = "127.0.0.1", nil
	}
	return at, err == nil, err
}

// enter takes hold of the network namespace of the job's container.
func (p *ports) enter(ctx context.Context, job string, c containerNet) (*netns.Namespace, error) {
	if !c.State.Running || c.State.Pid == 0 {
		return nil, errors.New("the job's container does not run: there is nowhere to open ports")
	}
	p.mu.Lock()
	held := p.job
	p.mu.Unlock()
	if held != nil && held.pid == c.State.Pid && held.started == c.State.StartedAt {
		return held.ns, nil
	}
	ns, err := netns.Open(c.State.Pid)
	if errors.Is(err, os.ErrNotExist) {
		return nil, notSeen(c.State.Pid)
	}
	if err != nil {
		return nil, err
	}
	// The number may belong to another process by now, or in the Engine's view only.
	if err := p.checkProcess(ctx, job, c); err != nil {
		ns.Close()
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.job != nil {
		p.job.ns.Close()
	}
	p.job = &jobPlace{c.State.Pid, c.State.StartedAt, ns}
	return ns, nil
}

// checkProcess makes sure that the process with that number is the job's container's, and has been all the time.
func (p *ports) checkProcess(ctx context.Context, job string, c containerNet) error {
	group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.State.Pid))
	if err != nil {
		return fmt.Errorf("read the cgroup of the job's container: %w", err)
	}
	if !strings.Contains(string(group), job) {
		return notSeen(c.State.Pid)
	}
	now, err := p.inspect(ctx, job)
	if err != nil {
		return err
	}
	if now.State.Pid != c.State.Pid || now.State.StartedAt != c.State.StartedAt {
		return errors.New("the job's container was restarted just now")
	}
	return nil
}

func notSeen(pid int) error {
	return fmt.Errorf("published ports cannot be opened: process %d of the job's container is not seen here; run slipway on the Engine's machine, in its PID namespace", pid)
}

// order is a container's addresses: first those on networks that the place is on.
func (at place) order(c containerNet) []netip.Addr {
	var near, far []netip.Addr
	for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
		n := c.NetworkSettings.Networks[name]
		a, err := netip.ParseAddr(n.IPAddress)
		switch {
		case err != nil: // none now
		case at.joined == nil || at.joined[n.NetworkID]:
			near = append(near, a)
		default:
			far = append(far, a)
		}
	}
	return append(near, far...)
}
