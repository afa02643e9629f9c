package guard

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	buildkit "github.com/moby/buildkit/session"

	"github.com/slipway-ci/slipway/internal/rawconn"
)

// sessions are the connections over which BuildKit asks the job's clients for files, secrets and credentials. The guard
// is the Engine for them: it never joins a client's connection with one of the Engine's. For each build it opens a session
// of its own with the Engine, and asks the client in turn for what it lets pass.
type sessions struct {
	manager *buildkit.Manager
	wait    time.Duration

	mu       sync.Mutex
	open     map[string]*clientSession // by the client's ID
	over     []string                  // IDs whose build is over, the latest ones
	meetings map[string]*meeting       // by the client's build ID
}

// clientSession is what a client says of its session besides the connection.
type clientSession struct {
	sharedKey string
	end       func()
}

// maxSessions bounds what one job may hold open at once. A client has one per build.
const maxSessions = 100

func newSessions(wait time.Duration) (*sessions, error) {
	manager, err := buildkit.NewManager()
	if err != nil {
		return nil, fmt.Errorf("make the manager of sessions: %w", err)
	}
	return &sessions{manager: manager, wait: wait, open: map[string]*clientSession{}, meetings: map[string]*meeting{}}, nil
}

// The headers of a session's request.
const (
	sessionID        = "X-Docker-Expose-Session-Uuid"
	sessionSharedKey = "X-Docker-Expose-Session-Sharedkey"
	sessionMethod    = "X-Docker-Expose-Session-Grpc-Method"
)

// sessionIDForm has no colon: BuildKit takes what comes before one for a prefix.
var sessionIDForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// sessionOpen takes a client's session and keeps it until either side ends it.
func sessionOpen(c *call) error {
	if !wantsUpgrade(c.r, "h2c") {
		return badRequest("slipway: a session needs an upgrade to h2c")
	}
	if c.r.ContentLength != 0 {
		return badRequest("slipway: a session's request has no body")
	}
	return c.holdSession(c.r.Header, func() (net.Conn, error) {
		conn, buffered, err := http.NewResponseController(c.w).Hijack()
		if err != nil {
			return nil, fmt.Errorf("take over the client's connection: %w", err)
		}
		fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
		if err := buffered.Flush(); err != nil {
			conn.Close()
			return nil, fmt.Errorf("%w: %w", errAnswered, err)
		}
		return rawconn.New(conn, buffered.Reader), nil
	})
}

// holdSession takes a session with the headers that the client sent, on the connection that accept gives it.
func (c *call) holdSession(header http.Header, accept func() (net.Conn, error)) error {
	id := header.Get(sessionID)
	if !sessionIDForm.MatchString(id) {
		return badRequest("slipway: the session's ID is not of letters, digits, - and _")
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	over, err := c.sessions.add(id, &clientSession{sharedKey: header.Get(sessionSharedKey), end: cancel})
	if err != nil {
		return err
	}
	defer c.sessions.drop(id)
	conn, err := accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	if over {
		return nil
	}
	watched := rawconn.Watch(conn, cancel) // BuildKit itself would notice its end at its next health check but one
	// Of the client's headers only the methods: others set how BuildKit watches the connection.
	if err := c.sessions.manager.HandleConn(ctx, watched, map[string][]string{sessionID: {id}, sessionMethod: header.Values(sessionMethod)}); err != nil {
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	return nil
}

// add takes a session in. over reports that its build has been answered before the session came.
func (s *sessions) add(id string, client *clientSession) (over bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.open[id]; ok {
		return false, badRequest("session %s already exists", id)
	}
	if len(s.open) >= maxSessions {
		return false, deny("limit-sessions", "end builds before starting others", "the job has %d build sessions open", len(s.open))
	}
	s.open[id] = client
	return slices.Contains(s.over, id), nil
}

// maxOver is how many sessions are remembered whose builds are over.
const maxOver = 64

// finish ends a client's session when its build has been answered. Docker's client of version 20.10 ends it by itself,
// but if a build is refused while it opens the session, it waits for ever for the session to end.
func (s *sessions) finish(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over = append(s.over, id); len(s.over) > maxOver {
		s.over = s.over[1:]
	}
	if client, ok := s.open[id]; ok {
		client.end()
	}
}

func (s *sessions) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, id)
}

// sessionWait is how long a build waits for its session, or for its archive: clients send both at once. The Engine waits
// as long.
const sessionWait = 5 * time.Second

// find is the client's session of a build. Sessions of others do not exist.
func (s *sessions) find(ctx context.Context, id string) (*clientSession, buildkit.Caller, error) {
	if !sessionIDForm.MatchString(id) {
		return nil, nil, badRequest("slipway: the session's ID is not of letters, digits, - and _")
	}
	wait, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	caller, err := s.manager.Get(wait, id, false)
	if err != nil && ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	client, ok := s.open[id]
	if err != nil || !ok {
		return nil, nil, badRequest("no active session for %s", id)
	}
	return client, caller, nil
}

// engineKey is the shared key that a client's session has with the Engine. Under equal keys the Engine takes a file that
// has the name, size and time of one that it knows for that one, so no key may be had in two scopes. The empty key is one
// like any other.
func (p Policy) engineKey(sharedKey string) string {
	mac := hmac.New(sha256.New, []byte("slipway build session of "+p.Scope))
	mac.Write([]byte(sharedKey))
	return hex.EncodeToString(mac.Sum(nil))
}

// engineSession opens a session of the guard's own with the Engine, which can then ask for nothing but the services. end
// must be called.
func (g *Guard) engineSession(ctx context.Context, sharedKey string, services ...buildkit.Attachable) (id string, end func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := buildkit.NewSession(ctx, g.policy.engineKey(sharedKey))
	if err != nil {
		cancel()
		return "", nil, fmt.Errorf("make a session: %w", err)
	}
	for _, a := range services {
		s.Allow(a)
	}
	opened := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := s.Run(ctx, func(ctx context.Context, protocol string, headers map[string][]string) (net.Conn, error) {
			conn, err := g.dialUpgraded(ctx, "/session", protocol, headers)
			opened <- err
			return conn, err
		})
		if err != nil {
			g.log.Debug("session with the Engine", "error", err)
		}
	}()
	end = func() {
		_ = s.Close()
		cancel()
		<-done
	}
	if err := <-opened; err != nil {
		end()
		return "", nil, err
	}
	return s.ID(), end, nil
}

// dialUpgraded opens a connection of another protocol with the Engine.
func (g *Guard) dialUpgraded(ctx context.Context, path, protocol string, headers http.Header) (net.Conn, error) {
	up, resp, err := g.engine.upgrade(ctx, path, nil, headers, protocol, nil)
	if err != nil {
		return nil, err
	}
	if up == nil {
		defer resp.Body.Close()
		return nil, fmt.Errorf("open %s with the Engine: %w", path, readError(resp))
	}
	return up, nil
}
