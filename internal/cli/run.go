package cli

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/runner"
	"github.com/slipway-ci/slipway/internal/state"
)

// runFlags are the flags of run.
type runFlags struct {
	workingDirectory string

	// Those of GitLab's runner that mean nothing here (yet). They are taken so that its units and scripts work.
	service, user string
	syslog        bool

	listenAddress string
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Take jobs from GitLab and run them",
		Long: `Run takes jobs for every [[runners]] of config.toml until it is told to stop.

SIGQUIT lets the running jobs finish, SIGTERM and SIGINT abort them (a second one ends slipway at once), SIGHUP reads
config.toml again, which a change of the file does as well.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd.Context(), f) },
	}
	fs := cmd.Flags()
	fs.StringVarP(&f.workingDirectory, "working-directory", "d", "", "change to this folder first")
	fs.StringVarP(&f.service, "service", "n", "", "")
	fs.StringVarP(&f.user, "user", "u", "", "whom jobs of the shell executor run as, in place of the config's user")
	fs.StringVar(&f.listenAddress, "listen-address", "", "where metrics and health are served, in place of the config's listen_address")
	fs.BoolVar(&f.syslog, "syslog", false, "")
	bindEnv(fs, "listen-address", "LISTEN_ADDRESS")
	for _, name := range []string{"service", "syslog"} {
		fs.Lookup(name).Hidden = true
	}
	return cmd
}

// warnIgnored names the flags that were given and do nothing.
func (f runFlags) warnIgnored(log *slog.Logger) {
	if f.syslog {
		log.Warn("--syslog is ignored: slipway logs to standard error, which systemd puts into the journal")
	}
}

// runOptions is what a manager is made of.
type runOptions struct {
	Config   *config.Config
	StateDir string // our own folder: system ID, mirrors, workspaces, spool
	Build    Build
	Log      *slog.Logger
	// Ephemeral: networks and volumes on the Engine end with this run.
	Ephemeral bool
	Observer  *observer // nil = one that nobody asks
	User      string    // whom jobs of the shell executor run as; "" = this process's user
	Single    *single   // nil = until it is told to stop
	// Attach is called once, with the manager, before the manager runs: from then on signals and edits of the config
	// reach it.
	Attach func(manager)
}

func (a *app) run(ctx context.Context, f runFlags) error {
	if f.workingDirectory != "" {
		if err := os.Chdir(f.workingDirectory); err != nil {
			return withHint(fmt.Errorf("change to the working directory: %w", err), "make it, or leave --working-directory out: nothing of slipway's lies there")
		}
	}
	s, err := a.toServe(ctx)
	if err != nil {
		return err
	}
	s.flags = f
	return a.serve(ctx, s)
}

// toServe reads the config that this command line means, and makes sure that GitLab's own runner does not serve it.
func (a *app) toServe(ctx context.Context) (s serving, err error) {
	path, foreign, err := a.findConfig()
	if err != nil {
		return s, err
	}
	a.noteForeign(path, foreign)
	s.path = path
	s.file = &runner.File{Path: path}
	s.file.Look()
	if s.cfg, s.warnings, err = config.Load(path); err != nil {
		return s, err
	}
	return s, a.refuseBesides(ctx, path, foreign)
}

// serving is what a run of jobs begins with.
type serving struct {
	path     string // of the config
	file     *runner.File
	cfg      *config.Config
	warnings []config.Warning
	flags    runFlags
	single   *single // nil = until it is told to stop
}

func (a *app) serve(ctx context.Context, s serving) error {
	path, cfg, f := s.path, s.cfg, s.flags
	log, level, err := a.logger(cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	observer := newObserver(a.build)
	observer.Loaded(path)
	log = slog.New(counting{log.Handler(), observer.Error})
	logWarnings(log, s.warnings)
	f.warnIgnored(log)
	stateDir, err := a.stateDir(cfg)
	if err != nil {
		return err
	}
	stopServing, err := serveMonitor(observer, cmp.Or(f.listenAddress, cfg.ListenAddress), log)
	if err != nil {
		if used, _ := state.InUse(stateDir); used { // by who has the address, too
			return lockedError(fmt.Errorf("lock %s: %w", stateDir, state.ErrLocked))
		}
		return err
	}
	defer stopServing()
	if len(cfg.Served()) == 0 {
		log.Warn("the config has no runner to serve; slipway register adds one", "config", path)
	}

	listening, deaf := context.WithCancel(ctx) // outlives the first signal, for the second one
	defer deaf()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals, stop := notify(syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	defer stop()
	var c control
	systemd := supervisor{log}
	reload := func() { a.reload(&c, cfg, log, level, observer) }
	hangup := func() {
		s.file.Look() // a change is read now
		reload()
	}
	if s.single != nil {
		hangup = func() { log.Warn("run-single does not read the config again") }
	}
	go signalActions{
		drain: func() {
			log.Info("told to quit: taking no more jobs, waiting for those that run")
			systemd.tell(daemon.SdNotifyStopping)
			c.drain()
		},
		reload: hangup,
		abort: func(sig os.Signal) {
			log.Warn("told to stop: aborting the jobs that run; a second signal ends slipway at once", "signal", sig)
			systemd.tell(daemon.SdNotifyStopping)
			cancel(job.ErrShutdown)
		},
		exit: exitAtOnce,
	}.handle(listening, signals)
	if s.single == nil {
		go runner.Watch(ctx, s.file, runner.WatchInterval, reload)
	}

	log.Info("starting", "version", a.build.Version, "config", path, "runners", len(cfg.Runners), "concurrent", cfg.Concurrent)
	err = runManager(ctx, runOptions{
		Config: cfg, StateDir: stateDir, Build: a.build, Log: log, Observer: observer, Single: s.single, User: cmp.Or(f.user, cfg.User),
		Attach: func(m manager) {
			c.attach(m)
			if s.single != nil {
				s.single.begin(m.Drain)
			}
			systemd.tell(daemon.SdNotifyReady)
			go systemd.pet(listening, func() { observer.now() })
		},
	})
	if err != nil && !shutdownOf(err) {
		return err
	}
	log.Info("stopped")
	return nil
}

// reload reads the config again, and says what of it was read for good when slipway started. A broken one changes nothing.
func (a *app) reload(c *control, first *config.Config, log *slog.Logger, level *slog.LevelVar, observer *observer) {
	path := first.Path
	cfg, warnings, err := config.Load(path)
	if err == nil {
		err = a.setLevel(level, cfg.LogLevel)
	}
	if err != nil {
		for _, e := range flatten(err) {
			log.Error("the new config is not used, the old one stays: " + e.Error())
		}
		return
	}
	observer.Loaded(path)
	logWarnings(log, warnings)
	for _, key := range []struct {
		name    string
		changed bool
	}{
		{"listen_address", cfg.ListenAddress != first.ListenAddress},
		{"user", cfg.User != first.User},
		{"log_format", cfg.LogFormat != first.LogFormat},
		{"[session_server]", cfg.SessionServer != first.SessionServer},
		{"state_dir of [slipway]", cfg.Slipway.StateDir != first.Slipway.StateDir},
	} {
		if key.changed {
			log.Warn(key.name + " has changed, which takes effect when slipway is started again")
		}
	}
	log.Info("read the config again", "config", path, "runners", len(cfg.Runners), "concurrent", cfg.Concurrent)
	c.reload(cfg)
}

// logWarnings puts what the config's reader noticed into the program log.
func logWarnings(log *slog.Logger, warnings []config.Warning) {
	for _, w := range warnings {
		if w.Note {
			log.Info(w.String())
		} else {
			log.Warn(w.String())
		}
	}
}
