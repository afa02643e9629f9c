package archive

import (
	"archive/zip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// Options say how an archive is unpacked.
type Options struct {
	Umask    fs.FileMode // of folders that the archive only implies
	Owners   bool        // give files to the users that the archive names; needs root
	Owner    *Owner      // give all to this one instead; needs root
	Users    int         // how many, from Owner on, the archive may name all the same
	Progress func(n int64)
}

// Owner is a user of this machine.
type Owner struct{ UID, GID int }

// unpacker puts an archive's files into a folder: first the folders, then the files, beside each other, then the links, so
// that nothing of the archive goes through a link of the archive.
type unpacker struct {
	root  *os.Root
	opts  Options
	dirs  map[string]*zip.File // nil = only implied
	files []*zip.File
	links []*zip.File
	sum   Summary
}

// Unzip unpacks the zip archive of size bytes in r below root. Files that are there are replaced, all else stays. An archive with
// a name that leads elsewhere is refused before anything is unpacked; of its other kinds of files (devices, pipes) none is.
//
// Who writes to the folder meanwhile can spoil what is unpacked, but not lead it out of there.
func Unzip(ctx context.Context, root *os.Root, r io.ReaderAt, size int64, opts Options) (Summary, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return Summary{}, fmt.Errorf("read the archive: %w", err)
	}
	z.RegisterDecompressor(zip.Deflate, inflate)
	z.RegisterDecompressor(zstd.ZipMethodWinZip, zstd.ZipDecompressor(zstd.WithDecoderMaxWindow(largestWindow)))
	u := &unpacker{root: root, opts: opts, dirs: map[string]*zip.File{}}
	if err := u.sort(ctx, z.File); err != nil {
		return Summary{}, fmt.Errorf("read the archive: %w", err)
	}
	if err := u.unpack(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return u.sum, fmt.Errorf("unpack the archive: %w", err)
	}
	return u.sum, nil
}

// inflaters are used again: one takes more memory than a small file.
var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

type inflater struct{ io.ReadCloser }

func inflate(r io.Reader) io.ReadCloser {
	z := inflaters.Get().(io.ReadCloser)
	if err := z.(flate.Resetter).Reset(r, nil); err != nil {
		z = flate.NewReader(r)
	}
	return &inflater{z}
}

// Close gives it back.
func (i *inflater) Close() error {
	if i.ReadCloser == nil {
		return nil
	}
	err := i.ReadCloser.Close()
	inflaters.Put(i.ReadCloser)
	i.ReadCloser = nil
	return err
}

// sort tells folders, files and links apart. Of two entries with one name the later wins.
func (u *unpacker) sort(ctx context.Context, entries []*zip.File) error {
	if len(entries) > maxEntries {
		return errTooMany
	}
	last := make(map[string]*zip.File, len(entries))
	folder := map[*zip.File]fs.FileMode{} // what its name makes one, with the mode that goes with that
	for _, f := range entries {
		if strings.HasSuffix(f.Name, "/") {
			folder[f] = f.Mode()
		}
		name, err := cleanName(f.Name)
		if err != nil {
			return err
		}
		if name == "." {
			continue
		}
		f.Name = name
		last[name] = f
	}
	for _, f := range entries {
		if last[f.Name] != f {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch kind := f.Mode().Type(); {
		case kind == fs.ModeDir, folder[f].IsDir():
			if u.dirs[f.Name] = f; kind != fs.ModeDir || f.Mode().Perm() == 0 { // some programs write no mode
				u.dirs[f.Name] = nil
			}
		case kind == 0:
			u.files = append(u.files, f)
		case kind == fs.ModeSymlink:
			u.links = append(u.links, f)
		default:
			u.sum.Skipped = append(u.sum.Skipped, f.Name+" is neither a file nor a folder")
			continue
		}
		for dir := path.Dir(f.Name); dir != "."; dir = path.Dir(dir) {
			if _, ok := u.dirs[dir]; ok {
				break
			}
			u.dirs[dir] = nil
		}
		if len(u.dirs) > maxEntries {
			return errTooMany
		}
	}
	return nil
}

// deepest is how many folders may lie above a file: each is looked up by itself. largestWindow is what an encoder wants to look
// back at the most, in bytes, which the decoder must have in memory: ours, and that of GitLab's runner.
const (
	deepest       = 250
	largestWindow = 32 << 20
)

// cleanName is a name within the folder.
func cleanName(name string) (string, error) {
	clean := path.Clean(name)
	if strings.Count(clean, "/") > deepest {
		return "", fmt.Errorf("it has a file more than %d folders deep", deepest)
	}
	if len(name) > maxName || !filepath.IsLocal(clean) || strings.ContainsAny(name, "\x00") {
		return "", fmt.Errorf("it has a file with the name %.200q, which is not below the project folder", name)
	}
	return clean, nil
}

func (u *unpacker) unpack(ctx context.Context) error {
	dirs := make([]string, 0, len(u.dirs))
	for dir := range u.dirs {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := u.dir(dir); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	slices.SortStableFunc(u.files, func(a, b *zip.File) int { return strings.Compare(path.Dir(a.Name), path.Dir(b.Name)) })
	for rest := u.files; len(rest) > 0 && gctx.Err() == nil; {
		dir, n := path.Dir(rest[0].Name), 1
		for n < min(len(rest), atOnce) && path.Dir(rest[n].Name) == dir {
			n++
		}
		files := rest[:n]
		rest = rest[n:]
		g.Go(func() error { return u.filesOf(gctx, dir, files) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, f := range u.files {
		u.sum.Files++
		u.sum.Bytes += int64(f.UncompressedSize64)
	}
	for _, f := range u.links {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := u.link(f); err != nil {
			return err
		}
		u.sum.Files++
	}
	for _, dir := range slices.Backward(dirs) { // from within: a folder's time changes with what is in it
		if f := u.dirs[dir]; f != nil {
			u.sum.Files++
			if err := u.finish(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// dir makes sure of a folder. Links that are there may lead to others of the project.
func (u *unpacker) dir(name string) error {
	err := u.root.Mkdir(name, 0o777)
	if errors.Is(err, fs.ErrExist) {
		info, serr := u.root.Stat(name)
		if serr == nil && info.IsDir() {
			return nil
		}
		return errors.Join(fmt.Errorf("%s is in the way of a folder of the archive", name), serr)
	}
	if err == nil {
		err = u.root.Chmod(name, 0o777&^u.opts.Umask)
	}
	if o := u.opts.Owner; o != nil && err == nil {
		err = u.root.Lchown(name, o.UID, o.GID)
	}
	return err
}

// atOnce is how many files of one folder a worker takes.
const atOnce = 128

// filesOf unpacks files of one folder, which is looked up once for all of them.
func (u *unpacker) filesOf(ctx context.Context, dir string, files []*zip.File) (err error) {
	defer mishap.Catch(nil, "files of an archive", &err)
	at, err := u.root.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer at.Close()
	for _, f := range files {
		if err := u.file(ctx, at, f); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

// create makes a new file in a folder, in the place of one that is there.
func create(dir *os.File, name string) (plainFile, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), name, flags, 0o600)
	if err != unix.EEXIST {
		return plainFile(fd), err
	}
	err = unix.Unlinkat(int(dir.Fd()), name, 0)
	if err == unix.EISDIR || err == unix.EPERM { // POSIX lets a folder be either
		err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	}
	if err != nil {
		return -1, err
	}
	fd, err = unix.Openat(int(dir.Fd()), name, flags, 0o600)
	return plainFile(fd), err
}

// plainFile is the descriptor of a file. An os.File costs as much as all else that is done to a small one.
type plainFile int

func (f plainFile) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.Write(int(f), p[n:])
		if err != nil && err != unix.EINTR {
			return n, err
		}
		n += max(m, 0)
	}
	return n, nil
}

func (u *unpacker) file(ctx context.Context, dir *os.File, f *zip.File) (err error) {
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := create(dir, path.Base(f.Name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(int(out))) }()
	// One byte more than it says: it must not go on for ever.
	var from io.Reader = io.LimitReader(in, int64(f.UncompressedSize64)+1)
	if f.UncompressedSize64 > largeFile {
		ahead := prefetch(from)
		defer ahead.Close() // before what it reads from
		from = ahead
	}
	n, err := copyFile(ctx, out, from, u.opts.Progress)
	if err != nil {
		return err
	}
	if uint64(n) != f.UncompressedSize64 {
		return zip.ErrFormat
	}
	if uid, gid, ok := u.ownerOf(f); ok {
		if err := unix.Fchown(int(out), uid, gid); err != nil {
			return fmt.Errorf("set its owner: %w", err)
		}
	}
	if err := unix.Fchmod(int(out), uint32(f.Mode().Perm())); err != nil {
		return fmt.Errorf("set its mode: %w", err)
	}
	t := unix.NsecToTimeval(f.Modified.UnixNano())
	if err := unix.Futimes(int(out), []unix.Timeval{t, t}); err != nil {
		return fmt.Errorf("set its time: %w", err)
	}
	return nil
}

func (u *unpacker) link(f *zip.File) error {
	in, err := f.Open()
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	defer in.Close()
	to, err := io.ReadAll(io.LimitReader(in, maxName))
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	err = u.root.Symlink(string(to), f.Name)
	if errors.Is(err, fs.ErrExist) {
		if err = u.root.Remove(f.Name); err == nil {
			err = u.root.Symlink(string(to), f.Name)
		}
	}
	if err == nil {
		if uid, gid, ok := u.ownerOf(f); ok {
			err = u.root.Lchown(f.Name, uid, gid)
		}
	}
	return err
}

// finish gives a folder its mode and time.
func (u *unpacker) finish(f *zip.File) error {
	if uid, gid, ok := u.ownerOf(f); ok {
		if err := u.root.Lchown(f.Name, uid, gid); err != nil {
			return err
		}
	}
	if err := u.root.Chmod(f.Name, f.Mode().Perm()); err != nil {
		return err
	}
	return u.root.Chtimes(f.Name, f.Modified, f.Modified)
}

// ownerOf is whom a file is given to.
func (u *unpacker) ownerOf(f *zip.File) (uid, gid int, ok bool) {
	switch {
	case u.opts.Owner != nil:
		first := u.opts.Owner
		of := func(id, first int) bool { return id >= first && id-first < u.opts.Users }
		if uid, gid, ok := ownerOf(f); ok && of(uid, first.UID) && of(gid, first.GID) {
			return uid, gid, true
		}
		return first.UID, first.GID, true
	case u.opts.Owners:
		return ownerOf(f)
	}
	return 0, 0, false
}

// ownerOf reads Info-ZIP's field with the owner.
func ownerOf(f *zip.File) (uid, gid int, ok bool) {
	for extra := f.Extra; len(extra) >= 4; {
		id, size := binary.LittleEndian.Uint16(extra), int(binary.LittleEndian.Uint16(extra[2:]))
		if extra = extra[4:]; size > len(extra) {
			return 0, 0, false
		}
		if b := extra[:size]; id == extraOwner && size == 11 && b[0] == 1 && b[1] == 4 && b[6] == 4 {
			return int(binary.LittleEndian.Uint32(b[2:])), int(binary.LittleEndian.Uint32(b[7:])), true
		}
		extra = extra[size:]
	}
	return 0, 0, false
}
