package guard

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	buildkit "github.com/moby/buildkit/session"
	"google.golang.org/grpc/codes"
	grpcmeta "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/progress"
	"github.com/slipway-ci/slipway/internal/session"
)

// grpcBuild is a build by gRPC: one Control/Solve, which waits while the client says over LLBBridge what is built, and
// then makes the result.
type grpcBuild struct {
	*buildRequest
	ref     string // the client's; the Engine knows the build by buildRequest.id
	caller  buildkit.Caller
	session string // with the Engine
	files   *session.Files
	exports []*grpcExport

	progress  progress.Followers
	following atomic.Bool   // somebody has asked for the progress
	followed  chan struct{} // closed when the Engine has told it to the end, or has nobody to tell it
	follow    sync.Once     // closes followed

	asked  chan struct{} // closed when the Engine is about to be asked
	mu     sync.Mutex
	copies []*checkedFile
	by     *buildRequest         // the options of the last copy
	seen   *layercache.Collector // of its context
	// failure is what the client was told last of a Dockerfile that does not build; gaveUp, that it ended the build for it.
	failure error
	gaveUp  bool
}

// grpcBuilds are the job's builds by gRPC, by the client's reference.
type grpcBuilds struct {
	wait time.Duration // for a build that is asked about before it comes

	mu     sync.Mutex
	byRef  map[string]*grpcBuild
	over   []endedBuild  // those that ended last
	change chan struct{} // closed when a build comes
	// ops are the operations of results that the Engine told of: what another build of the job may have as its input.
	ops   map[[32]byte]bool
	names map[string]string // ours → the client's
}

func newGRPCBuilds(wait time.Duration) *grpcBuilds {
	return &grpcBuilds{wait: wait, byRef: map[string]*grpcBuild{}, change: make(chan struct{}), ops: map[[32]byte]bool{}, names: map[string]string{}}
}

func (l *grpcBuilds) add(b *grpcBuild) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byRef[b.ref] != nil {
		return badRequest("slipway: there is a build %s already", printable(b.ref))
	}
	l.byRef[b.ref] = b
	close(l.change)
	l.change = make(chan struct{})
	return nil
}

// endedBuild is a build that nobody needs to wait for.
type endedBuild struct {
	ref string
	err error
}

// drop forgets a build that has ended, or was refused: what the client asks of it meanwhile is answered at once.
func (l *grpcBuilds) drop(c *call, ref string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.byRef[ref]; b != nil && b.c != c {
		return // it is another one of the same reference that was refused
	}
	delete(l.byRef, ref)
	if l.over = append(l.over, endedBuild{ref, err}); len(l.over) > maxOver {
		l.over = l.over[1:]
	}
	close(l.change)
	l.change = make(chan struct{})
}

// ended reports whether a build has ended.
func (l *grpcBuilds) ended(ref string) error {
	for _, e := range l.over {
		if e.ref == ref {
			return cmp.Or(e.err, noBuild(ref))
		}
	}
	return nil
}

func noBuild(ref string) error {
	return &apiError{http.StatusNotFound, "no such job " + printable(ref)}
}

// find is the build of a reference. A client asks for its state, and says what is built, on the way of its Solve.
func (l *grpcBuilds) find(ctx context.Context, ref string) (*grpcBuild, error) {
	ctx, cancel := context.WithTimeout(ctx, l.wait)
	defer cancel()
	for {
		l.mu.Lock()
		b, change, ended := l.byRef[ref], l.change, l.ended(ref)
		l.mu.Unlock()
		if b != nil || ended != nil {
			return b, ended
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, noBuild(ref)
		}
	}
}

// buildIDHeader names the build of a call of LLBBridge.
const buildIDHeader = "buildkit-controlapi-buildid"

// bridged is the build that a call of LLBBridge belongs to, and the context in which the Engine is asked.
func (c *call) bridged() (*grpcBuild, context.Context, error) {
	header, _ := grpcmeta.FromIncomingContext(c.ctx)
	ids := header.Get(buildIDHeader)
	if len(ids) != 1 {
		return nil, nil, badRequest("slipway: the call does not say which build it belongs to")
	}
	b, err := c.grpcBuilds.find(c.ctx, ids[0])
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-b.asked:
	case <-b.ctx.Done():
		return nil, nil, noBuild(ids[0]) // it was refused, and its Solve says why
	case <-c.ctx.Done():
		return nil, nil, c.ctx.Err()
	}
	return b, b.engineContext(c.ctx), nil
}

// engineContext is a context for a call to the Engine that belongs to the build, with none of the client's headers.
func (b *grpcBuild) engineContext(ctx context.Context) context.Context {
	return grpcmeta.NewOutgoingContext(ctx, grpcmeta.Pairs(buildIDHeader, b.id))
}

// newGRPCBuild counts a build in and makes what it needs before the Engine is asked. end must be called, and drop.
func (c *call) newGRPCBuild(r *control.SolveRequest) (*grpcBuild, error) {
	if !sessionIDForm.MatchString(r.Ref) {
		return nil, badRequest("slipway: the build's reference is not of letters, digits, - and _")
	}
	b := &grpcBuild{buildRequest: &buildRequest{c: c, options: map[string][]string{}}, ref: r.Ref, asked: make(chan struct{}), followed: make(chan struct{}), seen: c.collector()}
	client, caller, err := c.sessions.find(c.ctx, r.Session)
	if err != nil {
		return nil, err
	}
	b.caller = caller
	if err := c.builds.begin(b.buildRequest); err != nil {
		return nil, err
	}
	b.ctx, b.cancel = context.WithCancel(c.ctx)
	b.credentials = session.Credentials(b.ctx, caller)
	b.files = &session.Files{Log: c.log}
	services := append(c.sessionServices(caller), b.files)
	var endSession func()
	if b.session, endSession, err = c.engineSession(caller.Context(b.ctx), client.sharedKey, services...); err != nil {
		b.buildRequest.end()
		return nil, err
	}
	cancel := b.cancel
	b.cancel = func() {
		cancel()
		endSession()
	}
	if err := c.grpcBuilds.add(b); err != nil {
		b.buildRequest.end()
		return nil, err
	}
	return b, nil
}

// rename adds names of ours, each with the client's, that the client must not read. They hold for all builds of the job:
// one may have the result of another as its input.
func (b *grpcBuild) rename(pairs ...string) {
	l := b.c.grpcBuilds
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := 0; i < len(pairs); i += 2 {
		l.names[pairs[i]] = pairs[i+1]
	}
}

// written is the Engine's text with the names that the client knows.
func (b *grpcBuild) written(text string) string {
	l := b.c.grpcBuilds
	l.mu.Lock()
	defer l.mu.Unlock()
	for ours, theirs := range l.names {
		text = strings.ReplaceAll(text, "docker.io/"+ours, theirs)
		text = strings.ReplaceAll(text, ours, theirs)
	}
	return engineFolder.ReplaceAllString(hideAliases(text), "")
}

// told is an error for a client of gRPC. What a rule refused is told to the operator and the job's author, too.
func (c *call) told(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err // the Engine's, or one of ours that was told before
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	var d *Denial
	if errors.As(err, &d) {
		c.denied(d)
		c.report(d.Error())
		return status.Error(codes.PermissionDenied, d.Error())
	}
	code, message := statusOf(err)
	c.log.Debug("answered", "call", c.row, "status", code, "message", message)
	switch code {
	case http.StatusBadRequest:
		return status.Error(codes.InvalidArgument, message)
	case http.StatusNotFound:
		return status.Error(codes.NotFound, message)
	}
	return status.Error(codes.Unknown, message)
}
