package guard

import (
	"context"

	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// bridgeServer is LLBBridge: what a client says of a build while its Control/Solve waits. The two services have methods of
// the same name.
type bridgeServer struct{ *grpcServer }

// onBridge asks the Engine something that belongs to the build of a call.
func onBridge[Q, A any](s *grpcServer, ctx context.Context, method string, q Q, ask func(b *grpcBuild, engine gateway.LLBBridgeClient, ctx context.Context, q Q) (A, error)) (answer A, err error) {
	c := s.c.onMethod(ctx, method)
	c.Guard.calls.Add(1)
	defer c.Guard.calls.Done()
	b, engineCtx, err := c.bridged()
	if err != nil {
		return answer, c.told(err)
	}
	conn, err := c.buildkit()
	if err != nil {
		return answer, c.told(err)
	}
	if answer, err = ask(b, gateway.NewLLBBridgeClient(conn), engineCtx, q); err != nil {
		err = c.told(b.engineError(err))
		b.tellFailure(err)
	}
	return answer, err
}

// Solve builds a Dockerfile.
func (s bridgeServer) Solve(ctx context.Context, r *gateway.SolveRequest) (*gateway.SolveResponse, error) {
	return onBridge(s.grpcServer, ctx, gateway.LLBBridge_Solve_FullMethodName, r, (*grpcBuild).solveFrontend)
}

// Ping tells what the Engine's builder can do.
func (s bridgeServer) Ping(ctx context.Context, r *gateway.PingRequest) (*gateway.PongResponse, error) {
	return onBridge(s.grpcServer, ctx, gateway.LLBBridge_Ping_FullMethodName, r, func(_ *grpcBuild, engine gateway.LLBBridgeClient, ctx context.Context, _ *gateway.PingRequest) (*gateway.PongResponse, error) {
		resp, err := engine.Ping(ctx, &gateway.PingRequest{})
		if err != nil {
			return nil, err
		}
		return &gateway.PongResponse{FrontendAPICaps: resp.FrontendAPICaps, LLBCaps: resp.LLBCaps, Workers: shownWorkers(resp.Workers)}, nil
	})
}

// Return ends the build with a result, or with the client's error.
func (s bridgeServer) Return(ctx context.Context, r *gateway.ReturnRequest) (*gateway.ReturnResponse, error) {
	return onBridge(s.grpcServer, ctx, gateway.LLBBridge_Return_FullMethodName, r, func(b *grpcBuild, engine gateway.LLBBridgeClient, ctx context.Context, r *gateway.ReturnRequest) (*gateway.ReturnResponse, error) {
		out := &gateway.ReturnRequest{}
		if r.Error != nil {
			b.clientFailed(r.Error.Message)
			out.Error = status.New(codes.Code(r.Error.Code), r.Error.Message).Proto() // without its details
		} else {
			out.Result = plainResult(r.Result)
		}
		out, err := known(out)
		if err != nil {
			return nil, err
		}
		if _, err := engine.Return(ctx, out); err != nil {
			return nil, err
		}
		return &gateway.ReturnResponse{}, nil
	})
}

// known is a message without the fields that this version of BuildKit's types does not know: the Engine might.
func known[M any, P interface {
	*M
	proto.Message
}](m P) (P, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	out := P(new(M))
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, out); err != nil {
		return nil, err
	}
	return out, nil
}

// plainResult is a result as the client gives it back: which of the build's own snapshots it is, by their IDs.
func plainResult(r *gateway.Result) *gateway.Result {
	if r == nil {
		return nil
	}
	out := &gateway.Result{Metadata: r.Metadata}
	switch res := r.Result.(type) {
	case *gateway.Result_RefDeprecated:
		out.Result = &gateway.Result_RefDeprecated{RefDeprecated: res.RefDeprecated}
	case *gateway.Result_RefsDeprecated:
		out.Result = &gateway.Result_RefsDeprecated{RefsDeprecated: &gateway.RefMapDeprecated{Refs: res.RefsDeprecated.GetRefs()}}
	case *gateway.Result_Ref:
		out.Result = &gateway.Result_Ref{Ref: plainRef(res.Ref)}
	case *gateway.Result_Refs:
		refs := map[string]*gateway.Ref{}
		for k, ref := range res.Refs.GetRefs() {
			refs[k] = plainRef(ref)
		}
		out.Result = &gateway.Result_Refs{Refs: &gateway.RefMap{Refs: refs}}
	}
	for k, all := range r.Attestations {
		var kept []*gateway.Attestation
		for _, a := range all.GetAttestation() {
			kept = append(kept, &gateway.Attestation{
				Kind: a.Kind, Metadata: a.Metadata, Ref: plainRef(a.Ref), Path: a.Path, InTotoPredicateType: a.InTotoPredicateType, InTotoSubjects: a.InTotoSubjects,
			})
		}
		if out.Attestations == nil {
			out.Attestations = map[string]*gateway.Attestations{}
		}
		out.Attestations[k] = &gateway.Attestations{Attestation: kept}
	}
	return out
}

// plainRef is a snapshot of the build without the operations that made it.
func plainRef(r *gateway.Ref) *gateway.Ref {
	if r == nil {
		return nil
	}
	return &gateway.Ref{Id: r.Id}
}

// ReadFile reads a file of a result of the build.
func (s bridgeServer) ReadFile(ctx context.Context, r *gateway.ReadFileRequest) (*gateway.ReadFileResponse, error) {
	return onBridge(s.grpcServer, ctx, gateway.LLBBridge_ReadFile_FullMethodName, r, func(_ *grpcBuild, engine gateway.LLBBridgeClient, ctx context.Context, r *gateway.ReadFileRequest) (*gateway.ReadFileResponse, error) {
		q := &gateway.ReadFileRequest{Ref: r.Ref, FilePath: r.FilePath}
		if r.Range != nil {
			q.Range = &gateway.FileRange{Offset: r.Range.Offset, Length: r.Range.Length}
		}
		return engine.ReadFile(ctx, q)
	})
}

// ReadDir lists a folder of a result of the build.
func (s bridgeServer) ReadDir(ctx context.Context, r *gateway.ReadDirRequest) (*gateway.ReadDirResponse, error) {
	return onBridge(s.grpcServer, ctx, gateway.LLBBridge_ReadDir_FullMethodName, r, func(_ *grpcBuild, engine gateway.LLBBridgeClient, ctx context.Context, r *gateway.ReadDirRequest) (*gateway.ReadDirResponse, error) {
		return engine.ReadDir(ctx, &gateway.ReadDirRequest{Ref: r.Ref, DirPath: r.DirPath, IncludePattern: r.IncludePattern})
	})
}

// StatFile describes a file of a result of the build.
func (s bridgeServer) StatFile(ctx context.Context, r *gateway.StatFileRequest) (*gateway.StatFileResponse, error) {
	return onBridge(s.grpcServer, ctx, gateway.LLBBridge_StatFile_FullMethodName, r, func(_ *grpcBuild, engine gateway.LLBBridgeClient, ctx context.Context, r *gateway.StatFileRequest) (*gateway.StatFileResponse, error) {
		return engine.StatFile(ctx, &gateway.StatFileRequest{Ref: r.Ref, Path: r.Path})
	})
}

// Evaluate makes a result of the build now.
func (s bridgeServer) Evaluate(ctx context.Context, r *gateway.EvaluateRequest) (*gateway.EvaluateResponse, error) {
	return onBridge(s.grpcServer, ctx, gateway.LLBBridge_Evaluate_FullMethodName, r, func(_ *grpcBuild, engine gateway.LLBBridgeClient, ctx context.Context, r *gateway.EvaluateRequest) (*gateway.EvaluateResponse, error) {
		return engine.Evaluate(ctx, &gateway.EvaluateRequest{Ref: r.Ref})
	})
}

// Inputs has none: definitions of a client's own are refused.
func (s bridgeServer) Inputs(context.Context, *gateway.InputsRequest) (*gateway.InputsResponse, error) {
	return &gateway.InputsResponse{Definitions: map[string]*pb.Definition{}}, nil
}

// Warn adds a warning to the build's progress.
func (s bridgeServer) Warn(ctx context.Context, r *gateway.WarnRequest) (*gateway.WarnResponse, error) {
	return onBridge(s.grpcServer, ctx, gateway.LLBBridge_Warn_FullMethodName, r, func(_ *grpcBuild, engine gateway.LLBBridgeClient, ctx context.Context, r *gateway.WarnRequest) (*gateway.WarnResponse, error) {
		return engine.Warn(ctx, &gateway.WarnRequest{Digest: r.Digest, Level: r.Level, Short: r.Short, Detail: r.Detail, Url: r.Url})
	})
}

// ResolveImageConfig would read any image of the Engine's.
func (s bridgeServer) ResolveImageConfig(ctx context.Context, _ *gateway.ResolveImageConfigRequest) (*gateway.ResolveImageConfigResponse, error) {
	return nil, s.c.onMethod(ctx, gateway.LLBBridge_ResolveImageConfig_FullMethodName).refusedMethod()
}

// ResolveSourceMeta would read any image of the Engine's, or any place that it reaches.
func (s bridgeServer) ResolveSourceMeta(ctx context.Context, _ *gateway.ResolveSourceMetaRequest) (*gateway.ResolveSourceMetaResponse, error) {
	return nil, s.c.onMethod(ctx, gateway.LLBBridge_ResolveSourceMeta_FullMethodName).refusedMethod()
}

// NewContainer would start a container with mounts and a network of the client's choice.
func (s bridgeServer) NewContainer(ctx context.Context, _ *gateway.NewContainerRequest) (*gateway.NewContainerResponse, error) {
	return nil, s.c.onMethod(ctx, gateway.LLBBridge_NewContainer_FullMethodName).refusedMethod()
}

// ReleaseContainer belongs to NewContainer.
func (s bridgeServer) ReleaseContainer(ctx context.Context, _ *gateway.ReleaseContainerRequest) (*gateway.ReleaseContainerResponse, error) {
	return nil, s.c.onMethod(ctx, gateway.LLBBridge_ReleaseContainer_FullMethodName).refusedMethod()
}

// ExecProcess belongs to NewContainer.
func (s bridgeServer) ExecProcess(client grpc.BidiStreamingServer[gateway.ExecMessage, gateway.ExecMessage]) error {
	return s.c.onMethod(client.Context(), gateway.LLBBridge_ExecProcess_FullMethodName).refusedMethod()
}

// ReadFileContainer belongs to NewContainer.
func (s bridgeServer) ReadFileContainer(ctx context.Context, _ *gateway.ReadFileRequest) (*gateway.ReadFileResponse, error) {
	return nil, s.c.onMethod(ctx, gateway.LLBBridge_ReadFileContainer_FullMethodName).refusedMethod()
}

// ReadDirContainer belongs to NewContainer.
func (s bridgeServer) ReadDirContainer(ctx context.Context, _ *gateway.ReadDirRequest) (*gateway.ReadDirResponse, error) {
	return nil, s.c.onMethod(ctx, gateway.LLBBridge_ReadDirContainer_FullMethodName).refusedMethod()
}

// StatFileContainer belongs to NewContainer.
func (s bridgeServer) StatFileContainer(ctx context.Context, _ *gateway.StatFileRequest) (*gateway.StatFileResponse, error) {
	return nil, s.c.onMethod(ctx, gateway.LLBBridge_StatFileContainer_FullMethodName).refusedMethod()
}
