// Package tartest writes archives by hand, for tests.
package tartest

import (
	"archive/tar"
	"cmp"
	"io"
	"strings"
	"testing"
)

// File is an entry of an archive.
type File struct {
	Name, Content string
	Kind          byte // 0 = a plain file
	Link          string
	Header        *tar.Header // what else there is to say of it; may be nil
}

// Of is an archive of these files.
func Of(t testing.TB, files ...File) string {
	t.Helper()
	var b strings.Builder
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := tar.Header{}
		if f.Header != nil {
			h = *f.Header
		}
		h.Name, h.Linkname, h.Size = cmp.Or(f.Name, h.Name), cmp.Or(f.Link, h.Linkname), int64(len(f.Content))
		if h.Typeflag = cmp.Or(f.Kind, h.Typeflag); h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = cmp.Or(h.Mode, 0o644)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
