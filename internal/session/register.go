package session

import (
	"context"
	"log/slog"
	"slices"

	"google.golang.org/grpc"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// register lets the Engine ask for a service. What it is asked is answered with the bytes of a client, so a panic is made an error: in
// each method, because the server is BuildKit's and takes no interceptors of ours.
func register(server *grpc.Server, log *slog.Logger, desc grpc.ServiceDesc, service any) {
	desc.Methods, desc.Streams = slices.Clone(desc.Methods), slices.Clone(desc.Streams)
	for i := range desc.Methods {
		m := &desc.Methods[i]
		handle := m.Handler
		m.Handler = func(service any, ctx context.Context, decode func(any) error, in grpc.UnaryServerInterceptor) (_ any, err error) {
			defer mishap.Catch(log, desc.ServiceName+"/"+m.MethodName, &err)
			return handle(service, ctx, decode, in)
		}
	}
	for i := range desc.Streams {
		m := &desc.Streams[i]
		handle := m.Handler
		m.Handler = func(service any, stream grpc.ServerStream) (err error) {
			defer mishap.Catch(log, desc.ServiceName+"/"+m.StreamName, &err)
			return handle(service, stream)
		}
	}
	server.RegisterService(&desc, service)
}
