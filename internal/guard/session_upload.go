package guard

import (
	"context"
	"io"
	"net/http"
	"strings"
)

// uploadPrefix begins the build ID of a request that carries nothing but the archive of a build: docker's client sends
// it beside the build itself if the archive comes from its standard input.
const uploadPrefix = "upload-request:"

// meeting is where the two requests of a build meet.
type meeting struct {
	archives chan *archive
	guests   int
}

// archive is a build's context on its way from a client: from the one who asks for the build, or from one beside it.
type archive struct {
	body io.Reader
	conn *http.ResponseController // of the connection on which it comes
	read chan struct{}            // closed when the build has read what it needs
}

// archive is the body of the call.
func (c *call) archive() *archive {
	return &archive{body: c.r.Body, conn: http.NewResponseController(c.w), read: make(chan struct{})}
}

func (s *sessions) meet(id string) (*meeting, error) {
	if !sessionIDForm.MatchString(id) {
		return nil, badRequest("slipway: the build's ID is not of letters, digits, - and _")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.meetings[id]
	if m == nil {
		if len(s.meetings) >= maxSessions {
			return nil, deny("limit-sessions", "end builds before starting others", "the job has %d build archives waiting", len(s.meetings))
		}
		m = &meeting{archives: make(chan *archive)}
		s.meetings[id] = m
	}
	m.guests++
	return m, nil
}

func (s *sessions) part(id string, m *meeting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.guests--; m.guests == 0 {
		delete(s.meetings, id)
	}
}

// sessionUpload keeps an archive ready until its build has read it.
func sessionUpload(c *call) error {
	if err := c.wantType("application/x-tar", "application/tar", "application/octet-stream"); err != nil {
		return err
	}
	id := strings.TrimPrefix(c.query.Get("buildid"), uploadPrefix)
	m, err := c.sessions.meet(id)
	if err != nil {
		return err
	}
	defer c.sessions.part(id, m)
	wait, cancel := context.WithTimeout(c.ctx, c.sessions.wait)
	defer cancel()
	a := c.archive()
	select {
	case m.archives <- a:
	case <-wait.Done():
		return badRequest("slipway: no build came for the archive")
	}
	select {
	case <-a.read:
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
	c.empty(http.StatusOK)
	return nil
}

// uploaded is the archive that comes for a build beside it. Its read must be closed when nothing reads it any more.
func (s *sessions) uploaded(ctx context.Context, id string) (*archive, error) {
	m, err := s.meet(id)
	if err != nil {
		return nil, err
	}
	defer s.part(id, m)
	wait, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	select {
	case a := <-m.archives:
		return a, nil
	case <-wait.Done():
		return nil, badRequest("slipway: no archive came for the build")
	}
}
