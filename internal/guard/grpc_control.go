package guard

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	control "github.com/moby/buildkit/api/services/control"
	types "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/session/grpchijack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/slipway-ci/slipway/internal/session"
)

// Solve makes a build's result. What is built is said over LLBBridge meanwhile.
func (s *grpcServer) Solve(ctx context.Context, r *control.SolveRequest) (*control.SolveResponse, error) {
	c := s.c.onMethod(ctx, control.Control_Solve_FullMethodName)
	c.Guard.calls.Add(1)
	defer c.Guard.calls.Done()
	resp, err := c.solve(r)
	err = c.told(err)
	c.grpcBuilds.drop(c, r.Ref, err)
	return resp, err
}

func (c *call) solve(r *control.SolveRequest) (*control.SolveResponse, error) {
	if err := c.checkSolve(r); err != nil {
		return nil, err
	}
	b, err := c.newGRPCBuild(r)
	if err != nil {
		return nil, err
	}
	defer b.end()
	request := &control.SolveRequest{
		Ref: b.id, Session: b.session, Internal: r.Internal, CompatibilityVersion: r.CompatibilityVersion,
		Cache: &control.CacheOptions{}, SourcePolicy: c.sourcePolicy(), FrontendAttrs: map[string]string{},
	}
	if c.policy.Audit { // what would have been refused goes on as it came
		request.Frontend, request.FrontendAttrs, request.Definition, request.FrontendInputs = r.Frontend, r.FrontendAttrs, r.Definition, r.FrontendInputs
		request.Entitlements, request.SourcePolicy = r.Entitlements, r.SourcePolicy
		b.files.OfferRest(b.caller)
	}
	if err := b.readExports(r, request); err != nil {
		return nil, err
	}
	if err := b.readCache(r.Cache, request.Cache); err != nil {
		return nil, err
	}
	conn, err := c.buildkit()
	if err != nil {
		return nil, err
	}
	if request, err = known(request); err != nil {
		return nil, err
	}
	close(b.asked)
	resp, err := control.NewControlClient(conn).Solve(b.ctx, request)
	if err != nil {
		_ = b.finishExports(nil) // there is nothing to be told of
		b.explain("", false)
		return nil, b.endOf(b.engineError(err))
	}
	if err := b.finishExports(resp.ExporterResponse); err != nil {
		return nil, err
	}
	b.explain(resp.ExporterResponse[responseDigest], true)
	return &control.SolveResponse{ExporterResponse: b.shownResponse(resp.ExporterResponse)}, nil
}

// checkSolve refuses what no build of a job may ask for.
func (c *call) checkSolve(r *control.SolveRequest) error {
	for _, forbidden := range []struct {
		asked bool
		d     *Denial
	}{
		{r.Frontend != "" || r.Definition != nil || len(r.FrontendInputs) > 0, ownDefinition()},
		{r.EnableSessionExporter, deny("build-outputs", "name the image with -t, or write the files with --output DIR", "the client would choose where the result goes while it is made")},
		{r.ProxyNetwork, deny("build-network", "leave it out", "the network of a build's steps would go through a proxy of the client's")},
		{r.SourcePolicy != nil || r.SourcePolicySession != "", clientPolicy()},
	} {
		if forbidden.asked {
			if err := c.refuse(forbidden.d); err != nil {
				return err
			}
		}
	}
	for _, e := range r.Entitlements {
		rule, cure := "build-security", "leave --allow out"
		if e == "network.host" {
			rule, cure = "build-network-host", "leave --network out"
		}
		if err := c.refuse(deny(rule, cure, "--allow %s: a build's steps would get more than those of other jobs", printable(e))); err != nil {
			return err
		}
	}
	return nil
}

func ownDefinition() *Denial {
	return deny("build-definition", "build from a Dockerfile, with docker buildx build", "a build of operations of its own, which nobody has checked")
}

func clientPolicy() *Denial {
	return deny("build-policy", "leave the source policy out", "a source policy of the client's would take the place of the guard's")
}

// Status tells how a build goes on, until its end.
func (s *grpcServer) Status(r *control.StatusRequest, client grpc.ServerStreamingServer[control.StatusResponse]) error {
	c := s.c.onMethod(client.Context(), control.Control_Status_FullMethodName)
	return c.told(c.status(r.Ref, client))
}

func (c *call) status(ref string, client grpc.ServerStreamingServer[control.StatusResponse]) error {
	b, err := c.grpcBuilds.find(c.ctx, ref)
	if err != nil {
		c.log.Debug("answered", "call", c.row, "error", err)
		return nil // its Solve says why
	}
	select {
	case <-b.asked:
	case <-b.ctx.Done():
		return nil // it was refused
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
	conn, err := c.buildkit()
	if err != nil {
		return err
	}
	b.following.Store(true)
	followed := func() { b.follow.Do(func() { close(b.followed) }) }
	defer followed() // the client may go before the end
	engine, err := control.NewControlClient(conn).Status(c.ctx, &control.StatusRequest{Ref: b.id})
	if err != nil {
		return b.engineError(err)
	}
	tell, stop := b.progress.Add(client, c.log)
	defer stop()
	for {
		m, err := engine.Recv()
		if err == io.EOF {
			followed()
			// The guard itself may have something to tell yet: of names, and of a push.
			select {
			case <-b.ctx.Done():
			case <-c.ctx.Done():
			}
			return nil
		}
		if err != nil {
			return b.engineError(err)
		}
		b.vertices.Take(m, c.built)
		if err := tell(b.shownStatus(m)); err != nil {
			return err
		}
	}
}

// shownStatus is what BuildKit tells of a build, with the names that the client knows.
func (b *grpcBuild) shownStatus(m *control.StatusResponse) *control.StatusResponse {
	out := &control.StatusResponse{}
	for _, v := range m.Vertexes {
		out.Vertexes = append(out.Vertexes, &control.Vertex{
			Digest: v.Digest, Inputs: v.Inputs, Name: b.written(v.Name), Cached: v.Cached,
			Started: v.Started, Completed: v.Completed, Error: b.written(v.Error), ProgressGroup: v.ProgressGroup,
		})
	}
	for _, s := range m.Statuses {
		out.Statuses = append(out.Statuses, &control.VertexStatus{
			ID: b.written(s.ID), Vertex: s.Vertex, Name: b.written(s.Name), Current: s.Current, Total: s.Total,
			Timestamp: s.Timestamp, Started: s.Started, Completed: s.Completed,
		})
	}
	for _, l := range m.Logs {
		out.Logs = append(out.Logs, &control.VertexLog{Vertex: l.Vertex, Timestamp: l.Timestamp, Stream: l.Stream, Msg: l.Msg})
	}
	for _, w := range m.Warnings {
		info, ranges := b.shownSource(w.Info, w.Ranges)
		out.Warnings = append(out.Warnings, &control.VertexWarning{
			Vertex: w.Vertex, Level: w.Level, Short: []byte(b.written(string(w.Short))), Detail: w.Detail, Url: w.Url, Info: info, Ranges: ranges,
		})
	}
	return out
}

// ListWorkers tells what the Engine builds for, and nothing of the machine.
func (s *grpcServer) ListWorkers(ctx context.Context, _ *control.ListWorkersRequest) (*control.ListWorkersResponse, error) {
	c := s.c.onMethod(ctx, control.Control_ListWorkers_FullMethodName)
	conn, err := c.buildkit()
	if err != nil {
		return nil, c.told(err)
	}
	resp, err := control.NewControlClient(conn).ListWorkers(ctx, &control.ListWorkersRequest{})
	if err != nil {
		return nil, session.PlainError(err)
	}
	return &control.ListWorkersResponse{Record: shownWorkers(resp.Record)}, nil
}

// hostGateway is the label by which clients learn what host-gateway means in --add-host.
const hostGateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

func shownWorkers(all []*types.WorkerRecord) (out []*types.WorkerRecord) {
	for _, w := range all {
		labels := map[string]string{}
		for k, v := range w.Labels {
			if k == hostGateway || strings.HasSuffix(k, ".worker.executor") || strings.HasSuffix(k, ".worker.snapshotter") {
				labels[k] = v
			}
		}
		out = append(out, &types.WorkerRecord{ID: w.ID, Labels: labels, Platforms: w.Platforms, BuildkitVersion: shownVersion(w.BuildkitVersion)})
	}
	return out
}

func shownVersion(v *types.BuildkitVersion) *types.BuildkitVersion {
	if v == nil {
		return nil
	}
	return &types.BuildkitVersion{Package: v.Package, Version: v.Version, Revision: v.Revision, DockerfileVersion: v.DockerfileVersion}
}

// Info tells BuildKit's version.
func (s *grpcServer) Info(ctx context.Context, _ *control.InfoRequest) (*control.InfoResponse, error) {
	c := s.c.onMethod(ctx, control.Control_Info_FullMethodName)
	conn, err := c.buildkit()
	if err != nil {
		return nil, c.told(err)
	}
	resp, err := control.NewControlClient(conn).Info(ctx, &control.InfoRequest{})
	if err != nil {
		return nil, session.PlainError(err)
	}
	return &control.InfoResponse{BuildkitVersion: shownVersion(resp.BuildkitVersion)}, nil
}

// DiskUsage has no entries: the build cache is all jobs' together.
func (s *grpcServer) DiskUsage(context.Context, *control.DiskUsageRequest) (*control.DiskUsageResponse, error) {
	return &control.DiskUsageResponse{}, nil
}

// Prune leaves the cache as it is, as POST /build/prune does.
func (s *grpcServer) Prune(*control.PruneRequest, grpc.ServerStreamingServer[control.UsageRecord]) error {
	return nil
}

// ListenBuildHistory says what an Engine without a history of builds says: that of this one is of all jobs' builds.
func (s *grpcServer) ListenBuildHistory(*control.BuildHistoryRequest, grpc.ServerStreamingServer[control.BuildHistoryEvent]) error {
	return status.Error(codes.Unimplemented, "slipway: the history of builds is not kept for jobs")
}

// UpdateBuildHistory is refused, as its listing is.
func (s *grpcServer) UpdateBuildHistory(ctx context.Context, _ *control.UpdateBuildHistoryRequest) (*control.UpdateBuildHistoryResponse, error) {
	return nil, s.c.onMethod(ctx, control.Control_UpdateBuildHistory_FullMethodName).refusedMethod()
}

// Session is POST /session inside of a gRPC connection, as buildx bake has it for files that several builds share.
func (s *grpcServer) Session(client grpc.BidiStreamingServer[control.BytesMessage, control.BytesMessage]) error {
	c := s.c.onMethod(client.Context(), control.Control_Session_FullMethodName)
	c.Guard.calls.Add(1)
	defer c.Guard.calls.Done()
	conn, _, sent := grpchijack.Hijack(client)
	header := http.Header{}
	for k, v := range sent {
		header[http.CanonicalHeaderKey(k)] = v
	}
	err := c.holdSession(header, func() (net.Conn, error) { return conn, nil })
	if errors.Is(err, errAnswered) {
		return nil
	}
	return c.told(err)
}
