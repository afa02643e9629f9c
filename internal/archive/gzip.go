package archive

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
)

// WriteGzip writes the files to w, each compressed by itself and one after the other, with its path in its header.
// Folders and links are left out.
//
// GitLab: so the server can read a report of several files as one.
func (c Contents) WriteGzip(ctx context.Context, w io.Writer) (Summary, error) {
	return c.eachFile(ctx, func(f *os.File, name string, size int64) (int64, error) {
		z, err := gzip.NewWriterLevel(w, c.Level.flate())
		if err != nil {
			return 0, err
		}
		z.Name = name
		n, err := copyFile(ctx, z, io.LimitReader(f, size), c.Progress)
		if err != nil {
			return n, err
		}
		return n, z.Close()
	})
}

// WriteRaw writes the content of the files to w, one after the other. Folders and links are left out.
func (c Contents) WriteRaw(ctx context.Context, w io.Writer) (Summary, error) {
	return c.eachFile(ctx, func(f *os.File, _ string, size int64) (int64, error) {
		return copyFile(ctx, w, io.LimitReader(f, size), c.Progress)
	})
}

func (c Contents) eachFile(ctx context.Context, do func(f *os.File, name string, size int64) (int64, error)) (sum Summary, err error) {
	for _, name := range c.Names {
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		info, err := c.Root.Lstat(name)
		if err == nil && !info.Mode().IsRegular() {
			continue
		}
		f, info, err := open(c.Root, name)
		if isGone(err) {
			sum.Skipped = append(sum.Skipped, err.Error())
			continue
		}
		if err != nil {
			return sum, fmt.Errorf("archive %s: %w", name, err)
		}
		n, err := do(f, name, info.Size())
		f.Close()
		if err != nil {
			return sum, fmt.Errorf("archive %s: %w", name, err)
		}
		sum.Files++
		sum.Bytes += n
	}
	return sum, nil
}
