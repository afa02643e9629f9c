package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

const (
	clientImage = "slipway.bench/docker:1"
	baseImage   = "slipway.bench/alpine:1"
	imagePrefix = "slipway.bench/"
	projectPath = "bench/app"
)

// rig is a coordinator, the measured command as a process of its own, and the Engine.
type rig struct {
	*coordinator.Coordinator
	engine   *docker.Engine
	server   *httptest.Server
	project  coordinator.Project
	token    job.Secret
	dir      string // everything on disk
	checkout string // of the sample, for the minimum
	head     string // its commit
	dindHead string // the commit of the project with a Docker-in-Docker
	registry string // whose images are removed at the end
	process  *exec.Cmd
	log      bytes.Buffer // read when the process has ended
}

func newRig(ctx context.Context, slipway, socket string) (_ *rig, err error) {
	r := &rig{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close(context.WithoutCancel(ctx)))
		}
	}()
	if r.engine, err = docker.Connect(ctx, docker.Options{}); err != nil {
		return nil, err
	}
	for name, recipe := range map[string]demo.Recipe{clientImage: demo.DockerClient(), baseImage: demo.Alpine()} {
		if err := r.load(ctx, name, recipe); err != nil {
			return nil, err
		}
	}
	if r.dir, err = os.MkdirTemp("", "slipway-bench-"); err != nil {
		return nil, err
	}
	r.checkout = filepath.Join(r.dir, "app")
	if err := r.makeProject(ctx); err != nil {
		return nil, err
	}
	r.Coordinator = coordinator.New(coordinator.Options{})
	r.server = httptest.NewServer(r)
	r.token = r.AddRunner(coordinator.Runner{RunUntagged: true}).Token
	r.project = r.AddProject(coordinator.Project{Path: projectPath, RepoDir: r.checkout + ".git"})
	if err := os.WriteFile(r.config(), fmt.Appendf(nil, `concurrent = 8
[slipway]
  state_dir = %q
[slipway.limits]
  min_free = "0"
[[runners]]
  name = "bench"
  url = %q
  token = %q
  executor = "docker"
  request_concurrency = 8
  [runners.slipway]
    socket = %q
  [runners.docker]
    image = %q
    pull_policy = "if-not-present"
    volumes = ["/var/run/docker.sock:/var/run/docker.sock", "/cache", "/builds"]
`, r.state(), r.server.URL, r.token.Reveal(), socket, clientImage), 0o600); err != nil {
		return nil, err
	}
	r.process = exec.Command(slipway, "run", "--config", r.config())
	r.process.Stdout, r.process.Stderr = &r.log, &r.log
	return r, r.process.Start()
}

func (r *rig) config() string { return filepath.Join(r.dir, "config.toml") }
func (r *rig) state() string  { return filepath.Join(r.dir, "state") }

// makeProject makes the article's project, with a long step that is only long the first time.
func (r *rig) makeProject(ctx context.Context) (err error) {
	r.head, err = repository(ctx, r.checkout, r.checkout+".git", map[string]string{
		"Dockerfile": "FROM " + baseImage + "\nRUN echo " + filepath.Base(r.dir) + " > /long && sleep 1\nCOPY app.txt /\nRUN cat /long\n",
		"app.txt":    "hello\n",
	})
	return err
}

// repository makes a checkout with these files, and a bare repository of it. It returns the commit.
func repository(ctx context.Context, dir, bare string, files map[string]string) (head string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"add", "-A"},
		{"-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", "bench"},
		{"clone", "-q", "--bare", ".", bare},
	} {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
	}
	out, err := exec.CommandContext(ctx, "git", "-C", dir, "rev-parse", "HEAD").Output()
	return strings.TrimSpace(string(out)), err
}

func (r *rig) close(ctx context.Context) error {
	var errs []error
	if r.process != nil && r.process.Process != nil {
		_ = r.process.Process.Signal(syscall.SIGTERM)
		if err := r.process.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("slipway run: %w\n%s", err, r.log.String()))
		}
	}
	if r.Coordinator != nil {
		r.Close()
		r.server.Close()
	}
	if r.engine != nil {
		names, err := r.engine.Images(ctx)
		errs = append(errs, err)
		for _, n := range names {
			// A job's own name is stored below its scope's.
			if r.registry != "" && strings.HasPrefix(n, r.registry+"/") || strings.HasPrefix(n, imagePrefix) || strings.HasPrefix(n, "slipway.local/") && strings.Contains(n, "/"+imagePrefix) {
				errs = append(errs, r.engine.RemoveImage(ctx, n))
			}
		}
		networks, err := r.engine.Networks(ctx, "slipway.state="+r.state())
		errs = append(errs, err)
		for _, n := range networks {
			errs = append(errs, r.engine.RemoveNetwork(ctx, n.Name))
		}
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}

// buildCommand tags what it builds: jobs and the minimum apart, because the modes of their files differ, and an image
// that lost its name would stay.
func buildCommand(tag string) string {
	return "DOCKER_BUILDKIT=0 docker build -t " + imagePrefix + tag + " ."
}

func (r *rig) spec(script ...string) *job.Spec {
	return &job.Spec{
		JobInfo:       job.Info{ProjectID: r.project.ID, ProjectFullPath: projectPath, Name: "bench", Stage: "test"},
		AllowGitFetch: true,
		Steps:         []job.Step{{Name: "script", Script: script}},
	}
}

// warmJob is the article's job without the push: fetch, check out, build with every step cached.
func (r *rig) warmJob() *coordinator.Job {
	s := r.spec(buildCommand("job"))
	s.GitInfo = job.Git{SHA: r.head, Ref: "main", RefType: "branch", Depth: 20, Refspecs: []string{"+refs/heads/main:refs/remotes/origin/main"}}
	return r.Enqueue(s)
}

func (r *rig) trivialJob() *coordinator.Job { return r.Enqueue(r.spec("echo hello")) }

func (r *rig) warmMinimum(ctx context.Context) error {
	return r.minimum(ctx, "cd /app && "+buildCommand("minimum"))
}

func (r *rig) trivialMinimum(ctx context.Context) error { return r.minimum(ctx, "echo hello") }

// minimum is what a shell script of an afternoon does: create, attach, start, read to the end, remove.
func (r *rig) minimum(ctx context.Context, script string) error {
	return r.runToEnd(ctx, docker.Container{
		Image: clientImage, Cmd: []string{"sh", "-c", script},
		Binds: []string{"/var/run/docker.sock:/var/run/docker.sock", r.checkout + ":/app"},
	})
}

// runToEnd runs a container to its end, which must be good, and removes it.
func (r *rig) runToEnd(ctx context.Context, c docker.Container) error {
	id, err := r.engine.Create(ctx, c)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	err = func() error {
		stream, err := r.engine.Attach(ctx, id)
		if err != nil {
			return err
		}
		defer stream.Close()
		if err := r.engine.Start(ctx, id); err != nil {
			return err
		}
		if err := stream.Copy(&out, &out); err != nil {
			return err
		}
		exit, err := r.engine.Wait(ctx, id)
		if err == nil && exit.Code != 0 {
			err = fmt.Errorf("exit code %d: %s", exit.Code, out.String())
		}
		return err
	}()
	return errors.Join(err, r.engine.Remove(context.WithoutCancel(ctx), id))
}

// throughput runs n trivial jobs, and as many minimums, so many at once.
func (r *rig) throughput(ctx context.Context, n, atOnce int) (ours, minimum time.Duration, err error) {
	began := time.Now()
	var jobs []*coordinator.Job
	for range n {
		jobs = append(jobs, r.trivialJob())
	}
	for _, j := range jobs {
		if _, err := r.finished(ctx, j); err != nil {
			return 0, 0, err
		}
	}
	ours = time.Since(began)
	began = time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for range n {
		g.Go(func() error { return r.trivialMinimum(gctx) })
	}
	err = g.Wait()
	return ours, time.Since(began), err
}

// containersPerJob asks the Engine how many containers the runner made while one job ran.
func (r *rig) containersPerJob(ctx context.Context) (int, error) {
	instance, err := os.ReadFile(filepath.Join(r.state(), "instance"))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := r.finished(ctx, r.trivialJob()); err != nil {
		return 0, err
	}
	stamp := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixNano())/1e9, 'f', 9, 64) }
	out, err := exec.CommandContext(ctx, "docker", "events", "--since", stamp(began), "--until", stamp(time.Now()),
		"--filter", "type=container", "--filter", "event=create", "--filter", "label=slipway.instance="+strings.TrimSpace(string(instance)), "--format", "{{.ID}}").Output()
	return len(strings.Fields(string(out))), err
}

// usage is what the process has used so far, with the Git commands that it ran.
type usage struct {
	rss int64 // bytes
	cpu time.Duration
}

func (r *rig) usage() (u usage, err error) {
	pid := strconv.Itoa(r.process.Process.Pid)
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return u, err
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	const tick = time.Second / 100            // USER_HZ
	for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(n) * tick
	}
	pages, err := strconv.ParseInt(f[21], 10, 64)
	u.rss = pages * int64(os.Getpagesize())
	return u, err
}
