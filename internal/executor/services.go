package executor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/pin"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// services are the containers beside a job's own. They are started while the sources are fetched, and must answer before
// the script runs.
type services struct {
	e  *Executor
	tr *trace.Trace
	p  *plan

	network   string      // ID of the job's own; "" = none
	window    *pin.Window // through which they see the project's folder; nil = they do not
	cancel    context.CancelFunc
	begun     chan struct{} // closed when all have been started, or one cannot be
	err       error         // why one cannot be; for who has seen begun closed
	following context.Context
	unfollow  context.CancelFunc
	followers sync.WaitGroup // of what the services print, and of their end
	removing  atomic.Bool

	mu   sync.Mutex
	made []*service
}

// service is one of them.
type service struct {
	servicePlan
	id      string
	ports   []uint16  // that are probed
	started bool      // the Engine says so
	told    sync.Once // that it does not work
}

// startServices makes the job's own network, if it is to have one, and begins to start the services. It returns nil for a
// job without any. remove must be called, whatever the error.
func (e *Executor) startServices(ctx context.Context, tr *trace.Trace, p *plan) (*services, error) {
	if len(p.services) == 0 {
		return nil, nil
	}
	sv := &services{e: e, tr: tr, p: p, begun: make(chan struct{})}
	sv.following, sv.unfollow = context.WithCancel(context.WithoutCancel(ctx))
	ctx, sv.cancel = context.WithCancel(ctx)
	if p.network != "" {
		var err error
		if sv.network, err = e.makeNetwork(ctx, p); err != nil {
			close(sv.begun)
			return sv, err
		}
	}
	sv.openWindow()
	go func() {
		defer close(sv.begun)
		group, groupCtx := errgroup.WithContext(ctx)
		for _, sp := range p.services {
			group.Go(func() error { return sv.start(groupCtx, sp) })
		}
		sv.err = group.Wait()
	}()
	return sv, nil
}

// makeNetwork makes the network that the job has with its services.
func (e *Executor) makeNetwork(ctx context.Context, p *plan) (id string, err error) {
	labels := e.Settings.ownLabels()
	labels[labelJobNetwork] = p.network
	// Not to be interrupted, as with containers.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	id, err = e.Engine.CreateNetwork(ctx, p.network, labels, e.Settings.NetworkOptions)
	if docker.IsNoIPv6(err) {
		return "", configurationError("give the Engine IPv6 networks (default-address-pools in daemon.json), or take enable_ipv6 out of [runners.docker]", "%w", err)
	}
	if docker.IsNoAddresses(err) {
		return "", fmt.Errorf("%w: every job with services has a network of its own; let default-address-pools in the Engine's daemon.json have more and smaller ones", err)
	}
	return id, err
}

// start makes sure of a service's image, creates its container and starts it.
func (sv *services) start(ctx context.Context, sp servicePlan) error {
	e := sv.e
	sv.tr.Printf("Starting service %s ...", sp.image.name)
	image, err := e.ensureImage(ctx, sv.tr, sv.p, sp.image)
	if err != nil {
		return fmt.Errorf("service %s: %w", sp.image.name, err)
	}
	c := sp.container
	c.Image = image.ID
	if _, err := e.ensureVolumes(ctx, sp.volumes, &c); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	engineCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	s := &service{servicePlan: sp, ports: sp.probes(image.Ports)}
	if s.id, err = e.Engine.Create(engineCtx, sv.withFolder(c)); err != nil {
		e.forget(ctx, c.Name)
		return fmt.Errorf("service %s: %w", sp.image.name, err)
	}
	sv.mu.Lock()
	sv.made = append(sv.made, s)
	sv.mu.Unlock()
	if err := e.Engine.Start(engineCtx, s.id); err != nil {
		if err = sv.startWithoutFolder(engineCtx, s, c, err); err != nil {
			return serviceStartFailure(sp.image.name, err)
		}
	}
	s.started = true
	sv.watch(s)
	if sv.p.vars.Bool("CI_DEBUG_SERVICES") && !e.Settings.DebugTraceDisabled {
		sv.follow(s)
	}
	return nil
}

// serviceStartFailure explains why a service does not start where the job can mend it.
func serviceStartFailure(name string, err error) error {
	text := err.Error()
	for _, mistake := range []string{"executable file not found", "no such file or directory", "permission denied: unknown", "unable to find user", "no matching entries in passwd"} {
		if strings.Contains(text, mistake) {
			return configurationError("check entrypoint:, command: and docker: user: of the service in .gitlab-ci.yml", "service %s does not start: %w", name, err)
		}
	}
	return fmt.Errorf("service %s: %w", name, err)
}

// started waits until all are started.
func (sv *services) started(ctx context.Context) error {
	select {
	case <-sv.begun:
		return sv.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watch tells the job when a service fails while it runs: what comes of that elsewhere is hard to understand.
func (sv *services) watch(s *service) {
	sv.followers.Go(func() {
		how, err := sv.e.Engine.Wait(sv.following, s.id)
		if err == nil && how.Code != 0 && !sv.removing.Load() {
			sv.warn(sv.following, s, "failed", ended(how))
		}
	})
}

// lookBack tells the job that a service has failed whose end the Engine has not told of yet, as that of a job's first second: the job
// may have failed for it.
func (sv *services) lookBack(ctx context.Context, s *service) {
	if !s.started {
		return
	}
	if found, err := sv.e.Engine.Find(ctx, s.id); err == nil && !found.Running && found.Exit.Code != 0 {
		sv.warn(ctx, s, "failed", ended(found.Exit))
	}
}

// follow puts what a service prints into the job's log.
func (sv *services) follow(s *service) {
	out := sv.tr.Service(s.shortName())
	sv.followers.Go(func() {
		var err error
		defer mishap.Catch(sv.e.Log, "the log of a service", &err) // which ends
		if err = sv.e.Engine.Logs(sv.following, s.id, true, out, out); err != nil {
			sv.e.Log.Debug("the log of a service ended", "service", s.image.name, "error", err)
		}
	})
}

// remove removes the containers. The job's own network goes when the job's container has left it.
func (sv *services) remove(ctx context.Context) {
	if sv == nil {
		return
	}
	sv.cancel()
	<-sv.begun
	sv.mu.Lock()
	made := sv.made
	sv.made = nil
	sv.mu.Unlock()
	var group sync.WaitGroup
	for _, s := range made {
		group.Go(func() { sv.lookBack(ctx, s) })
	}
	group.Wait()
	sv.removing.Store(true)
	for _, s := range made {
		group.Go(func() {
			if err := sv.e.Engine.Remove(ctx, s.id); err != nil {
				sv.e.Log.Warn("a service's container cannot be removed now; trying again", "container", s.id, "error", err)
				go removeLater(context.WithoutCancel(ctx), sv.e.Engine, s.id, sv.e.Log)
			}
		})
	}
	group.Wait()
	if err := sv.window.Close(); err != nil {
		sv.e.Log.Warn("what services saw a project's folder through stays until the next start", "error", err)
	}
	stop := context.AfterFunc(ctx, sv.unfollow)
	defer stop()
	sv.followers.Wait() // they end with their containers
	sv.unfollow()
}

// removeNetwork removes a job's own network, which nobody must be on any more. That takes the Engine longer than all the rest.
func (e *Executor) removeNetwork(ctx context.Context, name string) {
	limited, cancel := context.WithTimeout(ctx, cleanUpTimeout)
	defer cancel()
	if err := e.Engine.DeleteNetwork(limited, name); err != nil {
		e.Log.Warn("a job's network cannot be removed now; trying again", "network", name, "error", err)
		go tryLater(ctx, func(ctx context.Context) error { return e.Engine.DeleteNetwork(ctx, name) })
	}
}

// waitWith starts the job's container while the services come up, so that its script can run at once. The sources are complete.
func (sv *services) waitWith(ctx context.Context, s *session, w *source.Workspace) error {
	started := make(chan error, 1)
	go func() { started <- s.start(ctx) }()
	err := sv.wait(ctx, w)
	if startErr := <-started; err == nil {
		err = startErr
	}
	return err
}

// wait shows the services the project's folder and lets the job go on when they answer, or when they had their time: then it may
// work all the same, so that is a warning with what the service printed.
//
// GitLab: the same; the first port that takes a connection is enough, and a service that exposes none is not probed.
func (sv *services) wait(ctx context.Context, w *source.Workspace) error {
	if err := sv.started(ctx); err != nil {
		return err
	}
	sv.show(w)
	timeout := sv.e.Settings.Services.Wait
	if timeout <= 0 {
		return nil
	}
	probeCtx, cancel := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	defer cancel()
	told := time.AfterFunc(patience, func() {
		sv.tr.Printf("Waiting for services to be up and running (timeout %d seconds)...", int(timeout.Seconds()))
	})
	defer told.Stop()
	var group sync.WaitGroup
	for _, s := range sv.made {
		group.Go(func() {
			err := sv.answers(probeCtx, s)
			if err == nil || ctx.Err() != nil {
				return
			}
			sv.warn(ctx, s, "probably did not start properly", err)
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// patience is how long services may take until the log says that they are waited for.
const patience = time.Second

var errNoAnswer = errors.New("no answer")

// warn says once that a service may not work, and what it printed.
func (sv *services) warn(ctx context.Context, s *service, how string, err error) {
	s.told.Do(func() { sv.tell(ctx, s, how, err) })
}

func (sv *services) tell(ctx context.Context, s *service, how string, err error) {
	text, logErr := sv.e.Engine.LogText(ctx, s.id)
	if logErr != nil {
		text = logErr.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "service %s (%s) %s: %v", s.image.name, s.shortName(), how, err)
	if text = strings.TrimRight(text, "\r\n"); text == "" {
		b.WriteString("; it printed nothing")
	} else {
		b.WriteString("; it printed:")
	}
	sv.tr.Warnf("%s", b.String())
	for line := range strings.SplitSeq(text, "\n") {
		if text != "" {
			sv.tr.Printf("  %s", strings.TrimRight(line, "\r"))
		}
	}
}
