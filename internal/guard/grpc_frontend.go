package guard

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	buildkit "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	policy "github.com/moby/buildkit/sourcepolicy/pb"
)

// frontendName is BuildKit's own frontend for Dockerfiles.
const frontendName = "dockerfile.v0"

// solveFrontend builds a Dockerfile: it is read from the client, once, and the Engine's own frontend gets its checked copy.
func (b *grpcBuild) solveFrontend(engine gateway.LLBBridgeClient, ctx context.Context, r *gateway.SolveRequest) (*gateway.SolveResponse, error) {
	c := b.c.onMethod(ctx, gateway.LLBBridge_Solve_FullMethodName)
	request := &gateway.SolveRequest{AllowResultReturn: r.AllowResultReturn, AllowResultArrayRef: r.AllowResultArrayRef, Evaluate: r.Evaluate}
	unchecked, err := c.checkFrontend(r)
	if err != nil {
		return nil, err
	}
	if len(r.CacheImports) > 0 {
		b.noCacheFrom()
	}
	switch {
	case unchecked:
		request.Frontend, request.FrontendOpt, request.Definition, request.FrontendInputs = r.Frontend, r.FrontendOpt, r.Definition, r.FrontendInputs
	case r.Definition != nil:
		// What the Engine told this job of before is built again.
		if err := c.knownDefinition(r.Definition); err != nil {
			return nil, err
		}
		request.Definition = &pb.Definition{Def: r.Definition.Def, Metadata: r.Definition.Metadata}
	default:
		o, err := c.readFrontendOptions(r.FrontendOpt)
		if err != nil {
			return nil, err
		}
		if err := b.readFrontend(c, o, r, request); err != nil {
			return nil, err
		}
	}
	if request, err = known(request); err != nil {
		return nil, err
	}
	resp, err := engine.Solve(ctx, request)
	if err != nil {
		return nil, err
	}
	c.grpcBuilds.learn(resp.Result)
	return resp, nil
}

// checkFrontend refuses other frontends than the one for Dockerfiles. Clients take another one if a build argument
// BUILDKIT_SYNTAX says so: that has no effect, as for a syntax line. unchecked says that audit mode lets another one pass.
func (c *call) checkFrontend(r *gateway.SolveRequest) (unchecked bool, err error) {
	if len(r.SourcePolicies) > 0 {
		if err := c.refuse(clientPolicy()); err != nil {
			return false, err
		}
	}
	switch {
	case r.Frontend == frontendName && r.Definition == nil:
	case r.Frontend == "gateway.v0" && r.Definition == nil:
		syntax := r.FrontendOpt["source"]
		c.once("syntax "+syntax, "slipway: the frontend "+printable(syntax)+" is not used: the Engine's own one builds")
	case r.Frontend == "" && r.Definition != nil && len(r.FrontendInputs) == 0:
	default:
		return true, c.refuse(deny("build-frontend", "build from a Dockerfile, with docker buildx build", "the frontend %s: only BuildKit's own one for Dockerfiles builds for a job", printable(r.Frontend)))
	}
	return false, nil
}

// readFrontend says to the Engine what is built.
func (b *grpcBuild) readFrontend(c *call, o *frontendOptions, r, request *gateway.SolveRequest) error {
	c.query = o.query
	one := &buildRequest{c: c, ctx: b.ctx, credentials: b.credentials, options: map[string][]string{}}
	if err := one.readAll(); err != nil {
		return err
	}
	_, one.noCache = o.own["no-cache"]
	contexts, err := b.readContexts(c, o, r, request)
	if err != nil {
		return err
	}
	one.contexts = contexts
	if !folderForm.MatchString(o.source) {
		return badRequest("slipway: the folder's name %q is not of letters, digits and . _ + -", printable(o.source))
	}
	source, err := b.folder(o, o.source)
	if err != nil {
		return err
	}
	line, done := b.progress.Step("[internal] pull base images")
	served, checked, err := one.readDockerfile(source, o.source, line)
	done(err)
	if err != nil {
		return err
	}
	for ours, written := range checked.file.Written() {
		b.rename(ours, written)
	}
	opts, err := one.frontendOpts(o)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.copies, b.by = append(b.copies, checked), one
	// Each Dockerfile of a build has a folder of its own.
	key := dirDockerfile
	if n := len(b.copies); n > 1 {
		key += fmt.Sprint(n)
	}
	b.mu.Unlock()
	b.files.Serve(key, served)
	opts["dockerfilekey"] = key
	if err := b.offerFolder(o, o.context); err != nil {
		return err
	}
	b.files.Collect(o.context, b.seen)
	// The frontend takes the value of an option of that name for the context's address. That of "context" has been checked.
	if _, isOption := opts[o.context]; isOption && o.context != dirContext {
		return badRequest("slipway: the folder's name %q is that of an option", o.context)
	}
	opts["contextkey"] = o.context
	request.Frontend, request.FrontendOpt = frontendName, opts
	if policies := c.urlPolicy(checked); policies != nil {
		request.SourcePolicies = []*policy.Policy{policies}
	}
	return nil
}

// folder is the client that has a folder.
func (b *grpcBuild) folder(o *frontendOptions, dir string) (buildkit.Caller, error) {
	id := o.folders[dir]
	if id == "" {
		return b.caller, nil
	}
	_, caller, err := b.c.sessions.find(b.ctx, id)
	return caller, err
}

// learn keeps what the Engine told of its results, so that the next build can be given them as inputs.
func (l *grpcBuilds) learn(r *gateway.Result) {
	var refs []*gateway.Ref
	switch res := r.GetResult().(type) {
	case *gateway.Result_Ref:
		refs = append(refs, res.Ref)
	case *gateway.Result_Refs:
		for _, ref := range res.Refs.GetRefs() {
			refs = append(refs, ref)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ref := range refs {
		for _, op := range ref.GetDef().GetDef() {
			if len(l.ops) < maxKnownOps {
				l.ops[sha256.Sum256(op)] = true
			}
		}
	}
}

// maxKnownOps bounds the operations that a guard remembers.
const maxKnownOps = 100_000

// knownDefinition refuses operations that did not come out of a checked Dockerfile. An operation names those that it
// needs by their digests, so what is known is known with all that it stands on.
func (c *call) knownDefinition(d *pb.Definition) error {
	c.grpcBuilds.mu.Lock()
	defer c.grpcBuilds.mu.Unlock()
	for _, data := range d.GetDef() {
		if c.grpcBuilds.ops[sha256.Sum256(data)] {
			continue
		}
		var op pb.Op
		err := op.UnmarshalVT(data)
		unknown := len(op.ProtoReflect().GetUnknown()) > 0 // it may be an operation for an Engine of tomorrow
		if err == nil && !unknown && op.Op == nil && len(op.Inputs) == 1 {
			continue // the last one only says which of them is the result
		}
		if source := op.GetSource().GetIdentifier(); strings.HasPrefix(source, "git://") || strings.HasPrefix(source, "http") {
			return c.refuse(deny("build-remote", "fetch it in the job and build from the folder", "the Engine would fetch %s itself, from a place that the job may not reach", shownURL(source)))
		}
		return c.refuse(ownDefinition())
	}
	return nil
}
