package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/disk"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/executor"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/objects"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/state"
)

// level is how bad a finding is.
type level string

const (
	fine    level = "ok"
	warning level = "warning"
	broken  level = "error" // jobs fail, or the machine is open
)

// finding is one thing that doctor looked at.
type finding struct {
	Level level  `json:"level"`
	What  string `json:"what"`
	Cure  string `json:"cure,omitempty"` // empty if Level is fine
}

// doctor collects what it finds.
type doctor struct {
	app      *app
	findings []finding
}

func (d *doctor) fine(format string, args ...any) {
	d.findings = append(d.findings, finding{fine, fmt.Sprintf(format, args...), ""})
}

func (d *doctor) bad(l level, cure, format string, args ...any) {
	d.findings = append(d.findings, finding{l, fmt.Sprintf(format, args...), cure})
}

// errDoctor: the findings have been printed.
var errDoctor = errors.New("there are errors")

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what will make jobs fail, or leaves the machine open",
		Long: `Doctor looks at config.toml, asks GitLab about the runners' tokens and the Docker Engine about itself, and says for each finding what to
do. It changes nothing, but for containers that it makes and removes without starting them.

The exit code is 1 if there is an error; warnings do not count.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilInterrupt(cmd.Context())
			defer stop()
			d := &doctor{app: a}
			d.examine(ctx)
			if ctx.Err() != nil {
				return errInterrupted
			}
			return d.report(asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return cmd
}

func (d *doctor) report(asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(d.app.stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(d.findings); err != nil {
			return err
		}
	}
	failed := 0
	for _, f := range d.findings {
		if f.Level == broken {
			failed++
		}
		if asJSON {
			continue
		}
		fmt.Fprintf(d.app.stdout, "%-8s %s\n", f.Level, f.What)
		if f.Cure != "" {
			fmt.Fprintf(d.app.stdout, "%-8s → %s\n", "", f.Cure)
		}
	}
	if failed > 0 {
		return errDoctor
	}
	return nil
}

func (d *doctor) examine(ctx context.Context) {
	cfg := d.config()
	if cfg == nil {
		return
	}
	if version, err := source.GitVersion(); err != nil {
		d.bad(broken, "install git, 2.32 or newer", "%v; it fetches the sources", err)
	} else {
		d.fine("git is there, %s", version)
	}
	dir := d.stateDir(cfg)
	if dir == "" {
		return
	}
	conn, err := d.app.quietConnector(cfg)
	if err != nil {
		d.bad(broken, "see the message", "%v", err)
		return
	}
	guarded := map[docker.Options]bool{} // whether a runner gives sockets of that Engine to jobs
	for _, r := range cfg.Served() {
		if r.Docker != nil && givesSocket(r) && r.Slipway.Socket == config.SocketGuarded {
			guarded[engineOptions(r.Docker)] = true
		}
	}
	asked := map[docker.Options]bool{}
	for _, r := range cfg.Served() {
		if ctx.Err() != nil {
			return
		}
		d.token(ctx, conn, r)
		d.cache(ctx, conn, r)
		if r.Executor == config.ShellExecutor {
			d.account(cfg.User)
			continue
		}
		d.guard(r)
		o := engineOptions(r.Docker)
		if !asked[o] {
			asked[o] = true
			d.engine(ctx, o, dir, guarded[o], cfg.Slipway.Limits)
		}
		d.containers(ctx, conn, r, dir)
	}
}

// config is nil if there is none to go by.
func (d *doctor) config() *config.Config {
	path, _, err := d.app.findConfig()
	if err != nil {
		d.bad(broken, "name it with --config, or let slipway register write one", "%v", err)
		return nil
	}
	cfg, warnings, err := config.Load(path)
	if err != nil {
		for _, p := range config.Problems(err) {
			cure := p.Hint
			p.Hint = "" // it has a line of its own
			d.bad(broken, cure, "%v", p)
		}
		if len(config.Problems(err)) == 0 {
			d.bad(broken, "slipway register writes one", "%v", err)
		}
		return nil
	}
	for _, w := range warnings {
		if !w.Note {
			d.bad(warning, w.Hint, "%s:%d: %s: %s", path, w.Line, w.Key, w.Msg)
		}
	}
	if served := len(cfg.Served()); served == 0 {
		d.bad(broken, "slipway register adds one", "%s has no runner that slipway can serve", path)
	} else {
		d.fine("%s: %d of %d runners are served", path, served, len(cfg.Runners))
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		d.bad(warning, "chmod 600 "+shellWord(path), "%s has the runners' tokens, and others may read or change it (mode %03o)", path, info.Mode().Perm())
	}
	return cfg
}

func (d *doctor) stateDir(cfg *config.Config) string {
	dir, err := d.app.stateDir(cfg)
	if err != nil {
		d.bad(broken, hintOf(err), "%v", err)
		return ""
	}
	d.space("the state folder", dir, cfg.Slipway.Limits.MinFree)
	return dir
}

// What is enough of a disk, in bytes.
const (
	hardlyAnySpace = 1 << 30
	littleSpace    = 10 << 30
)

func (d *doctor) space(what, dir string, minFree *config.MinFree) {
	space, err := disk.Look(dir)
	if err != nil {
		return // not on this machine, or not ours to see
	}
	left := fmt.Sprintf("%s (%s) has %.1f GiB left", what, dir, gib(space.Free))
	kept := minFree.Of(space.Size)
	budget := fmt.Sprintf("; slipway run keeps %.1f GiB free (min_free)", gib(kept))
	if minFree.Off() {
		budget = `; nothing is kept free (min_free = "0")`
	}
	const cure = "make room (docker system df shows what the Engine needs)"
	switch {
	case space.Free < hardlyAnySpace:
		d.bad(broken, cure, "%s: jobs will fail%s", left, budget)
	case space.Free < kept:
		d.bad(warning, cure+", or lower min_free in [slipway.limits]", "%s, and slipway run removes what can be made again to keep %.1f GiB free (min_free)", left, gib(kept))
	case space.Free < littleSpace:
		d.bad(warning, cure, "%s%s", left, budget)
	default:
		d.fine("%s%s", left, budget)
	}
}

func gib(bytes uint64) float64 { return float64(bytes) / (1 << 30) }

func (d *doctor) token(ctx context.Context, conn connector, r *config.Runner) {
	client, err := conn.client(r)
	if err != nil {
		d.bad(broken, "correct tls-ca-file, tls-cert-file and tls-key-file, or what lies in certs beside config.toml", "%s: %v", describe(r), err)
		return
	}
	defer client.Close()
	_, err = client.Verify(ctx)
	switch {
	case err == nil:
		d.fine("%s: %s takes its token", describe(r), r.URL)
	case errors.Is(err, job.ErrForbidden):
		d.bad(broken, "take the token from the runner's page in GitLab, or slipway verify --delete", "%s: %s does not take its token", describe(r), r.URL)
	default:
		d.bad(broken, "check url, the network and its proxies; slipway run tries again until it works", "%s: %v", describe(r), err)
	}
	if !r.TokenExpiresAt.IsZero() && time.Until(r.TokenExpiresAt) < 0 {
		d.bad(broken, "slipway reset-token with --pat, a personal access token, gives it a new one", "%s: its token has expired", describe(r))
	}
}

// bucketPatience is how long a bucket may take to say that it has no such object.
const bucketPatience = 20 * time.Second

// cache asks a runner's bucket for an object that is not there.
func (d *doctor) cache(ctx context.Context, conn connector, r *config.Runner) {
	s := conn.cacheSettings(r)
	if s.S3 == nil {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bucketPatience, fmt.Errorf("the bucket %s has not answered for %s", s.S3.Bucket, bucketPatience))
	defer cancel()
	options := *s.S3
	options.Within = strings.TrimLeft(s.Prefix+"/", "/")
	bucket, err := objects.Open(options)
	if err == nil {
		defer bucket.Close()
		_, err = bucket.Get(ctx, options.Within+"slipway-doctor", "", io.Discard, func(int64) {})
	}
	if err == nil || errors.Is(err, objects.ErrNone) {
		d.fine("%s: its bucket %s answers", describe(r), s.S3.Bucket)
		return
	}
	cure := "check [runners.cache.s3] and the network"
	var explained *objects.Error
	if errors.As(err, &explained) {
		cure = cmp.Or(explained.Hint, cure)
		err = &objects.Error{Server: explained.Server, Bucket: explained.Bucket, Err: explained.Err}
	}
	d.bad(warning, cure, "%s: caches are kept on this machine only: %v", describe(r), err)
}

func (d *doctor) account(user string) {
	a, err := executor.FindAccount(user)
	switch {
	case err != nil:
		d.bad(broken, job.ResultOf(err, nil).Hint, "%v", err)
	case a.UID == 0:
		d.bad(warning, `write user = "…" at the top of config.toml`, "jobs of the shell executor run as root, and own this machine")
	default:
		d.fine("jobs of the shell executor run as %s", a.Name)
	}
}

// givesSocket reports whether jobs have a socket of the Engine's, of whatever kind.
func givesSocket(r *config.Runner) bool {
	return slices.ContainsFunc(r.Docker.Volumes, func(v string) bool { return strings.Contains(v, "docker.sock") })
}

// guard tells of what undoes the guard of jobs' sockets.
func (d *doctor) guard(r *config.Runner) {
	s, name := r.Slipway, describe(r)
	has := givesSocket(r)
	before := len(d.findings)
	if has && s.Socket == config.SocketRaw {
		d.bad(warning, `take socket = "raw" out of [runners.slipway]`, "%s: each job controls this machine through the Engine's own socket", name)
	}
	if s.TrustConfig {
		d.bad(warning, "take trust_config out of [runners.slipway]", "%s: jobs get also what undoes the guard of their socket", name)
	}
	if s.SocketPolicy == config.PolicyAudit {
		d.bad(warning, `take socket_policy = "audit" out of [runners.slipway]`, "%s: the guard only notes what it would refuse", name)
	}
	// With a guarded socket a job is not given it.
	if r.Docker.Privileged && (!has || s.Socket == config.SocketRaw || s.TrustConfig) {
		d.bad(warning, "give jobs the guarded socket (volumes) in place of privileged", "%s: jobs are privileged, and own this machine", name)
	}
	if len(d.findings) == before {
		d.fine("%s: nothing in the config undoes the guard", name)
	}
}

func (d *doctor) engine(ctx context.Context, o docker.Options, stateDir string, guarded bool, limits config.MachineLimits) {
	e, err := docker.Connect(ctx, o)
	if err != nil {
		d.bad(broken, hintOf(err), "%v", err)
		return
	}
	defer e.Close()
	version, err := e.Version(ctx)
	m, merr := e.Machine(ctx)
	if err = errors.Join(err, merr); err != nil {
		d.bad(broken, "is it a Docker Engine?", "%v", err)
		return
	}
	d.machine(e.Host(), version, m)
	d.users(m, os.Geteuid() == 0)
	if e.Socket() == "" {
		kept := "and nothing is removed when the disk of its images gets full (min_free)"
		if limits.BuildCache > 0 || limits.MinFree.Off() {
			kept = "and the disk of its images is not watched"
		}
		d.bad(warning, "use the Engine's socket; without one, set build_cache in [slipway.limits]", "the Engine at %s is not reached through a socket: it may be on another machine, %s", e.Host(), kept)
	} else {
		d.data(m, limits)
	}
	if icc, err := e.BridgeICC(ctx); err == nil && icc {
		d.bad(warning, `write "icc": false into daemon.json`, "containers on docker0 reach each other, and so do the RUN steps of all jobs' builds, which are there")
	}
	d.place(ctx, e, stateDir, guarded)
}

// containers finds out whether the Engine makes the containers that a runner's jobs would have.
func (d *doctor) containers(ctx context.Context, conn connector, r *config.Runner, stateDir string) {
	e, err := docker.Connect(ctx, engineOptions(r.Docker))
	if err != nil {
		return // which was told
	}
	defer e.Close()
	image, err := probeImage(ctx, e)
	if err != nil || image == "" {
		return
	}
	x := executor.Executor{Engine: e, Settings: conn.executorSettings(r, &state.Folder{Path: stateDir}, e.Socket(), false)}
	x.Settings.Guard = guardSettings(r, "", nil, docker.Machine{})
	if err := withImage(ctx, e, func(image string) error { return x.Try(ctx, image) }); err != nil {
		d.bad(broken, cmp.Or(job.ResultOf(err, nil).Hint, "see the message"), "%s: every job will fail: %v", describe(r), err)
		return
	}
	d.fine("%s: the Engine makes the containers of its jobs", describe(r))
}

// data tells of the disks where an Engine's data lies, and what they are kept to.
func (d *doctor) data(m docker.Machine, limits config.MachineLimits) {
	layers := layersDir(m)
	what := map[string]string{layers: "the Engine's images and build cache", m.ArchivesDir: "what the Engine pulled", m.DataRoot: "the Engine's data"}
	for _, dir := range dataDirs(m) {
		if _, err := disk.Look(dir); err == nil {
			d.space(what[dir], dir, limits.MinFree)
		} else if !limits.MinFree.Off() {
			d.bad(warning, "in a container, mount that folder at the same path, read-only; or set build_cache in [slipway.limits]",
				"%s: %v; nothing is removed when that disk gets full", what[dir], err)
		}
	}
	if layers == "" && !limits.MinFree.Off() {
		d.bad(warning, "run slipway as a user who may use containerd's socket, and in a container mount that socket at the same path; or set build_cache in [slipway.limits]",
			"the Engine keeps images and build cache in a folder of its containerd that is not known, and nothing is removed when that disk gets full: %v", m.LayersUnknown)
	}
	if n := limits.BuildCache; n > 0 {
		d.fine("its build cache is kept within %.1f GiB (build_cache)", gib(uint64(n)))
	}
}
