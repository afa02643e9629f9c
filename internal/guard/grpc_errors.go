package guard

import (
	"bytes"
	"strings"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// engineError is the Engine's error for a client: its code and its words with the names that the client knows, and the
// place in the Dockerfile. All else that comes with it is of the Engine: its command line, its process, its stack.
func (b *grpcBuild) engineError(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err // our own
	}
	if s.Code() == codes.OK {
		return nil
	}
	told := status.New(s.Code(), b.written(s.Message())).Err()
	for _, source := range errdefs.Sources(grpcerrors.FromGRPC(err)) {
		info, ranges := b.shownSource(source.Info, source.Ranges)
		if info != nil {
			told = errdefs.WithSource(told, &errdefs.Source{Info: info, Ranges: ranges})
		}
	}
	return grpcerrors.ToGRPC(b.ctx, told)
}

// tellFailure keeps what the client was told of a Dockerfile that does not build: the Engine will tell of it again, in more
// words, when the client says that it gives up.
func (b *grpcBuild) tellFailure(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failure = err
}

// clientFailed notes that the client gives up because of what it was told.
func (b *grpcBuild) clientFailed(message string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, _ := status.FromError(b.failure)
	b.gaveUp = b.failure != nil && strings.Contains(message, s.Message())
}

// endOf is the error of a build that failed.
func (b *grpcBuild) endOf(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gaveUp {
		return b.failure
	}
	return err
}

// shownSource is a place in the Dockerfile's checked copy as a place in the Dockerfile.
func (b *grpcBuild) shownSource(info *pb.SourceInfo, ranges []*pb.Range) (*pb.SourceInfo, []*pb.Range) {
	if info == nil {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, checked := range b.copies {
		if bytes.Equal(info.Data, checked.file.Source()) {
			return &pb.SourceInfo{Filename: info.Filename, Data: info.Data, Language: info.Language}, ranges
		}
		if !bytes.Equal(info.Data, checked.copy) {
			continue
		}
		var out []*pb.Range
		for _, r := range ranges {
			from, _ := checked.file.Line(int(r.GetStart().GetLine()))
			_, to := checked.file.Line(int(r.GetEnd().GetLine()))
			if from > 0 && to >= from {
				out = append(out, &pb.Range{Start: &pb.Position{Line: int32(from)}, End: &pb.Position{Line: int32(to)}})
			}
		}
		return &pb.SourceInfo{Filename: checked.name, Data: checked.file.Source(), Language: info.Language}, out
	}
	return nil, nil
}
