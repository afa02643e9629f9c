package archive

import (
	"io"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// largeFile is the size, in bytes, from which on a file is worth a goroutine of its own.
const largeFile = 4 << 20

// prefetched reads a stream while what it has read before is being written: to unpack and to write take about as long.
type prefetched struct {
	pieces chan piece
	stop   chan struct{}
	now    piece
	rest   []byte
}

type piece struct {
	buf *[]byte
	n   int
	err error
}

// prefetch begins to read. Close must be called.
func prefetch(r io.Reader) *prefetched {
	p := &prefetched{pieces: make(chan piece, 2), stop: make(chan struct{})}
	go func() {
		defer close(p.pieces)
		for {
			next := readPiece(r)
			select {
			case p.pieces <- next:
			case <-p.stop:
				return
			}
			if next.err != nil {
				return
			}
		}
	}()
	return p
}

func readPiece(r io.Reader) (p piece) {
	defer mishap.Catch(nil, "a file of an archive", &p.err)
	p.buf = copyBuffers.Get().(*[]byte)
	p.n, p.err = io.ReadFull(r, *p.buf)
	if p.err == io.ErrUnexpectedEOF {
		p.err = io.EOF
	}
	return p
}

func (p *prefetched) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.now.err != nil {
			return 0, p.now.err
		}
		if p.now.buf != nil {
			copyBuffers.Put(p.now.buf)
		}
		p.now = <-p.pieces
		p.rest = (*p.now.buf)[:p.now.n]
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Close waits until nobody reads any more.
func (p *prefetched) Close() error {
	close(p.stop)
	for range p.pieces {
	}
	return nil
}
