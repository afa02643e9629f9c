// Package session gives the Engine what a build's client offers over its session: files, secrets, credentials, an SSH agent, and a place
// for what is built. Each message is received and sent anew; what no client of good will sends ends here. It knows nothing of whose the
// client is, nor of what is built.
package session

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	buildkit "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmeta "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// Services are what the Engine may ask for in a build besides files: all that the client offers. allow decides whether its credentials for a
// registry may be asked for; it is asked one thing at a time. log is told of panics.
func Services(client buildkit.Caller, log *slog.Logger, allow func(ctx context.Context, registry string) error) []buildkit.Attachable {
	var services []buildkit.Attachable
	for _, s := range []struct {
		method  string
		service buildkit.Attachable
	}{
		{auth.Auth_Credentials_FullMethodName, &authService{log: log, allowed: allow, client: auth.NewAuthClient(client.Conn()), caller: client}},
		{secrets.Secrets_GetSecret_FullMethodName, &secretService{log: log, client: client}},
		{sshforward.SSH_CheckAgent_FullMethodName, &sshService{log: log, client: client}},
		{filesync.FileSend_DiffCopy_FullMethodName, &outputService{log: log, client: client}},
	} {
		if client.Supports(s.method) {
			services = append(services, s.service)
		}
	}
	return services
}

// outputService takes what a build writes to its client: --output.
type outputService struct {
	log    *slog.Logger
	client buildkit.Caller
}

// Register implements buildkit.Attachable.
func (s *outputService) Register(server *grpc.Server) {
	register(server, s.log, filesync.FileSend_ServiceDesc, s)
}

func (s *outputService) DiffCopy(engine filesync.FileSend_DiffCopyServer) error {
	return relay{
		log: s.log, client: s.client, keys: []string{"buildkit-attachable-exporter-id"},
		open: func(ctx context.Context) (grpc.ClientStream, error) {
			return filesync.NewFileSendClient(s.client.Conn()).DiffCopy(ctx)
		},
		// Two forms of message come by the same method; an empty message keeps the bytes of either.
		message: func() proto.Message { return &emptypb.Empty{} },
	}.run(engine)
}

// secretService gives a build the secrets that its client has.
type secretService struct {
	log    *slog.Logger
	client buildkit.Caller
}

// Register implements buildkit.Attachable.
func (s *secretService) Register(server *grpc.Server) {
	register(server, s.log, secrets.Secrets_ServiceDesc, s)
}

func (s *secretService) GetSecret(ctx context.Context, r *secrets.GetSecretRequest) (*secrets.GetSecretResponse, error) {
	ctx, cancel := clientContext(ctx, s.client)
	defer cancel()
	answer, err := secrets.NewSecretsClient(s.client.Conn()).GetSecret(ctx, &secrets.GetSecretRequest{ID: r.ID})
	return answer, PlainError(err)
}

// sshService gives a build its client's SSH agent.
type sshService struct {
	log    *slog.Logger
	client buildkit.Caller
}

// Register implements buildkit.Attachable.
func (s *sshService) Register(server *grpc.Server) {
	register(server, s.log, sshforward.SSH_ServiceDesc, s)
}

func (s *sshService) CheckAgent(ctx context.Context, r *sshforward.CheckAgentRequest) (*sshforward.CheckAgentResponse, error) {
	ctx, cancel := clientContext(ctx, s.client)
	defer cancel()
	answer, err := sshforward.NewSSHClient(s.client.Conn()).CheckAgent(ctx, r)
	return answer, PlainError(err)
}

func (s *sshService) ForwardAgent(engine sshforward.SSH_ForwardAgentServer) error {
	return relay{
		log: s.log, client: s.client, keys: []string{sshforward.KeySSHID},
		open: func(ctx context.Context) (grpc.ClientStream, error) {
			return sshforward.NewSSHClient(s.client.Conn()).ForwardAgent(ctx)
		},
		message: func() proto.Message { return &sshforward.BytesMessage{} },
	}.run(engine)
}

// clientContext ends with the Engine's question or with the client's session, and carries none of the Engine's headers.
func clientContext(ctx context.Context, client buildkit.Caller) (context.Context, context.CancelFunc) {
	return context.WithCancel(grpcmeta.NewOutgoingContext(client.Context(ctx), nil))
}

// PlainError is a client's error for the Engine: a code and a text. The details that may come with it are left out.
func PlainError(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := grpcerrors.AsGRPCStatus(err); ok {
		return status.Error(s.Code(), s.Message())
	}
	return status.Error(codes.Unknown, err.Error())
}

// relay passes the messages of a stream between the Engine and the client.
type relay struct {
	log     *slog.Logger // of panics
	client  buildkit.Caller
	keys    []string // of the Engine's headers that the client gets
	open    func(ctx context.Context) (grpc.ClientStream, error)
	message func() proto.Message      // an empty one, of the kind that both send
	check   func(proto.Message) error // may refuse what the client sends; nil = nothing
}

// run ends when the client has said its last.
func (r relay) run(engine grpc.ServerStream) error {
	asked, _ := grpcmeta.FromIncomingContext(engine.Context())
	header := grpcmeta.MD{}
	for _, key := range r.keys {
		for _, k := range []string{key, key + "-encoded"} {
			if v := asked.Get(k); len(v) > 0 {
				header.Set(k, v...)
			}
		}
	}
	ctx, cancel := clientContext(engine.Context(), r.client)
	defer cancel()
	client, err := r.open(grpcmeta.NewOutgoingContext(ctx, header))
	if err != nil {
		return PlainError(err)
	}
	go func() {
		var err error // it is logged, and the stream ends
		defer func() {
			if err != nil {
				cancel()
			}
		}()
		defer mishap.Catch(r.log, "what the Engine sends to a client", &err)
		m := r.message()
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
	m := r.message()
	for {
		err := client.RecvMsg(m)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return PlainError(err)
		}
		if r.check != nil {
			if err := r.check(m); err != nil {
				return status.Error(codes.InvalidArgument, fmt.Sprintf("slipway: %v", err))
			}
		}
		if err := engine.SendMsg(m); err != nil {
			return err
		}
	}
}
