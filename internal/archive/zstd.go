package archive

import (
	"bytes"
	"context"
	"io"
	"os"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// zstandards compress with zstd: faster than deflate, both ways.
type zstandards struct {
	level   zstd.EncoderLevel
	encoder *zstd.Encoder // for small files; safe for concurrent use
}

// WriteFastZip is WriteZip with zstd in place of deflate. GitLab's own runner reads such archives too; few other programs do.
func WriteFastZip(ctx context.Context, w io.Writer, root *os.Root, names []string, level Level, progress func(n int64)) (Summary, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level.zstd()), zstd.WithEncoderCRC(false)) // the archive has sums
	if err != nil {
		return Summary{}, err
	}
	defer encoder.Close()
	return writeZip(ctx, w, root, names, &zstandards{level.zstd(), encoder}, nil, progress)
}

func (z *zstandards) id() uint16 { return zstd.ZipMethodWinZip }

func (z *zstandards) compress(out *bytes.Buffer, data, _ []byte, _ bool) error {
	_, err := out.Write(z.encoder.EncodeAll(data, out.AvailableBuffer()))
	return err
}

func (z *zstandards) writer(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(z.level), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
}
