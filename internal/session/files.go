package session

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	buildkit "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmeta "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/tarball"
)

// Files sends files to the Engine: those of the folders that a client has offered to the build, and in the place of others what was checked
// of them.
type Files struct {
	Log *slog.Logger // of panics

	mu      sync.Mutex
	folders map[string]buildkit.Caller // the client that has the folder
	checked map[string]Folder
	rest    buildkit.Caller // has all other folders; nil = nobody has
	seen    map[string]*layercache.Collector
}

// Serve gives what was checked in the place of a folder.
func (s *Files) Serve(dir string, files Folder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.checked == nil {
		s.checked = map[string]Folder{}
	}
	s.checked[dir] = files
}

// Offer gives a folder of the client's.
func (s *Files) Offer(dir string, client buildkit.Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.folders == nil {
		s.folders = map[string]buildkit.Caller{}
	}
	s.folders[dir] = client
}

// OfferRest gives all other folders of the client's: nobody knows what is in them.
func (s *Files) OfferRest(client buildkit.Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = client
}

// Collect has the files of a folder of the client's taken in.
func (s *Files) Collect(dir string, files *layercache.Collector) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]*layercache.Collector{}
	}
	s.seen[dir] = files
}

// find is who has a folder: nobody but us, if client is nil.
func (s *Files) find(dir string) (files Folder, client buildkit.Caller, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if files, ok = s.checked[dir]; ok {
		return files, nil, true
	}
	if client = s.folders[dir]; client == nil {
		client = s.rest
	}
	return Folder{}, client, client != nil
}

// Register implements buildkit.Attachable.
func (s *Files) Register(server *grpc.Server) {
	register(server, s.Log, filesync.FileSync_ServiceDesc, s)
}

// fileKeys are what the Engine says of the files that it wants.
var fileKeys = []string{keyDir, keyFollowPaths, "include-patterns", "exclude-patterns", "override-excludes"}

// DiffCopy sends the files of the folder that the Engine asks for.
func (s *Files) DiffCopy(engine filesync.FileSync_DiffCopyServer) error {
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
	return relay{
		log: s.Log, client: client, keys: fileKeys,
		open: func(ctx context.Context) (grpc.ClientStream, error) {
			return filesync.NewFileSyncClient(client.Conn()).DiffCopy(ctx)
		},
		message: func() proto.Message { return &fstypes.Packet{} },
		check: func(m proto.Message) error {
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
		},
	}.run(engine)
}

// TarStream is a form of the transfer that no Engine asks for.
func (s *Files) TarStream(filesync.FileSync_TarStreamServer) error {
	return status.Error(codes.Unimplemented, "slipway: files are sent by DiffCopy only")
}

// Folder is a folder of files that were checked, as the Engine gets to see it.
type Folder struct {
	files map[string][]byte
	// modified is the files' time. The Engine keeps what it has if name, size and time are the same, so the time is one
	// that nobody can have foreseen or brought about.
	modified int64
}

// NewFolder is a folder of these files.
func NewFolder(files map[string][]byte) (Folder, error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return Folder{}, fmt.Errorf("choose a time: %w", err)
	}
	return Folder{files: files, modified: int64(binary.BigEndian.Uint64(random[:]) >> 4)}, nil
}

// Walk tells of all of them, whatever was asked for: they are few.
func (f Folder) Walk(_ context.Context, _ string, fn fs.WalkDirFunc) error {
	for _, n := range slices.Sorted(maps.Keys(f.files)) {
		stat := &fstypes.Stat{Path: n, Mode: 0o644, Size: int64(len(f.files[n])), ModTime: f.modified}
		if err := fn(n, &fsutil.DirEntryInfo{Stat: stat}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Open reads one of them.
func (f Folder) Open(name string) (io.ReadCloser, error) {
	data, ok := f.files[name]
	if !ok {
		return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}
