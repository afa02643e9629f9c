package guard

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
)

// digester finds the digests of a file, as it is and, if it is compressed with gzip, decompressed.
type digester struct {
	plain hash.Hash
	inner *io.PipeWriter
	begun bool
	done  chan string
}

func newDigester() *digester { return &digester{plain: sha256.New()} }

func (d *digester) Write(p []byte) (int, error) {
	if !d.begun && len(p) > 0 {
		d.begun = true
		if looksCompressed(p) == "gzip" {
			d.unpack()
		}
	}
	d.plain.Write(p)
	if d.inner != nil {
		if _, err := d.inner.Write(p); err != nil {
			d.inner = nil // it is no gzip after all
		}
	}
	return len(p), nil
}

// unpack begins to decompress what follows.
func (d *digester) unpack() {
	r, w := io.Pipe()
	d.inner, d.done = w, make(chan string, 1)
	go func() {
		sum := sha256.New()
		z, err := gzip.NewReader(r)
		if err == nil {
			_, err = io.Copy(sum, z)
		}
		r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		if err != nil {
			d.done <- ""
			return
		}
		d.done <- digestOf(sum)
	}()
}

func digestOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// end returns the digests.
func (d *digester) end() []string {
	out := []string{digestOf(d.plain)}
	if d.done == nil {
		return out
	}
	if d.inner != nil {
		d.inner.Close()
	}
	if inner := <-d.done; inner != "" {
		out = append(out, inner)
	}
	return out
}
