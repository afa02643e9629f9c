// Package demo shows Slipway at work on one machine: it brings a coordinator, an image registry and a sample project
// with the pipeline of an article that mounts the Engine's socket into the job, has a runner run that pipeline twice, and
// compares the two runs. Where no outside registry can be reached it makes the two images that it needs of this
// machine's programs. It does not know how a runner works.
package demo

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/buildlog"
)

// demo is what one call of Run has made so far.
type demo struct {
	Options
	socket   string // the Engine's
	dir      string // everything on disk
	fromHub  bool   // the article's images come from outside, not from the registry
	sample   sample
	repo     repository
	registry *Registry
	gitlab   *gitlab
	undo     undo
}

// standInLabel is on the stand-in images, so on every image and container made of them too. Its value is the registry.
const standInLabel = "slipway.demo"

// Run shows the demo. It takes away all that it made, also when it fails or ctx ends.
func Run(ctx context.Context, o Options) (err error) {
	d := &demo{Options: o}
	if d.socket, err = LocalSocket(o.Engine.Host()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cleanUp(ctx)) }()
	for _, step := range []func(context.Context) error{
		d.makeFolder, d.startRegistry, d.chooseImages, d.makeProject, d.startGitLab, d.startRunner,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	var r result
	if r.first, err = d.run(ctx, "first run, cold"); err != nil {
		return err
	}
	if r.second, err = d.run(ctx, "second run, warm"); err != nil {
		return err
	}
	if r.plain, err = d.plainBuild(ctx); err != nil {
		return err
	}
	asked := d.registry.Requests()
	d.note("registry: asked for %d image manifests, sent %d layers and configs, took %d images",
		asked.Manifests, asked.Layers, asked.Pushes)
	_, err = fmt.Fprintf(d.Out, "\n%s", r.table())
	return err
}

// note says what the demo does.
func (d *demo) note(format string, args ...any) { fmt.Fprintf(d.Notes, format+"\n", args...) }

func (d *demo) makeFolder(context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "slipway-demo-"); err != nil {
		return fmt.Errorf("make a folder for the demo: %w", err)
	}
	d.undo.add(func(context.Context) error {
		if d.Keep {
			d.note("kept: the folder %s with the sample project, config.toml and the runner's state; rm -r removes it", d.dir)
			return nil
		}
		if err := os.RemoveAll(d.dir); err != nil {
			return &Error{Err: fmt.Errorf("remove the demo's folder: %w", err), Hint: "sudo rm -r " + d.dir}
		}
		return nil
	})
	return nil
}

func (d *demo) startRegistry(ctx context.Context) (err error) {
	before, err := d.Engine.Images(ctx)
	if err != nil {
		return err
	}
	if d.registry, err = StartRegistry(); err != nil {
		return err
	}
	d.undo.add(func(context.Context) error { return d.registry.Close() })
	d.undo.add(func(ctx context.Context) error { return d.removeImages(ctx, before) })
	d.note("registry on %s, user %s", d.registry.Host, d.registry.User)
	return nil
}

// chooseImages takes the article's images where they can be had, and puts stand-ins into the registry where not.
func (d *demo) chooseImages(ctx context.Context) error {
	d.sample = sample{Nonce: strings.ToLower(rand.Text()[:8]), Sleep: d.Sleep}
	why := "stand-ins are wanted"
	if !d.Offline {
		if reachable(ctx, hubURL) {
			d.fromHub = true
			d.note("images come from Docker Hub")
			return nil
		}
		why = "no outside registry can be reached"
	}
	d.sample.Registry = d.registry.Host
	d.note("%s: images made of this machine's busybox and docker client take the place of two names", why)
	for _, c := range d.sample.changes() {
		d.note("  %-15s %-22s → %s", c.file, c.from, c.to)
	}
	for name, recipe := range map[string]Recipe{alpineName + ":latest": Alpine(), dockerName: DockerClient()} {
		recipe.Labels = map[string]string{standInLabel: d.registry.Host}
		if err := d.registry.Push(ctx, name, recipe); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) makeProject(ctx context.Context) (err error) {
	d.repo, err = d.sample.create(ctx, d.dir)
	return err
}

func (d *demo) startGitLab(context.Context) (err error) {
	if d.gitlab, err = startGitLab(d.repo.Bare, d.registry, d.Log); err != nil {
		return err
	}
	d.undo.add(func(context.Context) error { return d.gitlab.Close() })
	d.note("coordinator on %s, project %s", d.gitlab.URL, projectPath)
	return nil
}

func (d *demo) startRunner(ctx context.Context) error {
	file := filepath.Join(d.dir, "config.toml")
	text := runnerConfig(d.gitlab.URL, d.gitlab.Token, d.socket)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the runner's config: %w", err)
	}
	if d.socket != defaultSocket {
		d.note("the Engine's socket is %s: config.toml says so, jobs have it at %s", d.socket, defaultSocket)
	}
	stop, err := d.StartRunner(ctx, file, filepath.Join(d.dir, "state"))
	if err != nil {
		return fmt.Errorf("start the runner: %w", err)
	}
	d.undo.add(func(context.Context) error {
		if err := stop(); err != nil {
			return fmt.Errorf("stop the runner: %w", err)
		}
		return nil
	})
	return nil
}

// run runs the pipeline once and shows the job's log.
func (d *demo) run(ctx context.Context, title string) (run, error) {
	fmt.Fprintf(d.Out, "\n== %s ==\n", title)
	var steps buildlog.Parser
	took, err := d.gitlab.runPipeline(ctx, &jobLog{out: io.MultiWriter(d.Out, &steps), colour: d.Colour})
	if err != nil {
		return run{}, fmt.Errorf("%s: %w", title, err)
	}
	build, err := theBuild(&steps)
	if err != nil {
		return run{}, fmt.Errorf("%s: %w", title, err)
	}
	return run{took: took, build: build}, nil
}

// plainBuild does the same build without a runner: the median of three, after one that makes sure it is warm.
func (d *demo) plainBuild(ctx context.Context) (run, error) {
	var runs []run
	for range 4 {
		var steps buildlog.Parser
		start := time.Now()
		if err := d.Engine.Build(ctx, d.repo.Checkout, d.registry.Host+"/plain:latest", &steps); err != nil {
			return run{}, fmt.Errorf("build the sample without a runner: %w", err)
		}
		took := time.Since(start)
		build, err := theBuild(&steps)
		if err != nil {
			return run{}, fmt.Errorf("build the sample without a runner: %w", err)
		}
		runs = append(runs, run{took, build})
	}
	runs = runs[1:]
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.took, b.took) })
	return runs[1], nil
}

// theBuild is the one image build of a log.
func theBuild(steps *buildlog.Parser) (buildlog.Build, error) {
	builds := steps.Builds()
	if len(builds) != 1 {
		return buildlog.Build{}, fmt.Errorf("the log shows %d image builds, not one", len(builds))
	}
	return builds[0], nil
}
