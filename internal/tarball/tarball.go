// Package tarball reads archives on their way between a client and the Engine, and writes them anew, entry by entry while they
// stream: what somebody else finds in one is what was looked at. There are archives of files, as docker cp and docker import send
// them, and archives of images, as docker save makes them. It knows nothing of whose the images are.
package tarball

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Error is what is wrong with an archive, in words for who sent it.
type Error struct {
	Rule  string // of docs/guard.md that forbids it, "" = it is a mistake
	What  string
	Cure  string // what to do instead; may be empty
	cause error  // an error of reading or writing; may be nil
}

func (e *Error) Error() string { return e.What }

// Unwrap is the error of the reader or writer that is behind it.
func (e *Error) Unwrap() error { return e.cause }

func deny(rule, cure, format string, args ...any) error {
	return &Error{Rule: rule, What: fmt.Sprintf(format, args...), Cure: cure}
}

func bad(format string, args ...any) error { return &Error{What: fmt.Sprintf(format, args...)} }

// copyError is an error of a copy, whose reader and writer may have had errors of their own.
func copyError(err error) error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	return &Error{What: fmt.Sprintf("slipway: the archive cannot be copied: %v", err), cause: err}
}

// BufferSize is that of Buffers: with it a proxied archive is as fast as the Engine takes it.
const BufferSize = 256 << 10

// Buffers are those of all archives on their way, *[]byte. Who takes one puts it back.
var Buffers = sync.Pool{New: func() any { b := make([]byte, BufferSize); return &b }}

// compressions are the beginnings of archives that the Engine would decompress with programs.
var compressions = map[string][]byte{
	"bzip2": []byte("BZh"), "xz": {0xfd, '7', 'z', 'X', 'Z', 0}, "zstd": {0x28, 0xb5, 0x2f, 0xfd},
}

// Compression is how the Engine would take what begins so, "" for a plain archive.
func Compression(head []byte) string {
	for name, magic := range compressions {
		if bytes.HasPrefix(head, magic) {
			return name
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return "gzip"
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // a frame to skip
		return "zstd"
	}
	return ""
}

// Plain is the uncompressed archive in a body.
func Plain(body io.Reader) (io.Reader, error) {
	r := bufio.NewReaderSize(body, BufferSize)
	head, _ := r.Peek(6) // less is no archive: the reader will say so
	switch name := Compression(head); name {
	case "":
		return r, nil
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, bad("slipway: the archive cannot be decompressed: %v", err)
		}
		return z, nil
	default:
		return nil, deny("archive-compression", "send a plain or gzip archive", "an archive compressed with %s", name)
	}
}

// Each reads an archive entry by entry. what names it in the error of one that cannot be read.
func Each(in io.Reader, what string, do func(r *tar.Reader, h *tar.Header, buf []byte) error) error {
	r := tar.NewReader(in)
	buf := Buffers.Get().(*[]byte)
	defer Buffers.Put(buf)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return bad("slipway: %s cannot be read: %v", what, err)
		}
		if err := do(r, h, *buf); err != nil {
			return err
		}
	}
}

// readRest reads what follows an archive's end, so that the client can write it.
func readRest(in io.Reader) {
	buf := Buffers.Get().(*[]byte)
	defer Buffers.Put(buf)
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, in, *buf) // it means nothing
}
