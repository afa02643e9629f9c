package archive

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkZip and BenchmarkUnzip measure many small files and one large one, for a look at one change; make bench has the
// figures that count.
func BenchmarkZip(b *testing.B) {
	for _, name := range []string{"small", "large"} {
		b.Run(name, func(b *testing.B) {
			root, names, size := benchTree(b, name)
			b.SetBytes(size)
			for b.Loop() {
				if _, err := (Contents{Root: root, Names: names, Level: "fastest"}).WriteZip(b.Context(), io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnzip(b *testing.B) {
	for _, name := range []string{"small", "large", "small-zstd", "large-zstd"} {
		b.Run(name, func(b *testing.B) {
			kind, fast := strings.CutSuffix(name, "-zstd")
			root, names, size := benchTree(b, kind)
			write := Contents.WriteZip
			if fast {
				write = Contents.WriteFastZip
			}
			var packed bytes.Buffer
			if _, err := write(Contents{Root: root, Names: names, Level: "fastest"}, b.Context(), &packed); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			for b.Loop() {
				b.StopTimer()
				to, err := os.OpenRoot(b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if _, err := Unzip(b.Context(), to, bytes.NewReader(packed.Bytes()), int64(packed.Len()), Options{}); err != nil {
					b.Fatal(err)
				}
				to.Close()
			}
		})
	}
}

func benchTree(b *testing.B, kind string) (root *os.Root, names []string, size int64) {
	root, dir := tree(b)
	if kind == "large" {
		big(b, filepath.Join(dir, "large"), 100<<20)
		return root, []string{"large"}, 100 << 20
	}
	for i := range 5000 {
		sub := fmt.Sprint(i % 50)
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			b.Fatal(err)
		}
		names = append(names, filepath.Join(sub, fmt.Sprint(i)))
		big(b, filepath.Join(dir, names[i]), 20<<10)
	}
	return root, names, 5000 * 20 << 10
}
