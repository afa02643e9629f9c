package tarball

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// digester finds the digests of a file, as it is and, if it is compressed with gzip or zstd, decompressed.
type digester struct {
	ctx   context.Context // of whoever waits for them
	plain hash.Hash
	limit int64 // bytes, decompressed
	inner *io.PipeWriter
	begun bool
	done  chan contained
}

// contained is what a file holds, decompressed.
type contained struct {
	digest string // "" if it cannot be decompressed
	size   int64
	err    error // that it is not known, because of a defect
}

func newDigester(ctx context.Context, limit int64) *digester {
	return &digester{ctx: ctx, plain: sha256.New(), limit: limit}
}

func (d *digester) Write(p []byte) (int, error) {
	if !d.begun && len(p) > 0 {
		d.begun = true
		switch Compression(p) {
		case "gzip":
			d.unpack(func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) })
		case "zstd":
			d.unpack(unzstd)
		}
	}
	d.plain.Write(p)
	if d.inner != nil {
		if _, err := d.inner.Write(p); err != nil {
			d.inner = nil // it is not compressed after all, or holds too much
		}
	}
	return len(p), nil
}

// maxWindow is how far back a layer in zstd may refer: eight times what every decoder must be able to.
const maxWindow = 64 << 20

func unzstd(r io.Reader) (io.Reader, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

// unpack begins to decompress what follows.
func (d *digester) unpack(open func(io.Reader) (io.Reader, error)) {
	r, w := io.Pipe()
	d.inner, d.done = w, make(chan contained, 1)
	go func() {
		var c contained
		defer func() {
			r.CloseWithError(io.ErrClosedPipe)
			d.done <- c
		}()
		defer mishap.Catch(nil, "what a file in an archive holds", &c.err)
		c = d.unpacked(r, open)
	}()
}

// unpacked reads a compressed file.
func (d *digester) unpacked(r io.Reader, open func(io.Reader) (io.Reader, error)) (c contained) {
	z, err := open(r)
	if err != nil {
		return c
	}
	sum := sha256.New()
	c.size, err = io.Copy(sum, io.LimitReader(whileAsked{d.ctx, z}, d.limit+1))
	if c, ok := z.(io.Closer); ok {
		c.Close()
	}
	if err == nil && c.size <= d.limit {
		c.digest = digestOf(sum)
	}
	return c
}

// whileAsked ends with its context: a few bytes can hold many, and none come in meanwhile.
type whileAsked struct {
	ctx context.Context
	io.Reader
}

func (w whileAsked) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Reader.Read(p)
}

func digestOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// end returns the digest of the file as it is, and what it holds.
func (d *digester) end() (plain string, inner contained) {
	if d.done != nil {
		if d.inner != nil {
			d.inner.Close()
		}
		inner = <-d.done
	}
	return digestOf(d.plain), inner
}
