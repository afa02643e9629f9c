package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/slipway-ci/slipway/internal/forward"
)

// ports opens the ports that containers of the job publish. They are never published on the machine, where jobs would
// take them from each other and reach each other's: they are opened in the network namespace of the job's container, so
// that localhost:PORT is right for the job, and forwarded from there.
type ports struct {
	g        *Guard
	ctx      context.Context // ends with close
	cancel   context.CancelFunc
	forwards *forward.Forwards
	dials    chan struct{} // one for each connection that is being made
	running  sync.WaitGroup

	settling sync.Mutex // held while a container's ports are opened or closed by what it does now

	mu   sync.Mutex
	open map[string]*opening // by the container's full ID
	job  *jobPlace
}

// maxForwards bounds the connections to published ports that one job has at once, maxDials those that are being made: each
// takes a thread in the other namespace, of which the program has ten thousand for all jobs. maxPorts bounds the ports.
const (
	maxForwards = 1024
	maxDials    = 32
	maxPorts    = 256
)

// udpIdle is after how long a UDP peer of a published port is forgotten.
const udpIdle = 90 * time.Second

func newPorts(g *Guard) *ports {
	p := &ports{g: g, forwards: forward.New(maxForwards, udpIdle), dials: make(chan struct{}, maxDials), open: map[string]*opening{}}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(g.ctx))
	return p
}

// openPort is a published port that is open.
type openPort struct {
	portRequest
	Open uint16 // where it is open, in the job's network namespace
}

// opening is what is open for one container.
type opening struct {
	*ports
	id     string // of the container
	run    string // when the container was started that they are for
	place  place
	ctx    context.Context
	cancel context.CancelFunc
	open   []openPort
	closes []io.Closer

	mu        sync.Mutex
	addresses []netip.Addr // of the container, best first
}

// containerNet is what the Engine says of a container's networking.
type containerNet struct {
	Name  string
	State struct {
		Running   bool
		Pid       int
		StartedAt string
	}
	HostConfig      struct{ NetworkMode string }
	NetworkSettings struct {
		Networks map[string]struct{ NetworkID, EndpointID, IPAddress string }
	}
}

func (p *ports) inspect(ctx context.Context, id string) (c containerNet, err error) {
	err = p.g.engine.callJSON(ctx, http.MethodGet, "/containers/"+id+"/json", nil, nil, &c)
	return c, err
}

// started opens the ports of a container that runs now. If one cannot be opened, the container is stopped again, as the
// Engine does, and the error is told to the client.
func (p *ports) started(ctx context.Context, id string) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	err := p.openAll(ctx, id)
	if err == nil {
		return nil
	}
	stop := p.g.engine.callJSON(ctx, http.MethodPost, "/containers/"+id+"/kill", nil, nil, nil)
	if stop == nil {
		stop = p.g.engine.callJSON(ctx, http.MethodPost, "/containers/"+id+"/wait", nil, nil, nil)
	}
	if stop != nil && !isStatus(stop, http.StatusConflict) && !isStatus(stop, http.StatusNotFound) { // it ended by itself
		p.g.log.Warn("a container whose ports cannot be opened goes on", "container", id, "error", stop)
	}
	return err
}

// openAll opens what a container publishes if it runs, and closes it if it does not. What is open for this very run of it
// stays open.
func (p *ports) openAll(ctx context.Context, id string) error {
	rec, err := p.g.objects.container(id)
	if err != nil || len(rec.Ports) == 0 {
		return err
	}
	p.settling.Lock()
	defer p.settling.Unlock()
	c, err := p.inspect(ctx, id)
	if isStatus(err, http.StatusNotFound) {
		p.stopped(id)
	}
	if err != nil {
		return err
	}
	if m := c.HostConfig.NetworkMode; !c.State.Running || m == "none" || !ownStack(m) {
		p.stopped(id)
		return nil
	}
	at, ok, err := p.place(ctx)
	if err != nil || !ok {
		return err
	}
	p.mu.Lock()
	now := p.open[id]
	p.mu.Unlock()
	if now != nil && now.run == c.State.StartedAt && now.place.ns == at.ns {
		return nil
	}
	p.stopped(id)
	o := &opening{ports: p, id: id, run: c.State.StartedAt, place: at, addresses: at.order(c)}
	o.ctx, o.cancel = context.WithCancel(p.ctx)
	wanted := slices.Clone(rec.Ports)
	slices.SortStableFunc(wanted, anyLast)
	for _, want := range wanted {
		err := o.listen(want)
		if errors.Is(err, syscall.EADDRINUSE) && p.closeEnded(ctx) {
			err = o.listen(want)
		}
		if err != nil {
			o.end()
			return clash(p.g.unprefix(strings.TrimPrefix(c.Name, "/")), c, want, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		o.end()
		return p.ctx.Err()
	}
	p.open[id] = o
	p.running.Go(o.watch)
	return nil
}

// anyLast puts those to whom any port is good behind the others, so that they take nobody's.
func anyLast(a, b portRequest) int {
	rank := func(r portRequest) int {
		switch {
		case r.HostPort == 0:
			return 2
		case r.HostLast != 0:
			return 1
		}
		return 0
	}
	return rank(a) - rank(b)
}

// clash is the Engine's error for a port that cannot be opened.
func clash(name string, c containerNet, want portRequest, err error) error {
	endpoint := ""
	for _, n := range c.NetworkSettings.Networks {
		endpoint = n.EndpointID
	}
	why := err.Error()
	if errors.Is(err, syscall.EADDRINUSE) {
		why = "port is already allocated"
	}
	return &apiError{http.StatusInternalServerError, fmt.Sprintf(
		"driver failed programming external connectivity on endpoint %s (%s): Bind for 0.0.0.0:%d failed: %s", name, endpoint, want.HostPort, why)}
}

// stopped closes the ports of a container that does not run any more, and cuts their connections.
func (p *ports) stopped(id string) {
	p.mu.Lock()
	o := p.open[id]
	delete(p.open, id)
	p.mu.Unlock()
	if o != nil {
		o.end()
	}
}

// moved forgets the addresses of a container that joined or left a network: another job's container may get them.
func (p *ports) moved(id string) {
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.open))
	p.mu.Unlock()
	for _, o := range all {
		if o.id == id || id == p.g.objects.jobContainer() {
			o.forget()
		}
	}
}

// of is what a container's ports are open at: what goes into NetworkSettings.Ports and a list's Ports.
func (p *ports) of(id string) []openPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o := p.open[id]; o != nil {
		return slices.Clone(o.open)
	}
	return nil
}

// close closes all ports and cuts their connections.
func (p *ports) close() {
	p.cancel()
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.open))
	clear(p.open)
	job := p.job
	p.job = nil
	p.mu.Unlock()
	for _, o := range all {
		o.end()
	}
	p.running.Wait()
	if job != nil {
		job.ns.Close()
	}
}

// reopen opens all ports again, in the new network namespace of the job's container.
func (p *ports) reopen(ctx context.Context) error {
	var errs []error
	for _, id := range p.g.objects.ids() {
		if err := p.openAll(ctx, id); err != nil && !isStatus(err, http.StatusNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// closeEnded closes the ports of containers that ended by themselves just now, and reports whether there were any.
func (p *ports) closeEnded(ctx context.Context) bool {
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.open))
	p.mu.Unlock()
	closed := false
	for _, o := range all {
		c, err := p.inspect(ctx, o.id)
		if isStatus(err, http.StatusNotFound) || err == nil && !c.State.Running {
			p.ended(o)
			closed = true
		}
	}
	return closed
}

// ended closes this opening, but not a later one of the same container.
func (p *ports) ended(o *opening) {
	p.mu.Lock()
	if p.open[o.id] == o {
		delete(p.open, o.id)
	}
	p.mu.Unlock()
	o.end()
}

func (o *opening) end() {
	o.cancel()
	for _, c := range o.closes {
		c.Close()
	}
}

// watchPause is the time between two questions to an Engine that does not answer.
const watchPause = time.Second

// watch closes the ports when the container ends by itself.
func (o *opening) watch() {
	for {
		err := o.g.engine.callJSON(o.ctx, http.MethodPost, "/containers/"+o.id+"/wait", nil, nil, nil)
		if err == nil || isStatus(err, http.StatusNotFound) {
			o.ended(o)
			return
		}
		select {
		case <-o.ctx.Done():
			return
		case <-time.After(watchPause):
		}
	}
}

// hostPorts reads "", "8080" or "8080-8090".
func hostPorts(s string) (first, last uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	a, err := strconv.ParseUint(from, 10, 16)
	if err == nil && isRange {
		var b uint64
		if b, err = strconv.ParseUint(to, 10, 16); err == nil && (b < a || a == 0) {
			err = strconv.ErrRange
		}
		last = uint16(b)
	}
	if err != nil {
		return 0, 0, badRequest("invalid port specification: %q", printable(s))
	}
	return uint16(a), last, nil
}

// checkPorts refuses what cannot be published. It is asked before a container is made, and again for what turns out then
// that its image exposes.
func (c *call) checkPorts(requests []portRequest) error {
	if len(requests) == 0 {
		return nil
	}
	if c.objects.jobContainer() != "" && !c.policy.Root {
		if err := c.refuse(deny("needs-root", "reach the container by its name and its own port, or let the machine's operator run slipway as root",
			"a port is published by a listener in the job's network namespace, which needs CAP_SYS_ADMIN")); err != nil {
			return err
		}
	}
	for _, r := range requests {
		if r.Protocol == "tcp" || r.Protocol == "udp" {
			continue
		}
		if err := c.refuse(deny("publish-protocol", "reach the container by its name and its own port",
			"port %d/%s: only tcp and udp can be published", r.Port, printable(r.Protocol))); err != nil {
			return err
		}
	}
	n := len(requests)
	for _, id := range c.objects.ids() {
		if rec, err := c.objects.container(id); err == nil {
			n += len(rec.Ports)
		}
	}
	if n > maxPorts {
		return c.refuse(deny("limit-ports", "publish only the ports that the job itself connects to: containers reach each other by name without",
			"this job would publish %d ports; at most %d may be", n, maxPorts))
	}
	return nil
}
