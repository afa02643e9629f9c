package archive

import (
	"bytes"
	"context"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// zstandards compress with zstd: faster than deflate, both ways.
type zstandards struct {
	level   zstd.EncoderLevel
	encoder *zstd.Encoder // for small files; safe for concurrent use
}

// WriteFastZip is WriteZip with zstd in place of deflate. GitLab's own runner reads such archives too; few other programs do.
func (c Contents) WriteFastZip(ctx context.Context, w io.Writer) (Summary, error) {
	level := c.Level.zstd()
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderCRC(false)) // the archive has sums
	if err != nil {
		return Summary{}, err
	}
	defer encoder.Close()
	return c.writeZip(ctx, w, &zstandards{level, encoder})
}

func (z *zstandards) id() uint16 { return zstd.ZipMethodWinZip }

func (z *zstandards) compress(out *bytes.Buffer, data, _ []byte, _ bool) error {
	_, err := out.Write(z.encoder.EncodeAll(data, out.AvailableBuffer()))
	return err
}

func (z *zstandards) writer(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(z.level), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
}
