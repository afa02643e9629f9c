package progress

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	control "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Follower is a client that reads BuildKit's own messages of a build.
type Follower interface {
	Send(m *control.StatusResponse) error
}

// Followers are the clients that follow a build. They are told what is done for it besides what BuildKit does, such as the pull of a base,
// as steps of it.
type Followers struct {
	mu      sync.Mutex // of the clients, too
	clients []Follower
}

// Add lets a client follow. stop must be called before its call ends.
func (f *Followers) Add(client Follower) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clients = append(f.clients, client)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.clients = slices.DeleteFunc(f.clients, func(c Follower) bool { return c == client })
	}
}

// Send tells one client what BuildKit tells. A client takes one message at a time.
func (f *Followers) Send(client Follower, m *control.StatusResponse) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return client.Send(m)
}

func (f *Followers) tell(m *control.StatusResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clients {
		_ = c.Send(m) // its own call notices that it has gone
	}
}

// Step shows what the Engine tells line by line, of a pull or a push, as a step of the build. done must be called; without
// a line there is no step.
func (f *Followers) Step(name string) (line func(line []byte) error, done func(err error)) {
	var v *control.Vertex
	begin := func() {
		if v == nil {
			v = &control.Vertex{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("slipway "+name))), Name: name, Started: timestamppb.Now()}
			f.tell(&control.StatusResponse{Vertexes: []*control.Vertex{v}})
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
			f.tell(&control.StatusResponse{Statuses: []*control.VertexStatus{s}})
			return nil
		}
		text := m.Status + "\n"
		if m.ID != "" {
			text = m.ID + ": " + text
		}
		f.tell(&control.StatusResponse{Logs: []*control.VertexLog{{Vertex: v.Digest, Stream: 1, Msg: []byte(text), Timestamp: timestamppb.Now()}}})
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
		f.tell(&control.StatusResponse{Vertexes: []*control.Vertex{v}})
	}
	return line, done
}
