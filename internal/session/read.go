package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	buildkit "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	fstypes "github.com/tonistiigi/fsutil/types"
	grpcmeta "google.golang.org/grpc/metadata"

	"github.com/slipway-ci/slipway/internal/wire"
)

// The keys of a request for files.
const (
	keyDir         = "dir-name"
	keyFollowPaths = "followpaths"
)

// The bounds of what Read keeps in memory.
const (
	maxFileRead    = 4 << 20 // of all names and files of a read together
	maxEntriesRead = 10_000  // files, folders and links that a client may tell of
	maxLinks       = 40      // followed for one name
	fileReadTime   = time.Minute
)

// Read asks a client for files of one of its folders, once: so what comes of it can be all that anybody ever sees of them. Links within
// the folder are followed. A file that is not there is not in the answer. Nothing is written to disk, whatever names the client tells of.
func Read(ctx context.Context, client buildkit.Caller, dir string, names ...string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(client.Context(ctx), fileReadTime)
	defer cancel()
	header := grpcmeta.MD{keyDir: {dir}, keyFollowPaths: names}
	if slices.ContainsFunc(names, func(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r > 0x7e }) >= 0 }) {
		header[keyFollowPaths] = nil
		for _, n := range names {
			header.Append(keyFollowPaths, url.QueryEscape(n))
		}
		header.Set(keyFollowPaths+"-encoded", "1")
	}
	stream, err := filesync.NewFileSyncClient(client.Conn()).DiffCopy(grpcmeta.NewOutgoingContext(ctx, header))
	if err != nil {
		return nil, err
	}
	r := &fileReader{stream: stream, names: names, wanted: map[uint32][]string{}, data: map[uint32]*bytes.Buffer{}}
	if err := r.run(); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for id, names := range r.wanted {
		for _, n := range names {
			files[n] = r.data[id].Bytes()
		}
	}
	return files, nil
}

// fileReader is the receiver of one transfer of files. A sender tells of all entries; a file's ID is its place among
// them. It then sends the files that it is asked for, and both say that they have finished.
type fileReader struct {
	stream   filesync.FileSync_DiffCopyClient
	names    []string
	entries  []*fstypes.Stat
	wanted   map[uint32][]string // ID → names that lead to it
	data     map[uint32]*bytes.Buffer
	left     int // files that are still to come
	size     int
	listed   bool
	finished bool
}

var errTransfer = errors.New("the client's transfer of files is not as it should be")

func (r *fileReader) run() error {
	for {
		p, err := r.stream.Recv()
		if err == io.EOF && r.finished {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive files from the client: %w", err)
		}
		switch p.Type {
		case fstypes.PACKET_STAT:
			err = r.stat(p.Stat)
		case fstypes.PACKET_DATA:
			err = r.file(p.ID, p.Data)
		case fstypes.PACKET_FIN:
			if !r.finished {
				return errTransfer
			}
			err = r.stream.CloseSend()
		case fstypes.PACKET_ERR:
			err = fmt.Errorf("the client cannot send files: %s", wire.Printable(string(p.Data)))
		default:
			err = errTransfer
		}
		if err != nil {
			return err
		}
	}
}

func (r *fileReader) stat(s *fstypes.Stat) error {
	if r.listed {
		return errTransfer
	}
	if s == nil {
		r.listed = true
		return r.request()
	}
	if err := checkStat(s); err != nil {
		return err
	}
	if len(r.entries) >= maxEntriesRead {
		return fmt.Errorf("%w: more than %d entries", errTransfer, maxEntriesRead)
	}
	if r.size += len(s.Path) + len(s.Linkname); r.size > maxFileRead {
		return fmt.Errorf("%w: its names are larger than %d bytes", errTransfer, maxFileRead)
	}
	r.entries = append(r.entries, &fstypes.Stat{Path: s.Path, Mode: s.Mode, Linkname: s.Linkname})
	return nil
}

// request asks for the files that the names lead to.
func (r *fileReader) request() error {
	byPath := make(map[string]uint32, len(r.entries))
	for i, e := range r.entries {
		byPath[e.Path] = uint32(i)
	}
	for _, n := range r.names {
		id, ok := r.resolve(byPath, n)
		if !ok {
			continue
		}
		r.wanted[id] = append(r.wanted[id], n)
		if r.data[id] == nil {
			r.data[id] = &bytes.Buffer{}
			if err := r.stream.Send(&fstypes.Packet{Type: fstypes.PACKET_REQ, ID: id}); err != nil {
				return err
			}
			r.left++
		}
	}
	return r.finish()
}

// resolve follows a name to a regular file. Links lead nowhere but within the folder, as for the Engine.
func (r *fileReader) resolve(byPath map[string]uint32, name string) (id uint32, ok bool) {
	at, rest := "", path.Clean("/" + name)[1:] // as the client takes it
	for hops := 0; ; {
		first, tail, more := strings.Cut(rest, "/")
		rest = tail
		at = strings.TrimPrefix(path.Join("/", at, first), "/")
		if at == "" {
			if !more {
				return 0, false
			}
			continue
		}
		if id, ok = byPath[at]; !ok {
			return 0, false
		}
		e := r.entries[id]
		if mode := os.FileMode(e.Mode); mode&os.ModeSymlink != 0 {
			if hops++; hops > maxLinks {
				return 0, false
			}
			rest = path.Join(e.Linkname, tail)
			if at = path.Dir(at); path.IsAbs(e.Linkname) {
				at = ""
			}
			continue
		} else if !more {
			return id, mode&os.ModeType == 0
		}
	}
}

func (r *fileReader) file(id uint32, data []byte) error {
	b, ok := r.data[id]
	if !ok || r.finished {
		return errTransfer
	}
	if len(data) == 0 {
		r.left--
		return r.finish()
	}
	if r.size += len(data); r.size > maxFileRead {
		return wire.Bad("slipway: the Dockerfile is larger than %d bytes", maxFileRead)
	}
	b.Write(data)
	return nil
}

func (r *fileReader) finish() error {
	if r.left > 0 {
		return nil
	}
	r.finished = true
	return r.stream.Send(&fstypes.Packet{Type: fstypes.PACKET_FIN})
}

// checkStat refuses entries that no client of good will tells of: names that lead out of the folder, and devices. The
// Engine writes them to its disk as root.
func checkStat(s *fstypes.Stat) error {
	mode := os.FileMode(s.Mode)
	switch {
	case !localName(s.Path):
		return fmt.Errorf("%w: the name %q", errTransfer, wire.Printable(s.Path))
	case mode&os.ModeSymlink == 0 && s.Linkname != "" && !localName(s.Linkname):
		return fmt.Errorf("%w: the link to %q", errTransfer, wire.Printable(s.Linkname))
	case mode&os.ModeDevice != 0:
		return fmt.Errorf("%w: %q is a device", errTransfer, wire.Printable(s.Path))
	}
	return nil
}

func localName(p string) bool {
	return p != "" && p != "." && p != ".." && p == path.Clean(p) && !path.IsAbs(p) && !strings.HasPrefix(p, "../") && !strings.Contains(p, "\x00")
}
