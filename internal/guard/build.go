package guard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/dockerfile"
)

// build is POST /build in all its forms. Builders are not alike on the Engines, so there is one for all: a request for
// the classic builder becomes one for BuildKit, and the answer is told in the classic builder's words.
func build(c *call) error {
	if id := c.query.Get("session"); sessionIDForm.MatchString(id) {
		defer c.sessions.finish(id)
	}
	switch {
	case strings.HasPrefix(c.query.Get("buildid"), uploadPrefix):
		return sessionUpload(c)
	case c.query.Get("remote") == "client-session":
		return sessionBuild(c)
	case c.query.Get("remote") == "upload-request":
		return uploadBuild(c)
	}
	return archiveBuild(c, c.archive())
}

// archiveBuild is a build whose context is an archive.
func archiveBuild(c *call, from *archive) error {
	b, err := c.newBuild()
	if err != nil {
		return err
	}
	defer b.end()
	if err := c.wantType("application/x-tar", "application/tar", "application/octet-stream"); err != nil {
		return err
	}
	out := newBuildAnswer(c, b)
	if b.options.Get("remote") != "" {
		return b.remoteBuild(out)
	}
	// The Engine may begin to answer while the context is still being read. net/http would stop that and take some of it away.
	_ = http.NewResponseController(c.w).EnableFullDuplex() // none is as good, for small contexts
	// Nor would it see that the rest of a context did not come in time, and would take that for the next call when it comes.
	c.w.Header().Set("Connection", "close")
	body := newBuildContext(c, b, from, out)
	defer body.drain()
	if err := body.start(); err != nil {
		return out.fail(err)
	}
	endSession, err := b.openSession()
	if err != nil {
		return err
	}
	defer endSession()
	query, err := b.engineQuery()
	if err != nil {
		return out.fail(err)
	}
	// What is wrong with the context says more than what the Engine makes of it.
	out.cause = func(err error) error {
		select {
		case <-body.done: // before the Engine could know
			if body.err != nil && !errors.Is(body.err, context.Canceled) {
				return body.err
			}
		default:
		}
		return err
	}
	resp, err := c.engine.doAlone(b.ctx, http.MethodPost, "/build", query, body)
	if err != nil {
		return out.fail(out.cause(err))
	}
	return out.relay(resp)
}

// remoteBuild lets the Engine fetch a build's context: audit mode lets it pass.
func (b *buildRequest) remoteBuild(out *buildAnswer) error {
	query, err := b.engineQuery()
	if err != nil {
		return out.fail(err)
	}
	resp, err := b.c.engine.do(b.ctx, http.MethodPost, "/build", query, nil, nil)
	if err != nil {
		return out.fail(err)
	}
	return out.relay(resp)
}

// builds are the builds of the job that are at work.
type builds struct {
	g *Guard

	mu       sync.Mutex
	n        int
	byClient map[string]*buildRequest // by the ID that the client gave
}

func newBuilds(g *Guard) *builds { return &builds{g: g, byClient: map[string]*buildRequest{}} }

// begin counts a build in and gives it an ID of its own at the Engine, where the builds of all jobs are in one list.
func (b *builds) begin(r *buildRequest) error {
	var random [12]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("choose a build's ID: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if limit := b.g.policy.Limits.Builds; b.n >= limit {
		if err := r.c.refuse(deny("limit-builds", "end builds before starting others", "the job has %d builds at work", b.n)); err != nil {
			return err
		}
	}
	b.n++
	r.id = b.g.policy.Token + "-" + hex.EncodeToString(random[:])
	if r.clientID != "" {
		b.byClient[r.clientID] = r
	}
	return nil
}

func (b *builds) end(r *buildRequest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n--
	if b.byClient[r.clientID] == r {
		delete(b.byClient, r.clientID)
	}
}

func (b *builds) find(clientID string) (*buildRequest, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.byClient[clientID]
	return r, ok
}

// buildCancel ends a build of the job.
func buildCancel(c *call) error {
	id := c.query.Get("id")
	if id == "" {
		return badRequest("build ID not provided")
	}
	if b, ok := c.builds.find(id); ok {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), 10*time.Second)
		defer cancel()
		if err := c.engine.callJSON(ctx, http.MethodPost, "/build/cancel", url.Values{"id": {b.id}}, nil, nil); err != nil {
			return err
		}
		b.cancel()
	}
	// As the Engine does with builds that it does not know.
	c.empty(http.StatusOK)
	return nil
}

// buildPrune leaves the cache as it is: all jobs of a machine have it in common.
func buildPrune(c *call) error {
	c.json(http.StatusOK, map[string]any{"CachesDeleted": []string{}, "SpaceReclaimed": 0})
	return nil
}

// heredocs reports whether the Engine's own Dockerfile parser knows here-documents: Docker Engine 23.0 and later.
func (g *Guard) heredocs() bool { return g.engine.version.atLeast("1.42") }

// checkedFile is a Dockerfile that the Engine may build.
type checkedFile struct {
	file    *dockerfile.File
	copy    []byte
	name    string
	ids     map[string]string // written base → the image's ID
	remotes []dockerfile.Remote
}

// checkDockerfile reads a build's Dockerfile, asks the rules, and gives each image that it names a name for exactly the
// image that the job may use. progress is told what is pulled; it may be nil.
func (c *call) checkDockerfile(ctx context.Context, src []byte, b *buildRequest, progress func(line []byte) error) (*checkedFile, error) {
	platform := c.engine.platform
	f, err := dockerfile.Read(src, dockerfile.Options{
		BuildArgs: b.args, Target: b.target, BuildPlatform: platform, TargetPlatform: b.platform, Heredocs: c.heredocs(), Contexts: b.contexts,
	})
	if err != nil {
		return nil, dockerfileError(err)
	}
	if syntax := f.Syntax(); syntax != "" {
		c.once("syntax "+syntax, "slipway: the frontend "+printable(syntax)+" of a syntax line is not used: the Engine's own one builds")
	}
	checked := &checkedFile{file: f, name: b.dockerfile, ids: map[string]string{}}
	if err := c.refuseProblems(f, 0); err != nil {
		return nil, err
	}
	for {
		bases, err := f.Bases()
		if err != nil {
			return nil, dockerfileError(err)
		}
		if len(bases) == 0 {
			break
		}
		for _, base := range bases {
			img, id, err := c.resolveBase(ctx, base, b, progress)
			if err != nil {
				return nil, err
			}
			checked.ids[base.Name] = id
			before := len(f.Problems())
			if err := f.Resolve(base, img); err != nil {
				return nil, dockerfileError(err)
			}
			if err := c.refuseProblems(f, before); err != nil {
				return nil, err
			}
		}
	}
	if checked.remotes, err = f.Remotes(); err != nil {
		return nil, dockerfileError(err)
	}
	for _, r := range checked.remotes {
		if err := c.checkRemote(ctx, r); err != nil {
			return nil, err
		}
	}
	if checked.copy, err = f.Rewrite(); err != nil {
		return nil, dockerfileError(err)
	}
	return checked, nil
}

func (c *call) refuseProblems(f *dockerfile.File, from int) error {
	for _, p := range f.Problems()[from:] {
		if err := c.refuse(deny(p.Rule, p.Cure, "line %d of the Dockerfile: %s", p.Line, printable(p.What))); err != nil {
			return err
		}
	}
	return nil
}

// dockerfileError tells a mistake in a Dockerfile as the Engine does.
func dockerfileError(err error) error {
	e, ok := err.(*dockerfile.Error)
	if !ok {
		return err
	}
	what := e.What
	if e.Cure != "" {
		what += "; " + e.Cure
	}
	return badRequest("dockerfile parse error on line %d: %s", e.Line, what)
}
