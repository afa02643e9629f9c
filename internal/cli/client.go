package cli

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/gitlab"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/objects"
)

// findConfig says which config.toml this command line means; foreign: it is that of GitLab's own runner.
func (a *app) findConfig() (path string, foreign bool, err error) {
	return config.Find(a.global.config, a.host.home, a.host.root, os.Getenv)
}

// loadConfig finds and reads the config for the commands that only look at its runners, and says so when it is not
// one of ours.
func (a *app) loadConfig() (*config.Config, []config.Warning, error) {
	path, foreign, err := a.findConfig()
	if err != nil {
		return nil, nil, err
	}
	a.noteForeign(path, foreign)
	return config.Load(path)
}

// noteForeign says that a config was not written for slipway, unless the user named it.
func (a *app) noteForeign(path string, foreign bool) {
	if foreign && a.global.config == "" {
		fmt.Fprintf(a.stderr, "slipway: using %s, the config of GitLab's own runner\n", path)
	}
}

// stateDir is the folder that is ours alone. It is there, readable for us only, when stateDir returns.
func (a *app) stateDir(cfg *config.Config) (string, error) {
	dir := config.StateDir(cfg, a.host.home, a.host.root, os.Getenv)
	if dir == "" {
		return "", withHint(errors.New("there is no home directory for slipway's state"),
			"set HOME, or state_dir in the [slipway] table of config.toml")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", withHint(fmt.Errorf("make the state folder: %w", err),
			"run slipway as the user whose folder it is, or set state_dir in the [slipway] table of config.toml to another one")
	}
	return dir, nil
}

// connector makes clients for the runners of one config.
type connector struct {
	systemID  string
	certs     string // where certificates are looked for
	cfg       *config.Config
	build     Build
	log       *slog.Logger
	observer  *observer // nil = nobody counts the calls
	terminals bool      // jobs have web terminals
	roles     *objects.Roles
}

// newConnector reads this machine's system ID, or makes one, in the state folder. path is that of the config; cfg may
// be nil where there is none yet.
func newConnector(path, stateDir string, cfg *config.Config, build Build, log *slog.Logger) (connector, error) {
	id, err := gitlab.SystemID(filepath.Join(stateDir, "system_id"), "/etc/machine-id")
	if err != nil {
		return connector{}, err
	}
	return connector{systemID: id, certs: filepath.Join(filepath.Dir(path), "certs"), cfg: cfg, build: build, log: log, roles: &objects.Roles{}}, nil
}

// connector makes a connector for the commands that only talk to the server.
func (a *app) connector(path string, cfg *config.Config, log *slog.Logger) (connector, error) {
	dir, err := a.stateDir(cfg)
	if err != nil {
		return connector{}, err
	}
	return newConnector(path, dir, cfg, a.build, log)
}

// quietConnector makes a connector for a command that says itself what it does: its log has warnings only.
func (a *app) quietConnector(cfg *config.Config) (connector, error) {
	log, _, err := a.logger("warn", cfg.LogFormat)
	if err != nil {
		return connector{}, err
	}
	return a.connector(cfg.Path, cfg, log)
}

// client speaks for one runner.
func (c connector) client(r *config.Runner) (*gitlab.Client, error) { return gitlab.New(c.options(r)) }

func (c connector) options(r *config.Runner) gitlab.Options {
	o := gitlab.Options{
		URL: r.URL, Token: r.Token.Reveal(), SystemID: c.systemID,
		TLS:      gitlab.TLS{CAFile: r.TLSCAFile, CertFile: r.TLSCertFile, KeyFile: r.TLSKeyFile},
		CertsDir: c.certs,
		Version:  gitlab.Version{Version: c.build.Version, Revision: c.build.Revision},
		Executor: r.Executor, Shell: cmp.Or(r.Shell, "bash"), Features: features(r),
		Log: c.log, UploadTimeout: max(r.Artifact.UploadTimeout, 0), ResponseHeaderTimeout: max(r.Artifact.ResponseHeaderTimeout, 0),
	}
	if r.Docker != nil {
		o.GPUs = r.Docker.GPUs
	}
	if c.terminals {
		o.Features.Session, o.Features.Terminal = true, true
	}
	if c.cfg != nil {
		o.ConnectionMaxAge = c.cfg.ConnectionMaxAge
	}
	if c.observer != nil {
		o.Observe = c.observer.calls(r)
	}
	return o
}

func features(r *config.Runner) gitlab.Features {
	if r.Executor == config.ShellExecutor {
		return gitlab.ShellFeatures()
	}
	return gitlab.DockerFeatures()
}

// describe names a runner in messages: its name and the part of its token that may be seen.
func describe(r *config.Runner) string {
	return fmt.Sprintf("runner %q (%s)", r.Name, shortToken(r))
}

// shortToken is the part of a token that GitLab's pages show as well.
func shortToken(r *config.Runner) string {
	s := job.Secret(r.Token.Reveal()).Short()
	if len(s) >= len(r.Token) { // no token of GitLab's
		return r.Token.String()
	}
	return s
}
