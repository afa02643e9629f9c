package archive

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// Summary counts what went into an archive, or came out of it.
type Summary struct {
	Files   int      // files, folders and links
	Bytes   int64    // of the files' contents
	Skipped []string // what was gone or changed its kind meanwhile, and why
}

// entry is one file on its way into an archive.
type entry struct {
	name   string
	hash   hash.Hash // of its content; nil = not wanted
	header *zip.FileHeader
	packed *bytes.Buffer // the content of a small file; nil = copy file
	file   *os.File
	size   int64
	err    error
	ready  chan struct{}
}

// Contents are what an archive is written of.
type Contents struct {
	Root     *os.Root
	Names    []string // below Root. What vanished since it was found is left out
	Level    Level
	Note     *Note         // of WriteZip; nil = none
	Progress func(n int64) // is called with the bytes that were read; may be nil
}

// WriteZip writes a zip archive to w, with the files' modes, times and owners: in one go, so that it can be sent while it is made.
func (c Contents) WriteZip(ctx context.Context, w io.Writer) (Summary, error) {
	return c.writeZip(ctx, w, &deflaters{level: c.Level.flate()})
}

// Note is a file that an archive ends with, which tells of the others. It takes the place of whatever has its name.
type Note struct {
	Name  string
	Write func(w io.Writer, files []Sum) error // of the plain files, in their order; there may be millions
}

// Sum is what a file has in an archive, whatever else it has had.
type Sum struct {
	Name   string
	SHA256 [sha256.Size]byte
}

// method compresses an archive's contents.
type method interface {
	id() uint16 // in the archive
	compress(out *bytes.Buffer, data, dict []byte, last bool) error
	writer(w io.Writer) (io.WriteCloser, error) // for large files
}

func (c Contents) writeZip(ctx context.Context, w io.Writer, pool method) (Summary, error) {
	ctx, cancel := context.WithCancel(ctx)
	out := zip.NewWriter(w)
	out.RegisterCompressor(pool.id(), pool.writer)
	var sum Summary
	var sums []Sum
	names, note := c.Names, c.Note
	if note != nil {
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == note.Name || strings.HasPrefix(name, note.Name+"/") })
	}
	entries := readAhead(ctx, c.Root, names, pool, note != nil)
	defer func() { // those that are not wanted any more
		cancel()
		for e := range entries {
			<-e.ready
			e.close()
		}
	}()
	for e := range entries {
		<-e.ready
		err := e.err
		if err == nil {
			err = e.write(ctx, out, c.Progress)
		}
		e.close()
		switch {
		case err == nil:
			sum.Files++
			if e.header.Mode().IsRegular() {
				sum.Bytes += e.size
				if e.hash != nil {
					sums = append(sums, Sum{e.name, [sha256.Size]byte(e.hash.Sum(nil))})
				}
			}
		case ctx.Err() == nil && isGone(e.err):
			sum.Skipped = append(sum.Skipped, e.err.Error())
		default:
			return sum, fmt.Errorf("archive %s: %w", e.name, err)
		}
	}
	if ctx.Err() != nil {
		return sum, context.Cause(ctx)
	}
	if note != nil {
		n, err := note.write(out, sums)
		if err != nil {
			return sum, fmt.Errorf("archive %s: %w", note.Name, err)
		}
		sum.Files++
		sum.Bytes += n
	}
	if err := out.Close(); err != nil {
		return sum, fmt.Errorf("end the archive: %w", err)
	}
	return sum, nil
}

func (n *Note) write(out *zip.Writer, sums []Sum) (int64, error) {
	h := header(n.Name, 0o644, time.Now(), uint32(os.Geteuid()), uint32(os.Getegid()))
	h.Method = zip.Deflate
	w, err := out.CreateHeader(h)
	if err != nil {
		return 0, err
	}
	to := &counter{w: w}
	err = n.Write(to, sums)
	return to.n, err
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (e *entry) close() {
	if e.file != nil {
		e.file.Close()
		e.file = nil
	}
}

// isGone reports whether a file is not what was found: what a job left running may put links and other folders in the way.
func isGone(err error) bool {
	for _, is := range []error{fs.ErrNotExist, errNoFile, unix.ENOTDIR, unix.ELOOP, unix.EINVAL} {
		if errors.Is(err, is) {
			return true
		}
	}
	return err != nil && strings.Contains(err.Error(), "path escapes from parent") // os.Root has no name for it
}

// readAhead reads and compresses files beside each other, and passes them on in their order.
func readAhead(ctx context.Context, root *os.Root, names []string, pool method, hashed bool) <-chan *entry {
	workers := runtime.GOMAXPROCS(0)
	todo, out := make(chan *entry), make(chan *entry, 8*workers)
	for range workers {
		go func() {
			for e := range todo {
				e.read(root, pool)
			}
		}()
	}
	go func() {
		defer close(todo)
		defer close(out)
		for _, name := range names {
			e := &entry{name: name, ready: make(chan struct{})}
			if hashed {
				e.hash = sha256.New()
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
			todo <- e
		}
	}()
	return out
}

// read looks at a file, and compresses it if it is small.
func (e *entry) read(root *os.Root, pool method) {
	defer close(e.ready)
	defer mishap.Catch(nil, "a file for an archive", &e.err)
	info, err := root.Lstat(e.name)
	if err != nil {
		e.err = err
		return
	}
	if info.Mode().IsRegular() {
		if e.file, info, e.err = open(root, e.name); e.err != nil {
			return
		}
	}
	uid, gid := owner(info)
	e.header = header(e.name, info.Mode(), info.ModTime(), uid, gid)
	switch {
	case info.IsDir():
		e.packed = &bytes.Buffer{}
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := root.Readlink(e.name)
		e.store([]byte(to))
		e.err = err
	case e.file == nil:
		e.err = &fs.PathError{Op: "read", Path: e.name, Err: errNoFile}
	case info.Size() < blockSize:
		e.err = e.pack(pool, info.Size())
		e.close()
	default:
		e.size, e.header.Method = info.Size(), pool.id()
	}
}

// pack compresses a small file. A job may still write to it: what it had at first is what counts.
func (e *entry) pack(pool method, size int64) error {
	data := make([]byte, size)
	n, err := io.ReadFull(e.file, data)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	data = data[:n]
	e.store(data)
	if e.hash != nil {
		_, _ = e.hash.Write(data) // never fails, says its documentation
	}
	if n == 0 {
		return nil
	}
	var packed bytes.Buffer
	packed.Grow(n)
	if err := pool.compress(&packed, data, nil, true); err != nil {
		return err
	}
	if packed.Len() < n {
		e.packed, e.header.Method, e.header.CompressedSize64 = &packed, pool.id(), uint64(packed.Len())
	}
	return nil
}

// store takes a content as it is.
func (e *entry) store(data []byte) {
	e.packed, e.size = bytes.NewBuffer(data), int64(len(data))
	e.header.CRC32 = crc32.ChecksumIEEE(data)
	e.header.UncompressedSize64, e.header.CompressedSize64 = uint64(len(data)), uint64(len(data))
}

func (e *entry) write(ctx context.Context, out *zip.Writer, progress func(int64)) error {
	if e.packed != nil {
		w, err := out.CreateRaw(e.header)
		if err == nil {
			_, err = e.packed.WriteTo(w)
		}
		if err == nil && progress != nil {
			progress(e.size)
		}
		return err
	}
	w, err := out.CreateHeader(e.header)
	if err != nil {
		return err
	}
	if e.hash != nil {
		w = io.MultiWriter(w, e.hash)
	}
	e.size, err = copyFile(ctx, w, io.LimitReader(e.file, e.size), progress)
	return err
}

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// copyFile copies until ctx ends.
func copyFile(ctx context.Context, w io.Writer, r io.Reader, progress func(int64)) (int64, error) {
	pooled := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(pooled)
	buf := *pooled
	var all int64
	for {
		if ctx.Err() != nil {
			return all, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return all, werr
			}
			if all += int64(n); progress != nil {
				progress(int64(n))
			}
		}
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// The extra fields of Info-ZIP.
const (
	extraTime  = 0x5455 // "UT"
	extraOwner = 0x7875 // "ux"
)

// zipVersion is the version of the format that knows folders and deflate, times ten.
const zipVersion = 20

// header is what the archive says of a file.
func header(name string, mode fs.FileMode, changed time.Time, uid, gid uint32) *zip.FileHeader {
	h := &zip.FileHeader{Name: name}
	h.CreatorVersion, h.ReaderVersion = zipVersion, zipVersion
	h.SetMode(mode & (fs.ModePerm | fs.ModeType)) // no file runs as another user because it came out of an archive
	if mode.IsDir() {
		h.Name += "/"
	}
	if ascii := len(name) == utf8.RuneCountInString(name); !ascii && utf8.ValidString(name) {
		h.Flags |= 0x800 // the name is UTF-8
	}
	t := changed.UTC()
	h.ModifiedDate, h.ModifiedTime = dosTime(t) //lint:ignore SA1019 a raw entry has no other
	h.Extra = binary.LittleEndian.AppendUint16(nil, extraTime)
	h.Extra = binary.LittleEndian.AppendUint16(h.Extra, 5)
	h.Extra = append(h.Extra, 1) // the time of the last change only
	h.Extra = binary.LittleEndian.AppendUint32(h.Extra, uint32(t.Unix()))
	h.Extra = binary.LittleEndian.AppendUint16(h.Extra, extraOwner)
	h.Extra = binary.LittleEndian.AppendUint16(h.Extra, 11)
	h.Extra = append(h.Extra, 1, 4)
	h.Extra = binary.LittleEndian.AppendUint32(h.Extra, uid)
	h.Extra = append(h.Extra, 4)
	h.Extra = binary.LittleEndian.AppendUint32(h.Extra, gid)
	return h
}

// dosTime is a time in MS-DOS's form, which begins in 1980.
func dosTime(t time.Time) (date, clock uint16) {
	if t.Year() < 1980 || t.Year() > 2107 {
		return 1<<5 | 1, 0
	}
	return uint16(t.Day() | int(t.Month())<<5 | (t.Year()-1980)<<9), uint16(t.Second()/2 | t.Minute()<<5 | t.Hour()<<11)
}
