package guard

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	control "github.com/moby/buildkit/api/services/control"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/rawconn"
)

// grpcServer is what a client of BuildKit's gRPC API speaks with: buildx, and compose through it. Each message is decoded
// and made anew for the Engine. Methods that are not here do not exist.
type grpcServer struct {
	control.UnimplementedControlServer
	gateway.UnimplementedLLBBridgeServer
	c *call
}

// The bounds of gRPC: the calls of one job at once, on all its connections, the bytes of a message of the job's, and those of
// one of the Engine's. The first two together bound the memory that a job can take here. A build has four calls at a time.
const (
	maxGRPCCalls   = 160
	maxGRPCMessage = 4 << 20
	maxEngineGRPC  = 64 << 20
)

// grpcOpen takes a client's connection for BuildKit's API. It is ours alone: what is asked on it goes to the Engine over a
// connection of the guard's own.
func grpcOpen(c *call) error {
	if !wantsUpgrade(c.r, "h2c") {
		return badRequest("slipway: BuildKit's API needs an upgrade to h2c")
	}
	if c.r.ContentLength != 0 {
		return badRequest("slipway: the request for BuildKit's API has no body")
	}
	conn, buffered, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the client's connection: %w", err)
	}
	defer conn.Close()
	stop := c.cutAtEnd(conn)
	defer stop()
	fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxGRPCMessage), grpc.InTapHandle(c.countGRPC), grpc.UnknownServiceHandler(c.unknownMethod),
		grpc.UnaryInterceptor(func(ctx context.Context, r any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (_ any, err error) {
			defer mishap.Catch(c.log, "gRPC "+printable(info.FullMethod), &err)
			return h(ctx, r)
		}),
		grpc.StreamInterceptor(func(s any, stream grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
			defer mishap.Catch(c.log, "gRPC "+printable(info.FullMethod), &err)
			return h(s, stream)
		}))
	s := &grpcServer{c: c}
	control.RegisterControlServer(server, s)
	gateway.RegisterLLBBridgeServer(server, bridgeServer{s})
	defer server.Stop()
	_ = server.Serve(rawconn.Listen(rawconn.New(conn, buffered.Reader))) // it ends with the connection
	return nil
}

// countGRPC counts a call in before its message is read, and out when it ends.
func (c *call) countGRPC(ctx context.Context, info *tap.Info) (context.Context, error) {
	if c.grpc.calls.Add(1) > maxGRPCCalls {
		c.grpc.calls.Add(-1)
		return nil, status.Errorf(codes.ResourceExhausted, "slipway: more than %d calls at once: let fewer builds run at a time", maxGRPCCalls)
	}
	context.AfterFunc(ctx, func() { c.grpc.calls.Add(-1) })
	return ctx, nil
}

// exportTraces is where clients send their own measurements.
const exportTraces = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// unknownMethod answers for services that are not in the table.
func (c *call) unknownMethod(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	if method == exportTraces {
		return status.Error(codes.Unimplemented, "slipway: traces are not collected")
	}
	return c.onMethod(s.Context(), method).refusedMethod()
}

// onMethod is a call by gRPC as the rules see it.
func (c *call) onMethod(ctx context.Context, method string) *call {
	r := &http.Request{Method: http.MethodPost, Header: http.Header{}, Body: http.NoBody}
	return &call{Guard: c.Guard, r: r, ctx: ctx, row: "gRPC " + printable(strings.TrimPrefix(method, "/")), version: c.version}
}

// refusedMethod ends a call of a method that no job gets.
func (c *call) refusedMethod() error {
	return c.told(deny("grpc-method", "", "%s is no call that a job may make", strings.TrimPrefix(c.row, "gRPC ")))
}

// engineGRPC is the guard's own connection for BuildKit's API of the Engine, made when it is first needed.
type engineGRPC struct {
	once  sync.Once
	conn  *grpc.ClientConn
	err   error
	calls atomic.Int64 // of the job's
}

func (g *Guard) buildkit() (*grpc.ClientConn, error) {
	g.grpc.once.Do(func() {
		g.grpc.conn, g.grpc.err = grpc.NewClient("passthrough:///engine",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.dialUpgraded(ctx, "/grpc", "h2c", nil) }),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxEngineGRPC), grpc.MaxCallSendMsgSize(maxEngineGRPC)))
	})
	return g.grpc.conn, g.grpc.err
}

func (g *Guard) closeBuildkit() {
	g.grpc.once.Do(func() { g.grpc.err = net.ErrClosed })
	if g.grpc.conn != nil {
		_ = g.grpc.conn.Close() // nothing is asked on it any more
	}
}
