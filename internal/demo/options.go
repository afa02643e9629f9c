package demo

import (
	"context"
	"io"
	"log/slog"
	"time"
)

// Options of a demo. Out, Notes, Engine and StartRunner are needed.
type Options struct {
	// Out takes the job logs and the table, Notes what the demo does meanwhile.
	Out, Notes io.Writer
	// Colour keeps the colours of the job logs, for an Out that is a terminal.
	Colour bool
	// Sleep is how long the sample's long step takes.
	Sleep time.Duration
	// Keep leaves images and files behind.
	Keep bool
	// Offline takes the stand-in images without looking for an outside registry.
	Offline bool
	// Engine is the Docker Engine that the runner uses.
	Engine Engine
	// StartRunner lets a runner serve the config until stop is called; stop waits for it and takes away what it made
	// on the Engine. The runner keeps its state in stateDir. When ctx ends, it aborts its jobs.
	StartRunner func(ctx context.Context, configPath, stateDir string) (stop func() error, err error)
	// Log gets the coordinator's requests, at debug level. May be nil.
	Log *slog.Logger
}

// Engine is what the demo asks of the Docker Engine itself; jobs reach it by their own way.
type Engine interface {
	// Host is its address: unix:///var/run/docker.sock, tcp://host:2376.
	Host() string
	// Images lists every name of every image, as `docker image ls` does: "alpine:latest", "host:5000/app@sha256:…".
	Images(ctx context.Context) ([]string, error)
	// RemoveImage takes a name off an image, and removes the image with what only it needs when it was the last one.
	// A name that is not there is no error.
	RemoveImage(ctx context.Context, name string) error
	// RemoveLabeled removes all containers, running or not, and then all images without a name that have the label.
	RemoveLabeled(ctx context.Context, key, value string) error
	// Build does what `docker build -t tag dir` does, with the classic builder, and writes what that prints.
	Build(ctx context.Context, dir, tag string, out io.Writer) error
}

// Error is a failure with advice.
type Error struct {
	Err  error
	Hint string // what to do, one piece of advice a line
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the underlying error.
func (e *Error) Unwrap() error { return e.Err }
