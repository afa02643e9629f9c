package progress

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	control "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// Follower is a client that reads BuildKit's own messages of a build.
type Follower interface {
	Send(m *control.StatusResponse) error
}

// Followers are the clients that follow a build. They are told what is done for it besides what BuildKit does, such as the pull of a base,
// as steps of it.
type Followers struct {
	mu      sync.Mutex
	clients []*mailbox
}

// mailbox is what a client is still to be told. A client takes one message at a time, and may stall: who holds what others need must not
// wait for it.
type mailbox struct {
	buildkit chan *control.StatusResponse // what BuildKit tells, which may be large
	more     chan struct{}                // there is something in besides; closed when there will be no more
	gone     chan struct{}                // closed when the client gets no more
	err      error                        // why, then

	mu      sync.Mutex
	besides []*control.StatusResponse // what is done besides
}

// maxUntold is how many messages of what is done besides wait for a client, but for those that a step begins or has ended.
const maxUntold = 256

// Add lets a client follow. send tells it alone what BuildKit tells, and waits for it. stop must be called before the client's call ends.
// log is told of panics.
func (f *Followers) Add(client Follower, log *slog.Logger) (send func(m *control.StatusResponse) error, stop func()) {
	box := &mailbox{buildkit: make(chan *control.StatusResponse), more: make(chan struct{}, 1), gone: make(chan struct{})}
	go func() {
		defer close(box.gone)
		defer mishap.Catch(log, "the progress of a build", &box.err)
		box.deliver(client)
	}()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clients = append(f.clients, box)
	return box.send, func() {
		f.mu.Lock()
		f.clients = slices.DeleteFunc(f.clients, func(b *mailbox) bool { return b == box })
		close(box.more) // nobody has it any more
		f.mu.Unlock()
		<-box.gone
	}
}

// deliver hands messages to the client until it has gone or there will be no more.
func (b *mailbox) deliver(client Follower) {
	for more := true; more; {
		var next []*control.StatusResponse
		select {
		case m := <-b.buildkit:
			next = append(next, m)
		case _, more = <-b.more:
			b.mu.Lock()
			next, b.besides = b.besides, nil
			b.mu.Unlock()
		}
		for _, m := range next {
			if b.err = client.Send(m); b.err != nil {
				return
			}
		}
	}
}

// put is for what is done besides.
func (b *mailbox) put(m *control.StatusResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.besides) >= maxUntold && len(m.Vertexes) == 0 {
		return
	}
	b.besides = append(b.besides, m)
	select {
	case b.more <- struct{}{}:
	default:
	}
}

func (b *mailbox) send(m *control.StatusResponse) error {
	select {
	case b.buildkit <- m:
		return nil
	case <-b.gone:
		return b.err
	}
}

// tell tells all clients. Those that stall may miss something of what goes on in a step.
func (f *Followers) tell(m *control.StatusResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.clients {
		b.put(m)
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
		ended := &control.Vertex{Digest: v.Digest, Name: v.Name, Started: v.Started, Completed: timestamppb.Now()} // the other may be on its way still
		if err != nil {
			ended.Error = err.Error()
		}
		f.tell(&control.StatusResponse{Vertexes: []*control.Vertex{ended}})
	}
	return line, done
}
