// Package e2e tests Slipway as a whole: the real command as a process, a coordinator as its GitLab, real containers on
// a real Engine.
package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/cli"
	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// The images that jobs run in, made of this machine's programs and loaded into the Engine once. Two test runs at once
// do not take them away from each other.
var (
	alpine       = fmt.Sprintf("slipway.test/alpine:%d", os.Getpid())
	dockerClient = fmt.Sprintf("slipway.test/docker:%d", os.Getpid())
	gitImage     = fmt.Sprintf("slipway.test/git:%d", os.Getpid())
	gitUserImage = fmt.Sprintf("slipway.test/git-user:%d", os.Getpid())
)

func testImages() map[string]demo.Recipe {
	return map[string]demo.Recipe{alpine: demo.Alpine(), dockerClient: demo.DockerClient(), gitImage: gitRecipe(""), gitUserImage: gitRecipe("1000")}
}

// asSlipway makes the test binary behave as the command: the race detector then watches it too.
const asSlipway = "SLIPWAY_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asSlipway) != "" {
		go countGoroutines(os.Stderr)
		os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, cli.Build{Version: "test", Revision: "test"}))
	}
	limitParallel()
	syscall.Umask(0o022) // some tests look at the modes of files that jobs of the shell executor make
	code := m.Run()
	if e, err := docker.Connect(context.Background(), docker.Options{}); err == nil {
		for name := range testImages() {
			_ = e.RemoveImage(context.Background(), name)
		}
		removeBridge(e)
	}
	os.Exit(code)
}

// mostAtOnce is how many tests run at once however many CPUs there are: an Engine has address ranges for some thirty networks, which are
// for the tests of other packages, too.
const mostAtOnce = 4

func limitParallel() {
	flag.Parse()
	if n, err := strconv.Atoi(flag.Lookup("test.parallel").Value.String()); err == nil && n > mostAtOnce {
		_ = flag.Set("test.parallel", strconv.Itoa(mostAtOnce))
	}
}

// removeBridge removes the network that jobs share if a test made it: its maker's state folder is gone by now.
func removeBridge(e *docker.Engine) {
	networks, _ := e.Networks(context.Background(), "slipway.state")
	for _, n := range networks {
		if _, err := os.Stat(n.Labels["slipway.state"]); errors.Is(err, fs.ErrNotExist) {
			_ = e.RemoveNetwork(context.Background(), n.Name)
		}
	}
}

// engine is the Engine of the machine. Without one the test is skipped, or fails where one is required.
func engine(t *testing.T) *docker.Engine {
	t.Helper()
	e, err := docker.Connect(t.Context(), docker.Options{})
	if err != nil {
		if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() { e.Close() })
	if err := loadImages(e); err != nil {
		t.Fatal(err)
	}
	return e
}

var imagesLoaded struct {
	sync.Once
	err error
}

func loadImages(e *docker.Engine) error {
	imagesLoaded.Do(func() {
		for name, recipe := range testImages() {
			if err := load(e, name, recipe); err != nil {
				imagesLoaded.err = err
				return
			}
		}
	})
	return imagesLoaded.err
}

func load(e *docker.Engine, name string, recipe demo.Recipe) error {
	// An image of its own: the Engine may lose a name that is given while another name of the image is taken off.
	recipe.Labels = map[string]string{"slipway.test": name}
	var archive bytes.Buffer
	if err := recipe.WriteArchive(&archive, name); err != nil {
		return err
	}
	return e.Load(context.Background(), &archive)
}

// rig is a GitLab with one runner, and a Slipway that serves it.
type rig struct {
	*coordinator.Coordinator
	t         *testing.T
	engine    *docker.Engine
	url       string
	token     job.Secret
	dir       string // the config and all state
	byDefault string // for jobs that name none; "" = alpine
	docker    string // further lines of [runners.docker]
	runner    string // further lines of [[runners]]
	global    string // further lines of the file
	limits    string // lines of [slipway.limits]
	shell     bool   // jobs run without containers
	command   func(args ...string) *exec.Cmd
	front     func(gitlab *httptest.Server) (url string) // how Slipway gets to GitLab; nil = as it is
	server    *httptest.Server
	port      func() // lets go of the server's, while there is no server
	process   *exec.Cmd
	log       *lockedBuffer
}

type option func(*rig)

// dockerKeys adds lines to [runners.docker], runnerKeys to [[runners]], globalKeys above it.
func dockerKeys(lines string) option { return func(r *rig) { r.docker += lines + "\n" } }
func runnerKeys(lines string) option { return func(r *rig) { r.runner += lines + "\n" } }
func globalKeys(lines string) option { return func(r *rig) { r.global += lines + "\n" } }

// limitKeys are the lines of [slipway.limits].
func limitKeys(lines string) option { return func(r *rig) { r.limits = lines } }

// newRig starts a Slipway with the config of the article, on an Engine that has the test images.
func newRig(t *testing.T, options ...option) *rig {
	t.Helper()
	r := &rig{t: t, engine: engine(t), dir: t.TempDir(), command: slipway, log: &lockedBuffer{}, global: "concurrent = 4\n"}
	r.limits = `min_free = "0"` // a test does not prune what others use, however full the machine is
	for _, o := range options {
		o(r)
	}
	r.Coordinator = coordinator.New(coordinator.Options{LongPoll: 10 * time.Second, UpdateInterval: time.Second})
	r.server = httptest.NewServer(r.Coordinator)
	r.url = r.server.URL
	if r.front != nil {
		r.url = r.front(r.server)
	}
	r.token = r.AddRunner(coordinator.Runner{Description: "rig", Tags: []string{"dockerd"}, RunUntagged: true}).Token
	r.writeConfig()
	t.Cleanup(func() {
		r.stop()
		r.Close()
		r.server.Close()
		r.removeTraces()
		if t.Failed() {
			t.Logf("slipway's log:\n%s", r.log)
		}
	})
	r.start()
	return r
}

func (r *rig) configPath() string { return filepath.Join(r.dir, "config.toml") }
func (r *rig) stateDir() string   { return filepath.Join(r.dir, "state") }

func (r *rig) writeConfig() {
	r.t.Helper()
	global := r.global
	if !strings.Contains(global, "shutdown_timeout") {
		global = "shutdown_timeout = 180\n" + global // a busy machine may need more than the usual 30
	}
	text := fmt.Sprintf(`%s
[slipway]
  state_dir = %q
[slipway.limits]
  %s
[[runners]]
  name = "rig"
  url = %q
  token = %q
  executor = "docker"
  builds_dir = "/builds"
  cache_dir = "/cache"
  request_concurrency = 4
%s  [runners.docker]
    image = %q
    pull_policy = "if-not-present"
    volumes = ["/cache", "/builds"]
%s`, global, r.stateDir(), r.limits, r.url, r.token.Reveal(), r.runner, cmp.Or(r.byDefault, alpine), r.docker)
	for _, line := range []string{`volumes = ["/cache", "/builds"]`, `pull_policy = "if-not-present"`} {
		if key, _, _ := strings.Cut(line, "="); strings.Contains(r.docker, key) {
			text = strings.Replace(text, "    "+line+"\n", "", 1)
		}
	}
	if r.shell {
		text = strings.NewReplacer(`executor = "docker"`, `executor = "shell"`, "  builds_dir = \"/builds\"\n", "", "  cache_dir = \"/cache\"\n", "").Replace(text)
	}
	if err := os.WriteFile(r.configPath(), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// start runs `slipway run` and waits until it has read its config and listens for signals.
func (r *rig) start() {
	r.t.Helper()
	before := len(r.log.String())
	r.process = r.command("run", "--config", r.configPath(), "--log-level", "debug")
	r.process.Stdout, r.process.Stderr = r.log, r.log
	if err := r.process.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.eventually("slipway starts", func() bool {
		log := r.log.String()[before:]
		if strings.Contains(log, "slipway: error: ") {
			r.t.Fatalf("slipway does not start:\n%s", log)
		}
		return strings.Contains(log, "INFO  starting")
	})
}

// stop ends the process gently, if it runs.
func (r *rig) stop() {
	if r.process == nil {
		return
	}
	_ = r.process.Process.Signal(syscall.SIGTERM)
	r.wait()
}

// kill ends the process as a crash does.
func (r *rig) kill() {
	_ = r.process.Process.Kill()
	_ = r.process.Wait()
	r.process = nil
}

func (r *rig) wait() {
	err := r.process.Wait()
	r.process = nil
	if err != nil {
		r.t.Errorf("slipway run: %v", err)
	}
	if strings.Contains(r.log.String(), "DATA RACE") {
		r.t.Error("slipway has a data race")
	}
}

// removeTraces removes what outlives a production runner by design, and reports what should not have.
func (r *rig) removeTraces() {
	ctx := context.Background()
	id, err := os.ReadFile(filepath.Join(r.stateDir(), "instance"))
	if err != nil {
		return
	}
	label := "slipway.instance=" + strings.TrimSpace(string(id))
	left, err := r.engine.Containers(ctx, label)
	if err != nil {
		r.t.Error(err)
	}
	for _, c := range left {
		r.t.Errorf("container %s is left behind", c.Name)
		_ = r.engine.Remove(ctx, c.ID)
	}
	volumes, _ := r.engine.Volumes(ctx, label)
	for _, v := range volumes {
		_ = r.engine.RemoveVolume(ctx, v.Name)
	}
}

// spec is a job with that script.
func spec(script ...string) *job.Spec {
	return &job.Spec{
		JobInfo: job.Info{Name: "test", Stage: "test", ProjectID: 7, ProjectName: "demo", ProjectFullPath: "group/demo"},
		Steps:   []job.Step{{Name: "script", Script: script, When: "on_success"}},
	}
}

func withAfter(s *job.Spec, script ...string) *job.Spec {
	s.Steps = append(s.Steps, job.Step{Name: "after_script", Script: script, When: "always", AllowFailure: true})
	return s
}

func withVariables(s *job.Spec, pairs ...string) *job.Spec {
	for i := 0; i < len(pairs); i += 2 {
		s.Variables = append(s.Variables, job.Variable{Key: pairs[i], Value: pairs[i+1], Public: true})
	}
	return s
}

// run runs a job to its end and returns how it ended and its log without timestamps, sections and colours.
func (r *rig) run(s *job.Spec) (coordinator.Outcome, string) {
	r.t.Helper()
	return r.end(r.Enqueue(s, "dockerd"))
}

func (r *rig) end(j *coordinator.Job) (coordinator.Outcome, string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	o, err := j.Wait(ctx)
	if err != nil {
		r.t.Fatalf("job %d does not end: %v\n%s\n%s", j.ID(), err, j.Trace(), r.log)
	}
	return o, plain(j.Trace())
}

// must fails the test unless the job ended in that state.
func (r *rig) must(state job.State, s *job.Spec) string {
	r.t.Helper()
	o, log := r.run(s)
	if o.State != state {
		r.t.Fatalf("job ended as %+v, want %s:\n%s", o, state, log)
	}
	return log
}

var noise = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\S+Z [0-9a-f]{2}[OE]\+? ?|section_(start|end):\d+:\w+(\[[^\]]*\])?\r|\x1b\[[0-9;]*[mK]|\r`)

func plain(trace []byte) string { return string(noise.ReplaceAll(trace, nil)) }

// wants reports what a log lacks.
func wants(t *testing.T, log string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(log, text) {
			t.Errorf("the log lacks %q:\n%s", text, log)
		}
	}
}

// lacks reports what a log should not have.
func lacks(t *testing.T, log string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(log, text) {
			t.Errorf("the log has %q:\n%s", text, log)
		}
	}
}

// slipway is the command as a process.
func slipway(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asSlipway+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// lockedBuffer takes a process's output while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
