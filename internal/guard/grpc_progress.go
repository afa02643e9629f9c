package guard

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// statusStream is a client that follows a build.
type statusStream = grpc.ServerStreamingServer[control.StatusResponse]

// buildProgress tells the clients that follow a build what the guard itself does for it: the pull of a base.
type buildProgress struct {
	mu      sync.Mutex // of the streams, too
	clients []statusStream
}

// listen adds a client. stop must be called before its call ends.
func (p *buildProgress) listen(client statusStream) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients = append(p.clients, client)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.clients = slices.DeleteFunc(p.clients, func(c statusStream) bool { return c == client })
	}
}

// send tells one client what the Engine tells. A stream takes one message at a time.
func (p *buildProgress) send(client statusStream, m *control.StatusResponse) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return client.Send(m)
}

func (p *buildProgress) tell(m *control.StatusResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		_ = c.Send(m) // its own call notices that it has gone
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
		v.Completed = timestamppb.Now()
		if err != nil {
			v.Error = err.Error()
		}
		p.tell(&control.StatusResponse{Vertexes: []*control.Vertex{v}})
	}
	return line, done
}
