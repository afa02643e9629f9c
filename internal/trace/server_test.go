package trace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// server keeps a job's log as GitLab does: pieces must follow each other, and a final state is accepted only with the
// checksum of what it has.
type server struct {
	t     *testing.T
	began time.Time

	// What goes wrong, asked before each call; nil = nothing.
	onUpdate func(u job.Update) (*job.Ack, error)
	onPatch  func(start int64, chunk []byte) (*job.Ack, error)

	mu       sync.Mutex
	interval time.Duration
	standing job.Standing
	log      []byte
	calls    []string
	debug    bool
	final    *job.Update
	busy     atomic.Bool
}

func newServer(t *testing.T) *server { return &server{t: t, began: time.Now()} }

func (s *server) Update(ctx context.Context, u job.Update) (job.Ack, error) {
	defer s.enter("PUT " + string(u.State))()
	if s.onUpdate != nil {
		if ack, err := s.onUpdate(u); ack != nil || err != nil {
			return deref(ack), err
		}
	}
	if err := ctx.Err(); err != nil {
		return job.Ack{}, err
	}
	ack := job.Ack{Standing: s.standing, Interval: s.interval}
	if u.State == job.Running {
		return ack, nil
	}
	if s.final != nil {
		s.t.Errorf("a second final state: %v after %v", u, *s.final)
	}
	if u.ByteSize != int64(len(s.log)) || u.Checksum != checksum(s.log) {
		ack.Verdict = job.Resend
		s.log = nil
		return ack, nil
	}
	s.final = &u
	return ack, nil
}

func (s *server) PatchTrace(ctx context.Context, start int64, chunk []byte, debug bool) (job.Ack, error) {
	defer s.enter(fmt.Sprintf("PATCH %d+%d", start, len(chunk)))()
	s.debug = debug
	if len(chunk) == 0 || len(chunk) > maxPatch {
		s.t.Errorf("a piece of %d bytes", len(chunk))
	}
	if s.onPatch != nil {
		if ack, err := s.onPatch(start, chunk); ack != nil || err != nil {
			return deref(ack), err
		}
	}
	if err := ctx.Err(); err != nil {
		return job.Ack{}, err
	}
	ack := job.Ack{Standing: s.standing, Interval: s.interval}
	if start != int64(len(s.log)) {
		ack.Verdict = job.OutOfRange
	} else {
		s.log = append(s.log, chunk...)
	}
	ack.Offset = int64(len(s.log))
	return ack, nil
}

// enter notes a call with its time.
func (s *server) enter(what string) (leave func()) {
	if !s.busy.CompareAndSwap(false, true) {
		s.t.Errorf("two calls at once: %s", what)
	}
	s.mu.Lock()
	s.calls = append(s.calls, fmt.Sprintf("%v %s", time.Since(s.began), what))
	return func() {
		s.mu.Unlock()
		s.busy.Store(false)
	}
}

// took returns the calls since the last took, without sizes.
func (s *server) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, c := range s.calls {
		var at, what, rest string
		fmt.Sscan(c, &at, &what, &rest)
		if what == "PUT" {
			what += " " + rest
		}
		out = append(out, at+" "+what)
	}
	s.calls = nil
	return out
}

// set changes the server between two calls.
func (s *server) set(change func(s *server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *server) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(bytes.Clone(s.log))
}

func deref(a *job.Ack) job.Ack {
	if a == nil {
		return job.Ack{}
	}
	return *a
}

func checksum(log []byte) string {
	if len(log) == 0 {
		return ""
	}
	return fmt.Sprintf("crc32:%08x", crc32.ChecksumIEEE(log))
}

var errDown = errors.New("the server is down")

// inTurn answers one call after the other, then lets the server answer.
func inTurn(acks ...any) func() (*job.Ack, error) {
	return func() (*job.Ack, error) {
		if len(acks) == 0 {
			return nil, nil
		}
		a := acks[0]
		acks = slices.Delete(acks, 0, 1)
		switch a := a.(type) {
		case job.Ack:
			return &a, nil
		case error:
			return nil, a
		}
		return nil, nil
	}
}

// sinkServer takes everything.
type sinkServer struct{}

func (sinkServer) Update(context.Context, job.Update) (job.Ack, error) { return job.Ack{}, nil }

func (sinkServer) PatchTrace(context.Context, int64, []byte, bool) (job.Ack, error) {
	return job.Ack{}, nil
}
