package archive

import (
	"archive/zip"
	"bytes"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// blockSize is how much is compressed at once. Smaller files are compressed beside each other, the blocks of larger ones too.
const blockSize = 1 << 20

// window is how far back deflate looks.
const window = 32 << 10

// deflaters keeps compressors of one level: each has some hundred kilobytes of tables.
type deflaters struct {
	level int
	pool  sync.Pool
}

func (d *deflaters) id() uint16 { return zip.Deflate }

func (d *deflaters) writer(w io.Writer) (io.WriteCloser, error) { return newDeflateWriter(w, d), nil }

// compress appends the deflated form of data to out. dict is what comes before data in the stream; last ends the stream.
func (d *deflaters) compress(out *bytes.Buffer, data, dict []byte, last bool) (err error) {
	defer mishap.Catch(nil, "a block of an archive", &err) // it may have a goroutine for itself
	w, _ := d.pool.Get().(*flate.Writer)
	if w == nil {
		if w, err = flate.NewWriter(out, d.level); err != nil {
			return err
		}
	}
	defer d.pool.Put(w)
	w.ResetDict(out, dict)
	if _, err := w.Write(data); err != nil {
		return err
	}
	if last {
		return w.Close()
	}
	return w.Flush()
}

// deflateWriter compresses a stream in blocks, as many at once as there are processors. Each block begins with a dictionary of
// what is before it, so that the result is one ordinary stream of nearly the usual size.
type deflateWriter struct {
	pool   *deflaters
	data   []byte // of the block that is being filled
	dict   []byte
	blocks chan *block
	done   chan error // of the goroutine that writes
}

type block struct {
	out   bytes.Buffer
	ready chan error
}

func newDeflateWriter(out io.Writer, pool *deflaters) *deflateWriter {
	w := &deflateWriter{pool: pool, blocks: make(chan *block, runtime.GOMAXPROCS(0)), done: make(chan error, 1)}
	go func() {
		var failed error
		for b := range w.blocks {
			err := <-b.ready
			if err == nil && failed == nil {
				_, err = b.out.WriteTo(out)
			}
			if failed == nil {
				failed = err
			}
		}
		w.done <- failed
	}()
	return w
}

// Write implements io.Writer. Errors of the writer below come with Close.
func (w *deflateWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if w.data == nil {
			w.data = make([]byte, 0, blockSize)
		}
		room := min(blockSize-len(w.data), len(p))
		w.data = append(w.data, p[:room]...)
		if p = p[room:]; len(w.data) == blockSize {
			w.send(false)
		}
	}
	return n, nil
}

func (w *deflateWriter) send(last bool) {
	b, data, dict := &block{ready: make(chan error, 1)}, w.data, w.dict
	w.blocks <- b // waits while there are enough
	go func() { b.ready <- w.pool.compress(&b.out, data, dict, last) }()
	w.dict, w.data = data[max(0, len(data)-window):], nil
}

// Close writes what is left.
func (w *deflateWriter) Close() error {
	w.send(true)
	close(w.blocks)
	return <-w.done
}
