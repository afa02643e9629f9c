package session

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	buildkit "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// authService asks the client for its credentials, for registries that the job may use.
type authService struct {
	log     *slog.Logger
	mu      sync.Mutex // of allowed: the Engine asks several things at once
	allowed func(ctx context.Context, registry string) error
	client  auth.AuthClient
	caller  buildkit.Caller
}

func (s *authService) allow(ctx context.Context, host string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allowed(ctx, host)
}

// Register implements buildkit.Attachable.
func (s *authService) Register(server *grpc.Server) {
	register(server, s.log, auth.Auth_ServiceDesc, s)
}

// askClient asks the client something about a registry.
func askClient[Q, A any](ctx context.Context, s *authService, host string, ask func(context.Context, Q, ...grpc.CallOption) (A, error), q Q) (answer A, err error) {
	ctx, cancel := clientContext(ctx, s.caller)
	defer cancel()
	if err := s.allow(ctx, host); err != nil {
		return answer, status.Error(codes.PermissionDenied, err.Error())
	}
	answer, err = ask(ctx, q)
	return answer, PlainError(err)
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

// credentialsTime is how long a client may take to tell its credentials: some ask a program for them.
const credentialsTime = 30 * time.Second

// Credentials asks a client for its credentials for a registry: X-Registry-Auth, "" = none.
func Credentials(ctx context.Context, caller buildkit.Caller) func(host string) string {
	return func(host string) string {
		if !caller.Supports(auth.Auth_Credentials_FullMethodName) {
			return ""
		}
		if host == "docker.io" {
			host = "registry-1.docker.io" // as BuildKit asks
		}
		ctx, cancel := context.WithTimeout(caller.Context(ctx), credentialsTime)
		defer cancel()
		answer, err := auth.NewAuthClient(caller.Conn()).Credentials(ctx, &auth.CredentialsRequest{Host: host})
		if err != nil || answer.Username == "" && answer.Secret == "" {
			return "" // the registry may do without
		}
		a := map[string]string{"username": answer.Username, "password": answer.Secret, "serveraddress": host}
		if answer.Username == "" {
			a = map[string]string{"identitytoken": answer.Secret, "serveraddress": host}
		}
		data, err := json.Marshal(a)
		if err != nil {
			return ""
		}
		return base64.URLEncoding.EncodeToString(data)
	}
}
