// Package mishap makes errors of panics, so that a defect that one job comes upon does not end the jobs of all others.
package mishap

import (
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is what is left of a panic, for the job's author.
type Error struct{}

func (*Error) Error() string {
	return "this failed because of a defect of Slipway's; its runner's log has more"
}

// GRPCStatus is how the error goes over gRPC.
func (e *Error) GRPCStatus() *status.Status { return status.New(codes.Internal, "slipway: "+e.Error()) }

// Catch, deferred, makes an error of a panic, and tells log of it; nil = the program's own. Goroutines in which the bytes of a
// job are looked at begin with it: nothing else catches what happens there.
func Catch(log *slog.Logger, what string, err *error) {
	if p := recover(); p != nil {
		if log == nil {
			log = slog.Default()
		}
		log.Error("panic; please report this as a bug", "call", what, "panic", p, "stack", string(debug.Stack()))
		*err = &Error{}
	}
}
