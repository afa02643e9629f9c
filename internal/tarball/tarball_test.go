package tarball

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
)

// FuzzArchive: what is sent for an archive holds the entries that were read, whatever came.
func FuzzArchive(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "x"}, Format: tar.FormatPAX},
		{Name: strings.Repeat("long/", 40) + "f", Size: 3, Mode: 0o4755, Uid: 7, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "../../etc"},
		{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o700},
	} {
		if err := w.WriteHeader(h); err != nil {
			f.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte("abc"))
		}
	}
	w.Close()
	f.Add(b.Bytes())
	f.Add([]byte("noise"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var sent bytes.Buffer
		if Rewrite(&sent, bytes.NewReader(data), false) != nil {
			return
		}
		in, out := tar.NewReader(bytes.NewReader(data)), tar.NewReader(&sent)
		for {
			want, err := in.Next()
			for err == nil && want.Typeflag == tar.TypeXGlobalHeader {
				want, err = in.Next()
			}
			got, gerr := out.Next()
			if err != nil || gerr != nil {
				if err != gerr {
					t.Errorf("%v, sent %v", err, gerr)
				}
				return
			}
			if want.Name != got.Name || want.Linkname != got.Linkname || want.Mode != got.Mode || want.Uid != got.Uid || want.Size != got.Size {
				t.Errorf("%+v\nbecame %+v", want, got)
			}
			a, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(out); err != nil || !bytes.Equal(a, b) {
				t.Errorf("%q became %q, %v", a, b, err)
			}
		}
	})
}
