package archive

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// defective is a compressor, and a file, with a defect.
type defective struct{ method }

func (defective) id() uint16 { return 0 }

func (defective) compress(*bytes.Buffer, []byte, []byte, bool) error { panic("defect") }

func (defective) Read([]byte) (int, error) { panic("defect") }

// TestDefects: what is wrong with one file is an error of its archive.
func TestDefects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "small"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := (Contents{Root: root, Names: []string{"small", "small"}}).writeZip(t.Context(), io.Discard, &defective{}); !errors.As(err, new(*mishap.Error)) {
		t.Error(err)
	}
	ahead := prefetch(defective{})
	if _, err := io.ReadAll(ahead); !errors.As(err, new(*mishap.Error)) {
		t.Error(err)
	}
	if err := ahead.Close(); err != nil {
		t.Error(err)
	}
	if err := (&deflaters{level: 1}).compress(nil, []byte("text"), nil, true); !errors.As(err, new(*mishap.Error)) {
		t.Error(err)
	}
	if err := (&unpacker{}).filesOf(t.Context(), "", nil); !errors.As(err, new(*mishap.Error)) {
		t.Error(err)
	}
}
