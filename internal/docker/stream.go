package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

// Stream is an attached container: its stdin, and its output until the container ends.
type Stream struct{ conn client.HijackedResponse }

// Attach connects to the container's stdin, stdout and stderr. Attach before Start, or the first output is lost.
func (e *Engine) Attach(ctx context.Context, id string) (*Stream, error) {
	a, err := e.api.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		// The client does not tell what a refused upgrade was about.
		if _, gone := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{}); IsNotFound(gone) {
			err = gone
		}
		return nil, fmt.Errorf("attach to container: %w", err)
	}
	return &Stream{a.HijackedResponse}, nil
}

// Write sends to the container's stdin.
func (s *Stream) Write(p []byte) (int, error) { return s.conn.Conn.Write(p) }

// Copy writes the container's output to stdout and stderr until it ends or the stream is closed.
func (s *Stream) Copy(stdout, stderr io.Writer) error {
	_, err := stdcopy.StdCopy(stdout, stderr, s.conn.Reader)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close ends the connection; the container goes on.
func (s *Stream) Close() error { return s.conn.Conn.Close() }

// Logs writes what a container printed to stdout and stderr, each byte as it was. With follow it goes on until the
// container or ctx ends.
func (e *Engine) Logs(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
	r, err := e.api.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: follow})
	if err != nil {
		return fmt.Errorf("read container's log: %w", err)
	}
	defer r.Close()
	if _, err := stdcopy.StdCopy(stdout, stderr, r); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read container's log: %w", err)
	}
	return nil
}

// LogText is the beginning of what a container printed, up to 64 KiB.
func (e *Engine) LogText(ctx context.Context, id string) (string, error) {
	out := &boundedBuilder{left: outputLimit}
	err := e.Logs(ctx, id, false, out, out)
	return out.String(), err
}

const outputLimit = 64 << 10

// readStreams collects both output streams; the end of ctx closes the connection.
func readStreams(ctx context.Context, conn client.HijackedResponse) (string, error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	out := &boundedBuilder{left: outputLimit}
	_, err := stdcopy.StdCopy(out, out, conn.Reader)
	if ctx.Err() != nil {
		return out.String(), context.Cause(ctx)
	}
	return out.String(), err
}

// boundedBuilder keeps the first bytes and takes the rest for nothing.
type boundedBuilder struct {
	strings.Builder
	left int
}

func (b *boundedBuilder) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	b.Builder.Write(p[:n])
	return len(p), nil
}

func isNotRunning(err error) bool {
	return errdefs.IsConflict(err) && strings.Contains(err.Error(), "is not running")
}

func isInRemoval(err error) bool {
	return errdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress")
}
