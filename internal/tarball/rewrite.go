package tarball

import (
	"archive/tar"
	"bufio"
	"io"
	"maps"
	"strings"

	"github.com/slipway-ci/slipway/internal/wire"
)

// Rewrite copies an archive entry by entry. devices says whether there may be devices in it.
func Rewrite(w io.Writer, in io.Reader, devices bool) error {
	buffered := bufio.NewWriterSize(&plainWriter{Writer: w}, BufferSize)
	out := tar.NewWriter(buffered)
	err := Each(in, "the archive", func(r *tar.Reader, h *tar.Header, buf []byte) error {
		if h.Typeflag == tar.TypeXGlobalHeader {
			return nil // of git archive; the Engine leaves it out too
		}
		if err := cleanHeader(h, devices); err != nil {
			return err
		}
		if err := out.WriteHeader(h); err != nil {
			return bad("slipway: the archive's entry %q cannot be kept: %v", wire.Printable(h.Name), err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{out}, r, buf); err != nil {
			return copyError(err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return copyError(err)
	}
	if err := buffered.Flush(); err != nil {
		return copyError(err)
	}
	readRest(in)
	return nil
}

// plainWriter refuses an archive that is plain, but begins as if it were compressed: with the name of its first entry.
type plainWriter struct {
	io.Writer
	begun bool
}

func (w *plainWriter) Write(p []byte) (int, error) {
	if name := Compression(p); !w.begun && name != "" {
		return 0, deny("archive-compression", "rename the archive's first file", "the archive begins as if it were compressed with %s", name)
	}
	w.begun = true
	return w.Writer.Write(p)
}

// cleanHeader takes out what only the Engine's root could set, and what the writer cannot write.
func cleanHeader(h *tar.Header, devices bool) error {
	switch h.Typeflag {
	case tar.TypeChar, tar.TypeBlock:
		if devices {
			break
		}
		return deny("archive-device", "leave /dev out of the archive", "the archive has the device %s", wire.Printable(h.Name))
	}
	// A few bytes stand for any size there, which would be written out.
	if Sparse(h) {
		return deny("archive-sparse", "pack it without --sparse", "the archive has the sparse file %s", wire.Printable(h.Name))
	}
	DropTrusted(h)
	if h.Format == tar.FormatUSTAR {
		h.Format = tar.FormatUnknown // a long name may need another
	}
	return nil
}

// Sparse reports a file with holes.
func Sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// DropTrusted takes out the attributes of file systems (overlay's) that a container cannot set itself.
func DropTrusted(h *tar.Header) {
	maps.DeleteFunc(h.PAXRecords, func(k, _ string) bool { return strings.HasPrefix(k, "SCHILY.xattr."+TrustedAttributes) })
	h.Xattrs = nil //lint:ignore SA1019 the reader fills it, and the writer would take the dropped ones from it
}

// TrustedAttributes begin the names of what only the machine's root can set.
const TrustedAttributes = "trusted."
