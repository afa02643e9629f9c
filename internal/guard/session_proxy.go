package guard

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	buildkit "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmeta "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/tarball"
)

// service is something that the Engine may ask for in a build. What it is asked is answered with the bytes of a client, so a
// panic is an error.
type service struct {
	log  *slog.Logger
	desc grpc.ServiceDesc
	impl any
}

// Register implements buildkit.Attachable.
func (s service) Register(server *grpc.Server) {
	s.desc.Methods, s.desc.Streams = slices.Clone(s.desc.Methods), slices.Clone(s.desc.Streams)
	for i := range s.desc.Methods {
		m := &s.desc.Methods[i]
		handle := m.Handler
		m.Handler = func(impl any, ctx context.Context, decode func(any) error, in grpc.UnaryServerInterceptor) (_ any, err error) {
			defer asStatus(&err)
			defer mishap.Catch(s.log, s.desc.ServiceName+"/"+m.MethodName, &err)
			return handle(impl, ctx, decode, in)
		}
	}
	for i := range s.desc.Streams {
		m := &s.desc.Streams[i]
		handle := m.Handler
		m.Handler = func(impl any, stream grpc.ServerStream) (err error) {
			defer asStatus(&err)
			defer mishap.Catch(s.log, s.desc.ServiceName+"/"+m.StreamName, &err)
			return handle(impl, stream)
		}
	}
	server.RegisterService(&s.desc, s.impl)
}

// sessionServices are what the Engine may ask for in a build besides files: all that the client offers.
func (c *call) sessionServices(client buildkit.Caller) []buildkit.Attachable {
	var services []buildkit.Attachable
	for _, s := range []struct {
		method string
		desc   grpc.ServiceDesc
		impl   any
	}{
		{auth.Auth_Credentials_FullMethodName, auth.Auth_ServiceDesc, &authService{c: c, client: auth.NewAuthClient(client.Conn()), caller: client}},
		{secrets.Secrets_GetSecret_FullMethodName, secrets.Secrets_ServiceDesc, &secretService{client: client}},
		{sshforward.SSH_CheckAgent_FullMethodName, sshforward.SSH_ServiceDesc, &sshService{log: c.log, client: client}},
		{filesync.FileSend_DiffCopy_FullMethodName, filesync.FileSend_ServiceDesc, &outputService{log: c.log, client: client}},
	} {
		if client.Supports(s.method) {
			services = append(services, service{c.log, s.desc, s.impl})
		}
	}
	return services
}

// buildFiles sends files to the Engine: those of the folders that the client has offered to the build, and in the place of
// others what the guard has checked.
type buildFiles struct {
	log *slog.Logger

	mu      sync.Mutex
	folders map[string]buildkit.Caller // the client that has the folder
	checked map[string]servedFiles
	rest    buildkit.Caller // has all other folders; nil but in audit mode
	seen    map[string]*layercache.Collector
}

// serve gives what the guard has checked for a folder.
func (s *buildFiles) serve(dir string, files servedFiles) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.checked == nil {
		s.checked = map[string]servedFiles{}
	}
	s.checked[dir] = files
}

// offer gives a folder of the client's.
func (s *buildFiles) offer(dir string, client buildkit.Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.folders == nil {
		s.folders = map[string]buildkit.Caller{}
	}
	s.folders[dir] = client
}

// collect has the files of a folder of the client's taken in.
func (s *buildFiles) collect(dir string, files *layercache.Collector) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]*layercache.Collector{}
	}
	s.seen[dir] = files
}

// find is who has a folder: the guard, if client is nil.
func (s *buildFiles) find(dir string) (files servedFiles, client buildkit.Caller, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if files, ok = s.checked[dir]; ok {
		return files, nil, true
	}
	if client = s.folders[dir]; client == nil {
		client = s.rest
	}
	return servedFiles{}, client, client != nil
}

// service is what the Engine asks for them.
func (s *buildFiles) service() service { return service{s.log, filesync.FileSync_ServiceDesc, s} }

// fileKeys are what the Engine says of the files that it wants.
var fileKeys = []string{keyDir, keyFollowPaths, "include-patterns", "exclude-patterns", "override-excludes"}

func (s *buildFiles) DiffCopy(engine filesync.FileSync_DiffCopyServer) error {
	asked, _ := grpcmeta.FromIncomingContext(engine.Context())
	dir := strings.Join(asked.Get(keyDir), "\x00")
	files, client, ok := s.find(dir)
	if !ok {
		return status.Errorf(codes.NotFound, "no access allowed to dir %q", dir)
	}
	if client == nil {
		return fsutil.Send(engine.Context(), engine, files, nil)
	}
	s.mu.Lock()
	passing := passingFiles{files: s.seen[dir]}
	s.mu.Unlock()
	return relayStream(s.log, client, engine, fileKeys, func(ctx context.Context) (grpc.ClientStream, error) {
		return filesync.NewFileSyncClient(client.Conn()).DiffCopy(ctx)
	}, func() proto.Message { return &fstypes.Packet{} }, func(m proto.Message) error {
		p, ok := m.(*fstypes.Packet)
		if !ok {
			return nil
		}
		if p.Type == fstypes.PACKET_STAT && p.Stat != nil {
			maps.DeleteFunc(p.Stat.Xattrs, func(k string, _ []byte) bool { return strings.HasPrefix(k, tarball.TrustedAttributes) })
			if err := checkStat(p.Stat); err != nil {
				return err
			}
		}
		passing.take(p)
		return nil
	})
}

// TarStream is a form of the transfer that no Engine asks for.
func (s *buildFiles) TarStream(filesync.FileSync_TarStreamServer) error {
	return status.Error(codes.Unimplemented, "slipway: files are sent by DiffCopy only")
}

// outputService takes what a build writes to its client: --output.
type outputService struct {
	log    *slog.Logger
	client buildkit.Caller
}

func (s *outputService) DiffCopy(engine filesync.FileSend_DiffCopyServer) error {
	return relayStream(s.log, s.client, engine, []string{"buildkit-attachable-exporter-id"}, func(ctx context.Context) (grpc.ClientStream, error) {
		return filesync.NewFileSendClient(s.client.Conn()).DiffCopy(ctx)
		// Two forms of message come by the same method; an empty message keeps the bytes of either.
	}, func() proto.Message { return &emptypb.Empty{} }, nil)
}

// secretService gives a build the secrets that its client has.
type secretService struct{ client buildkit.Caller }

func (s *secretService) GetSecret(ctx context.Context, r *secrets.GetSecretRequest) (*secrets.GetSecretResponse, error) {
	ctx, cancel := clientContext(ctx, s.client)
	defer cancel()
	answer, err := secrets.NewSecretsClient(s.client.Conn()).GetSecret(ctx, &secrets.GetSecretRequest{ID: r.ID})
	return answer, plainError(err)
}

// sshService gives a build its client's SSH agent.
type sshService struct {
	log    *slog.Logger
	client buildkit.Caller
}

func (s *sshService) CheckAgent(ctx context.Context, r *sshforward.CheckAgentRequest) (*sshforward.CheckAgentResponse, error) {
	ctx, cancel := clientContext(ctx, s.client)
	defer cancel()
	answer, err := sshforward.NewSSHClient(s.client.Conn()).CheckAgent(ctx, r)
	return answer, plainError(err)
}

func (s *sshService) ForwardAgent(engine sshforward.SSH_ForwardAgentServer) error {
	return relayStream(s.log, s.client, engine, []string{sshforward.KeySSHID}, func(ctx context.Context) (grpc.ClientStream, error) {
		return sshforward.NewSSHClient(s.client.Conn()).ForwardAgent(ctx)
	}, func() proto.Message { return &sshforward.BytesMessage{} }, nil)
}

// authService asks the client for its credentials, for registries that the job may use.
type authService struct {
	mu     sync.Mutex // of c: the Engine asks several things at once
	c      *call
	client auth.AuthClient
	caller buildkit.Caller
}

func (s *authService) allow(ctx context.Context, host string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c.allowHost(ctx, registryHost(host))
}

// askClient asks the client something about a registry.
func askClient[Q, A any](ctx context.Context, s *authService, host string, ask func(context.Context, Q, ...grpc.CallOption) (A, error), q Q) (answer A, err error) {
	ctx, cancel := clientContext(ctx, s.caller)
	defer cancel()
	if err := s.allow(ctx, host); err != nil {
		return answer, status.Error(codes.PermissionDenied, err.Error())
	}
	answer, err = ask(ctx, q)
	return answer, plainError(err)
}

func (s *authService) Credentials(ctx context.Context, r *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	return askClient(ctx, s, r.Host, s.client.Credentials, r)
}

func (s *authService) FetchToken(ctx context.Context, r *auth.FetchTokenRequest) (*auth.FetchTokenResponse, error) {
	return askClient(ctx, s, r.Host, s.client.FetchToken, r)
}

func (s *authService) GetTokenAuthority(ctx context.Context, r *auth.GetTokenAuthorityRequest) (*auth.GetTokenAuthorityResponse, error) {
	return askClient(ctx, s, r.Host, s.client.GetTokenAuthority, r)
}

func (s *authService) VerifyTokenAuthority(ctx context.Context, r *auth.VerifyTokenAuthorityRequest) (*auth.VerifyTokenAuthorityResponse, error) {
	return askClient(ctx, s, r.Host, s.client.VerifyTokenAuthority, r)
}

// clientContext ends with the Engine's question or with the client's session, and carries none of the Engine's headers.
func clientContext(ctx context.Context, client buildkit.Caller) (context.Context, context.CancelFunc) {
	return context.WithCancel(grpcmeta.NewOutgoingContext(client.Context(ctx), nil))
}

// plainError is a client's error for the Engine: a code and a text. The details that may come with it are left out.
func plainError(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := grpcerrors.AsGRPCStatus(err); ok {
		return status.Error(s.Code(), s.Message())
	}
	return status.Error(codes.Unknown, err.Error())
}

// relayStream passes the messages of a stream between the Engine and the client until the client has said its last.
// check may refuse what the client sends.
func relayStream(log *slog.Logger, caller buildkit.Caller, engine grpc.ServerStream, keys []string, open func(context.Context) (grpc.ClientStream, error),
	message func() proto.Message, check func(proto.Message) error,
) error {
	asked, _ := grpcmeta.FromIncomingContext(engine.Context())
	header := grpcmeta.MD{}
	for _, k := range keys {
		for _, k := range []string{k, k + "-encoded"} {
			if v := asked.Get(k); len(v) > 0 {
				header.Set(k, v...)
			}
		}
	}
	ctx, cancel := clientContext(engine.Context(), caller)
	defer cancel()
	client, err := open(grpcmeta.NewOutgoingContext(ctx, header))
	if err != nil {
		return plainError(err)
	}
	go func() {
		var err error // it is logged, and the stream ends
		defer func() {
			if err != nil {
				cancel()
			}
		}()
		defer mishap.Catch(log, "what the Engine sends to a client", &err)
		m := message()
		for {
			if err = engine.RecvMsg(m); err == io.EOF {
				err = client.CloseSend()
				return
			} else if err != nil {
				return
			}
			if client.SendMsg(m) != nil {
				return // the reason comes with the next receive
			}
		}
	}()
	m := message()
	for {
		err := client.RecvMsg(m)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return plainError(err)
		}
		if check != nil {
			if err := check(m); err != nil {
				return status.Error(codes.InvalidArgument, fmt.Sprintf("slipway: %v", err))
			}
		}
		if err := engine.SendMsg(m); err != nil {
			return err
		}
	}
}
