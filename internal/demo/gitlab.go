package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// projectPath is where the sample project is on the coordinator.
const projectPath = "demo/sample"

// patience is how long a runner may take to fetch a job that waits for it.
const patience = 2 * time.Minute

// gitlab is the coordinator behind an HTTP server, with the sample project and one runner token.
type gitlab struct {
	URL   string
	Token string // of the runner

	coordinator *coordinator.Coordinator
	server      *http.Server
	served      chan error
}

func startGitLab(repo string, registry *Registry, log *slog.Logger) (*gitlab, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a port for the coordinator: %w", err)
	}
	g := &gitlab{URL: "http://" + listener.Addr().String() + "/", served: make(chan error, 1)}
	g.coordinator = coordinator.New(coordinator.Options{
		URL:            g.URL,
		UpdateInterval: time.Second, // somebody watches
		Log:            log,
	})
	g.Token = g.coordinator.AddRunner(coordinator.Runner{Tags: []string{"dockerd"}}).Token.Reveal()
	g.coordinator.AddProject(coordinator.Project{
		Path: projectPath, RepoDir: repo,
		Registry: registry.Host, RegistryUser: registry.User, RegistryPassword: job.Secret(registry.Password),
	})
	g.server = &http.Server{Handler: g.coordinator, ReadHeaderTimeout: 10 * time.Second}
	go func() { g.served <- g.server.Serve(listener) }()
	return g, nil
}

// runPipeline runs the sample's pipeline, which has one job, and passes on its log. It tells how long the job took, from
// hand-out to final status.
func (g *gitlab) runPipeline(ctx context.Context, log io.WriteCloser) (time.Duration, error) {
	jobs, err := g.coordinator.StartPipeline(ctx, projectPath, branch)
	if err != nil {
		return 0, fmt.Errorf("start the pipeline: %w", err)
	}
	if len(jobs) != 1 {
		return 0, fmt.Errorf("the sample's pipeline has %d jobs, not one", len(jobs))
	}
	j := jobs[0]
	waiting, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the runner did not ask for a job in %s", patience))
	defer cancel()
	if err := j.Started(waiting); err != nil {
		return 0, err
	}
	if err := errors.Join(j.Follow(ctx, log), log.Close()); err != nil {
		return 0, fmt.Errorf("follow the job's log: %w", err)
	}
	outcome, err := j.Wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("wait for the job: %w", err)
	}
	if outcome.State != job.Success {
		return 0, fmt.Errorf("the job ended as %s (%s)", outcome.State, outcome.FailureReason)
	}
	times := j.Times()
	return times.Final.Sub(times.HandedOut), nil
}

// Close stops the server.
func (g *gitlab) Close() error {
	g.coordinator.Close()
	err := g.server.Close()
	if served := <-g.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("stop the coordinator: %w", err)
	}
	return nil
}
