package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/archive"
	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/executor"
	"github.com/slipway-ci/slipway/internal/gitlab"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/runner"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/state"
	"github.com/slipway-ci/slipway/internal/terminal"
	"github.com/slipway-ci/slipway/internal/trace"
)

// service is a running Slipway: the state folder and what works on it.
type service struct {
	connector  connector
	folder     *state.Folder
	store      *source.Store
	guards     string // where the sockets of jobs lie
	engines    *engines
	ephemeral  bool    // what it makes on the Engine ends with it
	single     *single // nil = until it is told to stop
	user       string  // whom jobs of the shell executor run as
	log        *slog.Logger
	observer   *observer
	terminals  *terminal.Server // nil = none
	doors      sync.Map         // *terminal.Door, by the job's credentials
	life       context.Context  // of this run
	background sync.WaitGroup   // of what goes on beside the jobs
	wake       func()           // is called when a job has ended and left its files on the disks
	clients    sync.Map         // of GitLab, by credentials: a job is reported over the connection that brought it
}

type credentials struct{ url, token string }

// lockedError says what to do about a state folder that another process uses.
func lockedError(err error) error {
	return withHint(err, "stop the other one, or give this one a folder of its own: state_dir in the [slipway] table of config.toml")
}

// runManager serves every runner of the config until ctx ends or the manager is drained.
func runManager(ctx context.Context, o runOptions) error {
	folder, err := state.Open(o.StateDir)
	if errors.Is(err, state.ErrLocked) {
		return lockedError(err)
	}
	if err != nil {
		return err
	}
	defer folder.Close()
	store, err := source.Open(folder.Sources(), o.Log)
	if err != nil {
		return err
	}
	conn, err := newConnector(o.Config.Path, folder.Path, o.Config, o.Build, o.Log)
	if err != nil {
		return err
	}
	if o.Observer == nil {
		o.Observer = newObserver(o.Build)
	}
	conn.observer = o.Observer
	terminals, err := serveTerminals(o.Config.SessionServer, o.Log)
	if err != nil {
		return err
	}
	if terminals != nil {
		defer func() { _ = terminals.Close() }()
		conn.terminals = true
	}
	guards, err := guardDir(folder.Guards(), folder.Instance)
	if err != nil {
		return err
	}
	if err := executor.SweepGuards(guards); err != nil {
		o.Log.Warn("the sockets of an earlier run's jobs could not be removed", "error", err)
	}
	if err := executor.SweepFolders(ctx, folder.Path); err != nil {
		o.Log.Warn("what services of an earlier run saw the projects' folders through, or jobs had in their stead, could not be removed", "error", err)
	}
	executor.SweepCgroups(folder.Instance)
	if err := executor.SweepProcesses(ctx, folder.Instance); err != nil {
		o.Log.Warn("processes that jobs of an earlier run left are still there", "error", err)
	}
	s := &service{
		terminals: terminals,
		connector: conn, folder: folder, store: store, guards: guards, engines: &engines{folder: folder, log: o.Log}, ephemeral: o.Ephemeral, user: o.User, single: o.Single, log: o.Log, observer: o.Observer,
	}
	kept := &limits{}
	kept.Store(&o.Config.Slipway.Limits)
	keeper := s.keeper(kept)
	s.wake, s.engines.found = keeper.Wake, keeper.Wake
	background := &s.background
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.life = ctx
	if err := os.RemoveAll(folder.Trials()); err != nil {
		o.Log.Warn("what jobs of our own left in an earlier run could not be removed", "error", err)
	}
	lefts, err := trace.Interrupted(folder.Spool())
	if err != nil {
		o.Log.Warn("some interrupted jobs cannot be read", "error", err)
	}
	for _, left := range lefts {
		background.Go(func() { s.finish(ctx, o.Config, left) })
	}
	background.Go(func() { maintain(ctx, store, s.engines, executor.CacheStore(folder.Path), folder.Builds(), o.Log) })
	if !o.Ephemeral { // else what is on the machine is none of its business
		background.Go(func() { keeper.Run(ctx) })
	}
	options := runner.Options{Config: o.Config, Connect: s.counted, Run: s.run, Log: o.Log}
	if s.single == nil {
		options.Verify = s.verify
	}
	m := runner.New(options)
	o.Observer.attach(m, conn.systemID, s.engines.disks)
	r := newRotating(m, conn, o.Config)
	background.Go(func() { r.rotation.Run(ctx) })
	if o.Attach != nil {
		o.Attach(limiting{r, kept})
	}
	return m.Run(ctx)
}

// maintainEvery is how often mirrors and the names of images are looked at. Mirrors that a job uses are left for the next
// time.
const maintainEvery = 30 * time.Minute

func maintain(ctx context.Context, store *source.Store, engines *engines, caches archive.Store, builds string, log *slog.Logger) {
	tick := time.NewTicker(maintainEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := store.Maintain(ctx); err != nil && ctx.Err() == nil {
			log.Warn("some mirrors could not be maintained", "error", err)
		}
		if err := caches.Expire(executor.CacheUnused); err != nil {
			log.Warn("some unused caches stay", "error", err)
		}
		if err := layercache.Expire(builds, time.Now(), layercache.Unused); err != nil {
			log.Warn("some records of old builds stay", "error", err)
		}
		if err := engines.expireImages(ctx); err != nil && ctx.Err() == nil {
			log.Warn("some unused images stay", "error", err)
		}
	}
}

// finish reports a job that a killed Slipway began.
func (s *service) finish(ctx context.Context, cfg *config.Config, left trace.Left) {
	rec := left.Record
	log := s.log.With("job", rec.JobID)
	r := &config.Runner{URL: rec.URL, Executor: "docker"}
	for _, c := range cfg.Runners {
		if c.URL == rec.URL && job.Secret(c.Token.Reveal()).Short() == rec.RunnerToken {
			r = c
		}
	}
	client, err := s.connector.client(r)
	if err != nil {
		log.Error("an interrupted job cannot be reported; the next start tries again", "error", err)
		return
	}
	defer client.Close()
	defer s.observer.Undelivered(rec.URL, rec.JobID)()
	s.deliver(ctx, client.Job(rec.JobID, rec.Token), left.Dir, log)
}

// How long deliver waits before it tries again. Each try lasts some minutes itself.
const (
	firstDelivery   = 10 * time.Second
	longestDelivery = 15 * time.Minute
)

// deliver reports the end of a job, which this process or one before it could not, until GitLab has heard it.
func (s *service) deliver(ctx context.Context, remote *gitlab.Job, dir string, log *slog.Logger) {
	for wait := firstDelivery; ; wait = min(2*wait, longestDelivery) {
		left, err := trace.ReadLeft(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err == nil {
			err = trace.Finish(ctx, remote, left, "the runner was killed and started again while the job ran", log)
		}
		switch {
		case err == nil:
			log.Info("reported how a job ended")
			return
		case ctx.Err() != nil:
			log.Error("how a job ended cannot be reported; the next start tries again", "error", err)
			return
		}
		log.Warn("how a job ended cannot be reported now; trying again", "error", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// counted is connect for a single run, too.
func (s *service) counted(r *config.Runner) (runner.Server, error) {
	server, err := s.connect(r)
	if s.single != nil && err == nil {
		server = counted{server, s.single}
	}
	return server, err
}

// connect makes what asks for one runner's jobs.
func (s *service) connect(r *config.Runner) (runner.Server, error) {
	client, err := s.connector.client(r)
	if err != nil {
		return nil, err
	}
	s.clients.Store(credentials{r.URL, r.Token.Reveal()}, client)
	if r.Executor == config.ShellExecutor {
		return &server{client: client, log: s.log, doors: s, ready: func(context.Context) error {
			_, err := executor.FindAccount(s.user)
			return err
		}}, nil
	}
	engine := s.engines.of(r.Docker)
	check := sync.OnceFunc(func() { s.checkVolumes(r, engine) })
	return &server{client: client, log: s.log, doors: s, ready: func(ctx context.Context) error {
		if _, err := engine.get(ctx); err != nil {
			return err
		}
		check()
		return nil
	}}, nil
}

// checkVolumes tells the operator at the start what every job of a runner would fail for.
func (s *service) checkVolumes(r *config.Runner, e *engine) {
	engine, machine, images, err := e.reached(context.Background())
	if err != nil {
		return // it is away again; the jobs will tell
	}
	settings := s.settings(r, engine, machine, images)
	if err := settings.CheckVolumes(); err != nil {
		s.log.Error("every job of this runner will fail", "runner", r.Name, "error", err, "hint", job.ResultOf(err, nil).Hint)
	}
}

func (s *service) settings(r *config.Runner, engine *docker.Engine, machine docker.Machine, images *ledger.Ledger) executor.Settings {
	settings := s.connector.executorSettings(r, s.folder, engine.Socket(), s.ephemeral)
	settings.Guard = guardSettings(r, s.guards, images, machine)
	settings.Guard.Builds = s.folder.Builds()
	return settings
}

// run runs one job.
func (s *service) run(ctx context.Context, slot runner.Slot, spec *job.Spec) {
	defer s.wake()
	log := s.log.With("job", spec.ID)
	r := slot.Runner
	watch := s.observer.Start(s.observer.label(r), spec)
	defer watch.Done()
	if flag, set := spec.Variables.Lookup("FF_EXPORT_HIGH_CARDINALITY_METRICS"); r.FeatureFlag("FF_EXPORT_HIGH_CARDINALITY_METRICS", flag.Value, set) {
		watch.CountStages()
	}
	if s.single != nil {
		defer s.single.ended()
	}
	door := s.takeDoor(spec)
	if door != nil {
		defer door.Close()
	}
	client, _ := s.clients.Load(credentials{r.URL, r.Token.Reveal()})
	remote := client.(*gitlab.Client).Job(spec.ID, spec.Token)
	// What it needs was there a moment ago; where it is not now, the job cannot run here.
	e, err := s.executor(context.WithoutCancel(ctx), r)
	if err != nil {
		log.Error("the job cannot run", "error", err)
		watch.Ended(job.ResultOf(err, nil))
		refuse(ctx, remote, err, log)
		return
	}
	place := executor.Slot{ID: slot.ID, ProjectID: slot.ProjectID, Leave: slot.Leave, Watch: watch}
	if door != nil {
		place.Door = door
		place.Leave = func() {
			door.Close() // before GitLab hears of the job's end, which may take a while
			slot.Leave()
		}
	}
	err = e.Run(ctx, remote, place, spec)
	if undelivered := (*trace.UndeliveredError)(nil); errors.As(err, &undelivered) && s.life.Err() == nil {
		log.Warn("how the job ended cannot be reported now; trying again", "error", err)
		delivered := s.observer.Undelivered(r.URL, spec.ID)
		s.background.Go(func() {
			defer delivered()
			s.deliver(s.life, remote, undelivered.Dir, log)
		})
	} else if err != nil {
		log.Error("the job's end cannot be reported; the next start tries again", "error", err)
	}
}

// verify runs a job of our own as one of the runner.
func (s *service) verify(ctx context.Context, r *config.Runner) error {
	e, err := s.executor(ctx, r)
	if err == nil {
		e.Log = slog.New(quiet{s.log.With("runner", r.Name).Handler()})
		err = e.Verify(ctx, s.folder.Trials(), r.Experimental.BootVerify.Timeout)
	}
	if hint := cmp.Or(hintOf(err), job.ResultOf(err, nil).Hint); err != nil && hint != "" {
		err = fmt.Errorf("%w (%s)", err, hint)
	}
	return err
}

// executor makes what runs a job of one runner.
func (s *service) executor(ctx context.Context, r *config.Runner) (*executor.Executor, error) {
	e := &executor.Executor{Store: s.store, SpoolDir: s.folder.Spool(), Log: s.log}
	if r.Executor == config.ShellExecutor {
		account, err := executor.FindAccount(s.user)
		e.Settings = s.connector.executorSettings(r, s.folder, "", s.ephemeral)
		e.Settings.Account = &account
		return e, err
	}
	engine, machine, images, err := s.engines.of(r.Docker).reached(ctx)
	if err != nil {
		return nil, err
	}
	e.Engine, e.Settings = engine, s.settings(r, engine, machine, images)
	return e, nil
}

// refuseTimeout bounds the report of a job that cannot be begun. It holds up other requests for jobs.
const refuseTimeout = time.Minute

// refuse reports a job that cannot be begun.
func refuse(ctx context.Context, remote *gitlab.Job, why error, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refuseTimeout)
	defer cancel()
	if err := trace.Refuse(ctx, remote, why, "", log); err != nil {
		log.Error("the job cannot be reported", "error", err)
	}
}

// server asks for jobs, but only while there is what they need to run.
type server struct {
	client *gitlab.Client
	ready  func(ctx context.Context) error
	doors  *service
	log    *slog.Logger
}

// RequestJob implements runner.Server.
func (s *server) RequestJob(ctx context.Context) (*job.Spec, error) {
	if err := s.ready(ctx); err != nil {
		if hint := hintOf(err); hint != "" {
			err = fmt.Errorf("%w (%s)", err, hint)
		}
		return nil, err
	}
	var door *terminal.Door
	var told *gitlab.Door
	if s.doors.terminals != nil {
		door = s.doors.terminals.Open()
		told = &gitlab.Door{URL: door.URL, Certificate: door.Certificate, Authorization: door.Authorization}
	}
	spec, err := s.client.RequestJob(ctx, told)
	switch {
	case door == nil:
	case spec == nil:
		door.Close()
	default:
		s.doors.doors.Store(spec.Token, door)
	}
	var unreadable *gitlab.PayloadError
	if errors.As(err, &unreadable) {
		// The server counts the job as ours: it must hear that it will not run.
		log := s.log.With("job", unreadable.ID)
		log.Error("a job cannot run, because what the server sent cannot be read", "error", unreadable.Err)
		refuse(ctx, s.client.Job(unreadable.ID, unreadable.Token), unreadable, log)
	}
	return spec, err
}
