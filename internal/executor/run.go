package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// cleanUpTimeout bounds what happens after the last stage; what takes longer goes on in the background.
const cleanUpTimeout = 30 * time.Second

func (e *Executor) traceOptions(p *plan, log *slog.Logger) trace.Options {
	s := e.Settings
	return trace.Options{
		Dir:               fmt.Sprintf("%s/%d-%s", e.SpoolDir, p.spec.ID, randomHex(4)),
		Record:            trace.Record{URL: s.ServerURL, RunnerToken: s.ShortToken, JobID: p.spec.ID, Token: p.spec.Token, FailureReasons: p.spec.Features.FailureReasons},
		Masked:            p.masked(),
		MaskPrefixes:      p.spec.Features.TokenMaskPrefixes,
		MaskDefaultTokens: s.flag("FF_MASK_ALL_DEFAULT_TOKENS", p.vars),
		Limit:             s.OutputLimit,
		Timestamps:        s.flag("FF_TIMESTAMPS", p.vars),
		Sections:          p.spec.Features.TraceSections,
		Debug:             s.debugTrace(p),
		FinalTries:        s.FinalTries,
		Log:               log,
	}
}

// masked are the values that the job's log does not show.
func (p *plan) masked() []string {
	return slices.Concat(p.vars.MaskedValues(), p.spec.Variables.MaskedValues(), p.source.git.MaskedValues(), proxySecrets())
}

// run is the job between its first log line and its last. What need not be done before the job's end is told goes to later.
func (e *Executor) run(ctx context.Context, server Server, tr *trace.Trace, p *plan, later *sync.WaitGroup) error {
	e.header(tr, p)
	if p.err != nil {
		return p.err
	}
	// A graceful cancel stops the preparation or the script; what follows a script still runs.
	cancelable, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-tr.Canceling():
			cancel(job.ErrCanceling)
		case <-cancelable.Done():
		}
	}()
	w, err := e.workspace(cancelable, tr, p)
	if err != nil {
		return orCause(cancelable, err)
	}
	defer w.Close()
	fetched := e.fetchArtifacts(cancelable, server, p)
	defer fetched.close()
	var s *session
	var sv *services
	if e.Settings.Account != nil {
		s, err = e.prepareHost(ctx, cancelable, tr, p, w)
	} else {
		s, sv, err = e.prepare(ctx, cancelable, tr, p, w)
	}
	defer e.cleanUp(ctx, tr, p, w, s, sv, later)
	if err != nil {
		return orCause(cancelable, err)
	}
	if err := e.restoreCaches(cancelable, tr, p, w); err != nil {
		return orCause(cancelable, err)
	}
	if err := e.downloadArtifacts(cancelable, server, tr, p, w, fetched); err != nil {
		return orCause(cancelable, err)
	}
	e.openDoor(p, s)
	failure := e.stages(ctx, cancelable, tr, p, w, s, sv)
	if ctx.Err() != nil {
		return failure
	}
	e.holdDoor(cancelable, tr, p)
	e.saveCaches(ctx, cancelable, tr, p, w, s, failure)
	if err := e.uploadArtifacts(ctx, server, tr, p, w, s, failure); err != nil && failure == nil {
		failure = orCause(ctx, err)
	}
	return failure
}

func (e *Executor) header(tr *trace.Trace, p *plan) {
	s := e.Settings
	tr.Printf("Running with slipway %s (%s)", s.Version, s.Revision)
	tr.Printf("  on %s %s, system ID: %s", s.RunnerName, s.ShortToken, s.SystemID)
	if changed := s.changedFlags(p.vars); changed != "" {
		tr.Printf("  feature flags: %s", changed)
	}
	if p.dind != nil && p.err == nil {
		tr.Printf("%s", p.dindNotice())
	}
	for _, w := range p.warnings {
		tr.Warnf("%s", w)
	}
	if len(p.withheld) > 0 {
		e.Log.Warn("keys of [runners.docker] are not given to a job, because they would undo the guard of its socket", "job", p.spec.ID, "keys", strings.Join(p.withheld, ", "))
	}
}

// prepare makes sure of the image, fetches the sources, starts the services and creates the container, as much as possible
// at once. The container is not started before the sources are complete: its entrypoint is not to be trusted with a folder
// that Git is working in. For what the job wants to be done before, it is started with stand-ins. The session is nil if no container
// was made.
func (e *Executor) prepare(jobCtx, ctx context.Context, tr *trace.Trace, p *plan, w *source.Workspace) (*session, *services, error) {
	end := p.section(tr, stagePrepare, `Preparing the "docker" executor`)
	tr.Printf("Using Docker executor with image %s ...", p.image.name)
	ctx, cancel := context.WithCancel(ctx)
	out := &heldWriter{out: tr.Stdout()}
	fetched := make(chan error, 1)
	var wait func() error
	fetch := func(before func(ctx context.Context) error) {
		go func() { fetched <- e.checkout(ctx, tr, out, p, w, before) }()
		wait = func() error { return <-fetched }
	}
	hooked := p.preHook != nil
	if !p.imageUser && !hooked {
		fetch(nil)
	}
	defer func() {
		cancel()
		if wait != nil {
			_ = wait()
		}
	}()

	limited, cancelLimited := e.prepareLimit(ctx)
	defer cancelLimited()
	sv, err := e.startServices(limited, tr, p)
	var s *session
	var si *standIns
	if err == nil && hooked {
		si, err = e.newStandIns(p, w)
	}
	if err == nil {
		s, err = e.create(limited, tr, p, w, sv, si)
	}
	if s == nil {
		e.closeStandIns(context.WithoutCancel(ctx), tr, p, si)
	}
	if err == nil && p.imageUser {
		if err = errors.Join(w.Give(*p.source.request.Owner), si.give(p.source.request.Owner)); err == nil && !hooked {
			fetch(nil)
		}
	}
	end()
	if err != nil {
		return s, sv, err
	}
	host, _ := os.Hostname()
	if err := e.prepareFiles(tr, p, w, fmt.Sprintf("%s via %s", p.container.Name, host)); err != nil {
		return s, sv, err
	}
	end = p.section(tr, stageSources, "Getting source from Git repository")
	out.release()
	if hooked && sv != nil {
		err = sv.started(limited)
	}
	if hooked && err == nil {
		fetch(func(ctx context.Context) error { return e.beforeSources(jobCtx, ctx, tr, p, w, s, sv) })
	}
	if err == nil {
		err, wait = wait(), nil
	}
	if err == nil && hooked {
		err = s.place.(*container).show()
		limited, cancelLimited = e.prepareLimit(ctx) // the hook's time is not the preparation's
		defer cancelLimited()
	}
	if err == nil && sv != nil {
		err = sv.waitWith(limited, s, w)
	}
	end()
	tr.Flush()
	return s, sv, err
}

// prepareHost does the same for a job without a container.
func (e *Executor) prepareHost(jobCtx, ctx context.Context, tr *trace.Trace, p *plan, w *source.Workspace) (*session, error) {
	shell := cmp.Or(e.Settings.Shell, "bash")
	end := p.section(tr, stagePrepare, `Preparing the "shell" executor`)
	tr.Printf("Using Shell (%s) executor...", shell)
	end()
	place := &hostPlace{
		account: *e.Settings.Account, shell: shell, env: p.hostEnv,
		mark: e.Settings.Instance + "-" + randomHex(8), log: e.Log,
	}
	s := &session{grace: e.Settings.StopGrace, tr: tr, place: place}
	host, _ := os.Hostname()
	if err := e.prepareFiles(tr, p, w, host); err != nil {
		return s, err
	}
	if err := place.writeTerminalScript(p); err != nil {
		return s, err
	}
	defer tr.Flush()
	defer p.section(tr, stageSources, "Getting source from Git repository")()
	var before func(ctx context.Context) error
	if p.preHook != nil {
		before = func(ctx context.Context) error {
			if e.Settings.Account.Other { // else it can do all that this process can
				if err := w.Hide(); err != nil {
					return err
				}
			}
			return e.beforeSources(jobCtx, ctx, tr, p, w, s, nil)
		}
	}
	err := e.checkout(ctx, tr, tr.Stdout(), p, w, before)
	if err == nil {
		err = w.Show(ctx)
	}
	return s, err
}

// prepareFiles tells where the job runs, and puts its file variables there.
func (e *Executor) prepareFiles(tr *trace.Trace, p *plan, w *source.Workspace, where string) error {
	defer p.section(tr, stageEnviron, "Preparing environment")()
	tr.Printf("Running on %s...", where)
	return p.writeFiles(w.TempDir, e.Settings.Account, p.files)
}

// section begins a stage of the job, in its log and for whoever watches it. end must be called.
func (p *plan) section(tr *trace.Trace, stage, headline string) (end func()) {
	p.slot.Watch.Stage(stage)
	return tr.Section(stage, headline)
}

// prepareLimit ends with the time that an operator gives to images, containers and services.
func (e *Executor) prepareLimit(ctx context.Context) (context.Context, context.CancelFunc) {
	t := e.Settings.PrepareTimeout
	if t <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, t, &job.Error{
		Reason: job.SystemFailure, Err: fmt.Errorf("preparing took longer than %s", t), Hint: "prepare_timeout in config.toml limits it",
	})
}

// create makes the container, without starting it. It has the stand-ins until they are replaced; nil = the folders themselves.
func (e *Executor) create(ctx context.Context, tr *trace.Trace, p *plan, w *source.Workspace, sv *services, si *standIns) (*session, error) {
	image, err := e.ensureImage(ctx, tr, p, p.image)
	if err != nil {
		return nil, orCause(ctx, err)
	}
	if p.imageUser {
		if err := e.findOwner(ctx, p, image); err != nil {
			return nil, orCause(ctx, err)
		}
	}
	c := p.container
	c.Image = image.ID
	c.Mounts = append(c.Mounts, si.instead(e.workspaceMounts(p, w))...)
	binds, err := e.ensureVolumes(ctx, p.volumes, &c)
	if err != nil {
		return nil, err
	}
	if err := e.ensureNetwork(ctx, c.Network); err != nil {
		return nil, err
	}
	socket, err := e.openSocket(ctx, tr, p, &c, binds)
	if err != nil {
		return nil, err
	}
	if p.linked == byLinks { // only containers that run can be linked to
		if err := sv.started(ctx); err != nil {
			socket.close(context.WithoutCancel(ctx))
			socket.removeCgroup()
			return nil, err
		}
	}
	// Not to be interrupted: the Engine would go on, and leave a container that nobody knows.
	createCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	id, err := e.Engine.Create(createCtx, c)
	if err != nil {
		e.forget(ctx, c.Name)
		socket.close(createCtx)
		socket.removeCgroup()
		return nil, createFailure(err)
	}
	if socket != nil {
		socket.JobContainer(id, c.Name)
		if sv != nil && sv.network != "" {
			socket.JobNetwork(sv.network, p.network)
		}
	}
	return &session{grace: e.Settings.StopGrace, tr: tr, place: &container{
		engine: e.Engine, id: id, socket: socket, standIns: si, shell: e.Settings.Shell, tr: tr, log: e.Log,
		limited: c.Limits.Memory > 0, sharesPIDs: c.Security.PidMode != "",
		network: func(ctx context.Context) error { return e.ensureNetwork(ctx, c.Network) },
	}}, nil
}

// stages runs the script and what follows it.
func (e *Executor) stages(ctx, cancelable context.Context, tr *trace.Trace, p *plan, w *source.Workspace, s *session, sv *services) error {
	var failure error
	for _, st := range p.stages {
		if failure != nil && st.name != stageAfter {
			continue
		}
		stageCtx := ctx
		if st.name != stageAfter {
			stageCtx = cancelable
		}
		err := e.evenIfGone(stageCtx, tr, p, w, s, sv, func() error { return e.section(ctx, stageCtx, tr, p, w, s, st, statusOf(failure)) })
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && st.first:
			return err
		case err != nil && st.ignoreErrors:
			tr.Warnf("%s failed, but job will continue unaffected: %v", st.name, err)
		case err != nil && failure == nil:
			failure = err
		}
	}
	return failure
}

// evenIfGone does something in the job's container, in another one if it is gone, as often as the job allows.
func (e *Executor) evenIfGone(ctx context.Context, tr *trace.Trace, p *plan, w *source.Workspace, s *session, sv *services, do func() error) error {
	err := do()
	for again := p.attempts("EXECUTOR_JOB_SECTION_ATTEMPTS") - 1; again > 0 && errors.Is(err, errGone); again-- {
		tr.Warnf("%v; making another one", err)
		if err = e.renew(ctx, tr, p, w, s, sv); err == nil {
			err = do()
		}
	}
	return err
}

// section runs a stage that has a section of the log for itself.
func (e *Executor) section(ctx, stageCtx context.Context, tr *trace.Trace, p *plan, w *source.Workspace, s *session, st stage, status string) error {
	defer tr.Flush()
	defer p.section(tr, st.name, st.headline)()
	return e.stage(ctx, stageCtx, p, w, s, st, status)
}

func (e *Executor) stage(ctx, stageCtx context.Context, p *plan, w *source.Workspace, s *session, st stage, status string) error {
	if st.timeout > 0 {
		var cancel context.CancelFunc
		stageCtx, cancel = context.WithTimeoutCause(stageCtx, st.timeout, &job.Error{
			Reason: job.TimeoutFailure, Err: fmt.Errorf("%s took longer than %s (%s sets how long it may take)", st.name, st.timeout, st.timeoutBy),
		})
		defer cancel()
	}
	file := scriptsPrefix + st.name
	if err := p.writeFile(w.TempDir, e.Settings.Account, file, st.text(status)); err != nil {
		return err
	}
	return s.run(ctx, stageCtx, path.Join(p.tempDir, file))
}

// statusOf is CI_JOB_STATUS as after_script sees it.
func statusOf(failure error) string {
	var e *job.Error
	switch {
	case failure == nil:
		return "success"
	case errors.Is(failure, job.ErrCanceling):
		return "canceled"
	case errors.As(failure, &e) && e.Reason == job.TimeoutFailure:
		return "timedout"
	}
	return "failed"
}

// cleanUp removes what the job leaves, whatever became of it.
func (e *Executor) cleanUp(ctx context.Context, tr *trace.Trace, p *plan, w *source.Workspace, s *session, sv *services, later *sync.WaitGroup) {
	if s == nil && sv == nil {
		return
	}
	defer p.section(tr, "cleanup_file_variables", "Cleaning up project directory and file based variables")()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		sv.remove(ctx)
	}()
	defer func() {
		<-removed
		if p.network != "" {
			later.Go(func() { e.removeNetwork(context.WithoutCancel(ctx), p.network) })
		}
	}()
	if s == nil {
		return
	}
	s.place.clear(ctx, s, p.ownDirs()...)
	if c, ok := s.place.(*container); ok {
		e.closeStandIns(ctx, tr, p, c.standIns)
	}
	if err := source.EmptyFolder(ctx, w.TempDir); err != nil { // the file variables are secrets that nobody needs now
		e.Log.Warn("the job's temporary folder stays until the next job", "error", err)
	}
}

// removeLater goes on trying: the Engine may be away for a while.
func removeLater(ctx context.Context, engine *docker.Engine, id string, log *slog.Logger) {
	tryLater(ctx, func(ctx context.Context) error {
		err := engine.Remove(ctx, id)
		if err == nil {
			log.Info("a container left by a job is removed now", "container", id)
		}
		return err
	})
}

// forget removes a container of which nobody knows whether the Engine has made it: the connection may have broken before it said so.
func (e *Executor) forget(ctx context.Context, name string) {
	go tryLater(context.WithoutCancel(ctx), func(ctx context.Context) error { return e.Engine.Remove(ctx, name) })
}

// tryLater tries again and again for a day.
func tryLater(ctx context.Context, do func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, 24*time.Hour)
	defer cancel()
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if do(ctx) == nil {
			return
		}
	}
}

// orCause prefers why a context ended to what broke because of it.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
