package guard

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// statusStream is a client that follows a build.
type statusStream = grpc.ServerStreamingServer[control.StatusResponse]

// buildProgress tells the clients that follow a build what the guard itself does for it: the pull of a base.
type buildProgress struct {
	mu      sync.Mutex
	clients []*follower
}

// follower is a client that follows a build, and what it is still to be told. A stream takes one message at a time, and a client
// may stall: who holds what others need must not wait for it.
type follower struct {
	engine chan *control.StatusResponse // what the Engine tells, which may be large
	own    chan *control.StatusResponse // what the guard tells
	gone   chan struct{}                // closed when the client gets no more
	err    error                        // why, then
}

// maxUntold is how many messages of the guard's own wait for a client.
const maxUntold = 256

// listen adds a client. stop must be called before its call ends.
func (p *buildProgress) listen(client statusStream, log *slog.Logger) (f *follower, stop func()) {
	f = &follower{engine: make(chan *control.StatusResponse), own: make(chan *control.StatusResponse, maxUntold), gone: make(chan struct{})}
	go func() {
		defer close(f.gone)
		defer mishap.Catch(log, "the progress of a build", &f.err)
		for f.err == nil {
			select {
			case m := <-f.engine:
				f.err = client.Send(m)
			case m, more := <-f.own:
				if !more {
					return
				}
				f.err = client.Send(m)
			}
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients = append(p.clients, f)
	return f, func() {
		p.mu.Lock()
		p.clients = slices.DeleteFunc(p.clients, func(c *follower) bool { return c == f })
		close(f.own) // nobody has it any more
		p.mu.Unlock()
		<-f.gone
	}
}

// send tells one client what the Engine tells.
func (f *follower) send(m *control.StatusResponse) error {
	select {
	case f.engine <- m:
		return nil
	case <-f.gone:
		return f.err
	}
}

// tell tells all clients, but for those that stall.
func (p *buildProgress) tell(m *control.StatusResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		select {
		case c.own <- m:
		default:
		}
	}
}

// step shows what the Engine tells line by line, of a pull or a push, as a step of the build. done must be called; without
// a line there is no step.
func (p *buildProgress) step(name string) (line func(line []byte) error, done func(err error)) {
	var v *control.Vertex
	begin := func() {
		if v == nil {
			v = &control.Vertex{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("slipway "+name))), Name: name, Started: timestamppb.Now()}
			p.tell(&control.StatusResponse{Vertexes: []*control.Vertex{v}})
		}
	}
	line = func(line []byte) error {
		var m struct {
			ID, Status     string
			ProgressDetail struct{ Current, Total int64 }
		}
		if json.Unmarshal(line, &m) != nil || m.Status == "" {
			return nil
		}
		begin()
		if m.ProgressDetail.Total > 0 {
			s := &control.VertexStatus{
				ID: m.ID, Name: m.Status, Vertex: v.Digest, Current: m.ProgressDetail.Current, Total: m.ProgressDetail.Total,
				Timestamp: timestamppb.Now(), Started: v.Started,
			}
			p.tell(&control.StatusResponse{Statuses: []*control.VertexStatus{s}})
			return nil
		}
		text := m.Status + "\n"
		if m.ID != "" {
			text = m.ID + ": " + text
		}
		p.tell(&control.StatusResponse{Logs: []*control.VertexLog{{Vertex: v.Digest, Stream: 1, Msg: []byte(text), Timestamp: timestamppb.New(time.Now())}}})
		return nil
	}
	done = func(err error) {
		if v == nil {
			return
		}
		ended := &control.Vertex{Digest: v.Digest, Name: v.Name, Started: v.Started, Completed: timestamppb.Now()} // the other may be on its way still
		if err != nil {
			ended.Error = err.Error()
		}
		p.tell(&control.StatusResponse{Vertexes: []*control.Vertex{ended}})
	}
	return line, done
}
