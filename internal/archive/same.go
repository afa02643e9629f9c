package archive

import (
	"archive/zip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// Same reports whether a zip archive has exactly the named files, each with the mode, the size and the time (by the second) of
// its last change that it has below root. Contents are not compared.
func Same(r io.ReaderAt, size int64, root *os.Root, names []string) (bool, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return false, fmt.Errorf("read the archive: %w", err)
	}
	if len(z.File) != len(names) {
		return false, nil
	}
	packed := make(map[string]*zip.File, len(z.File))
	for _, f := range z.File {
		packed[strings.TrimSuffix(f.Name, "/")] = f
	}
	for _, name := range names {
		f := packed[name]
		info, err := root.Lstat(name)
		if f == nil || err != nil {
			return false, nil // the packing tells of what cannot be read
		}
		mode := info.Mode()
		if f.Mode() != mode&(fs.ModePerm|fs.ModeType) {
			return false, nil
		}
		if mode.IsRegular() && (f.UncompressedSize64 != uint64(info.Size()) || f.Modified.Unix() != info.ModTime().Unix()) {
			return false, nil
		}
		if mode&fs.ModeSymlink != 0 && !sameLink(f, root, name) {
			return false, nil
		}
	}
	return true, nil
}

func sameLink(f *zip.File, root *os.Root, name string) bool {
	to, err := root.Readlink(name)
	if err != nil {
		return false
	}
	in, err := f.Open()
	if err != nil {
		return false
	}
	defer in.Close()
	packed, err := io.ReadAll(io.LimitReader(in, maxName+1))
	return err == nil && string(packed) == to
}
