package executor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/source"
)

// Verify runs a job of our own, of which no server hears, as every job of the runner would run: in its image, made sure of by its pull policy,
// with its volumes, services and user; without sources, caches and the operator's own scripts, which may need what only a job
// of a project has. nil = the script ran and all was cleaned up. What is wrong with the configuration is a *job.Error, maybe with a hint.
// What the job needs on this machine lies in a folder below dir meanwhile.
func (e *Executor) Verify(ctx context.Context, dir string, timeout time.Duration) (err error) {
	x := *e
	s := &x.Settings
	if err := s.CheckVolumes(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if dir, err = os.MkdirTemp(dir, ""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if x.Store, err = source.Open(filepath.Join(dir, "sources"), e.Log); err != nil {
		return err
	}
	x.SpoolDir = filepath.Join(dir, "jobs")
	s.AllowedProjects, s.ProtectedOnly = nil, false // there is no project
	s.OutputLimit = max(s.OutputLimit, mostKept)    // of what a job has to say
	s.DisableCache, s.Cache = true, CacheSettings{} // nothing of it is to stay
	s.PreBuild, s.PostBuild, s.PostGetSources = "", "", ""
	spec := &job.Spec{
		JobInfo:    job.Info{Name: "boot_verify", ProjectID: math.MaxInt64, ProjectFullPath: e.verifyPath()},
		RunnerInfo: job.RunnerInfo{Timeout: max(1, int(timeout/time.Second))},
		Variables:  job.Variables{{Key: "GIT_STRATEGY", Value: "none"}},
		Steps:      []job.Step{{Name: "script", Script: []string{"echo boot-verify-$((40+2))"}, When: "on_success"}},
	}
	server, watch := &nobody{}, &endWatcher{}
	if err := x.Run(ctx, server, Slot{Watch: watch}, spec); err != nil {
		return err
	}
	log := server.text()
	e.Log.Debug("a job of our own ended", "log", log)
	end := watch.end()
	switch {
	case end.State == job.Success && strings.Contains(log, "boot-verify-42"):
		return nil
	case end.State == "":
		return errors.New("a job of our own could not begin; the line above says why")
	case end.State == job.Success:
		return errors.New("the script of a job of our own did not run, or what it printed got lost")
	case end.ExitCode != 0:
		return &job.Error{Reason: end.Reason, Err: fmt.Errorf("%w; the end of its log is %q", end.Err, lastLines(log, 5)), Hint: end.Hint}
	}
	return &job.Error{Reason: end.Reason, Err: end.Err, Hint: end.Hint}
}

// verifyPath is where the job's folders are below a builds_dir of the machine, which several sections of one runner may share. No project has
// such a path: GitLab takes none that begins with a dot.
func (e *Executor) verifyPath() string {
	sum := sha256.Sum256([]byte(e.Settings.RunnerName))
	return fmt.Sprintf(".slipway/%x", sum[:8])
}

// lastLines are the last n lines of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// nobody is the server of a job that no server knows. It keeps the end of the log.
type nobody struct {
	mu  sync.Mutex
	log []byte
}

// mostKept is what nobody keeps of a log.
const mostKept = 64 << 10

func (n *nobody) text() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return string(n.log)
}

// Update implements trace.Server.
func (n *nobody) Update(context.Context, job.Update) (job.Ack, error) { return job.Ack{}, nil }

// PatchTrace implements trace.Server.
func (n *nobody) PatchTrace(_ context.Context, start int64, chunk []byte, _ bool) (job.Ack, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, chunk...)
	n.log = n.log[max(0, len(n.log)-mostKept):]
	return job.Ack{Offset: start + int64(len(chunk))}, nil
}

// UploadArtifact implements Server.
func (n *nobody) UploadArtifact(context.Context, job.Upload, func(io.Writer) error) error {
	return errors.New("there is no server")
}

// DownloadArtifact implements Server.
func (n *nobody) DownloadArtifact(context.Context, int64, job.Secret, bool, *os.File) (int64, error) {
	return 0, errors.New("there is no server")
}

// endWatcher waits for a job's end.
type endWatcher struct {
	unwatched

	mu     sync.Mutex
	result job.Result
}

// Ended implements Watcher.
func (w *endWatcher) Ended(r job.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result = r
}

func (w *endWatcher) end() job.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.result
}
