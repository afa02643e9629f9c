package tarball

import (
	"errors"
	"io"
	"testing"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// TestDefectOfADecompressor: what one archive brings about is an error of that archive.
func TestDefectOfADecompressor(t *testing.T) {
	t.Parallel()
	d := newDigester(t.Context(), maxUnpacked)
	d.begun = true
	d.unpack(func(r io.Reader) (io.Reader, error) {
		_, _ = io.ReadFull(r, make([]byte, 3))
		panic("defect")
	})
	for range 3 {
		if n, err := d.Write([]byte("text")); n != 4 || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, inner := d.end(); !errors.As(inner.err, new(*mishap.Error)) || inner.digest != "" {
		t.Errorf("%+v", inner)
	}
}
