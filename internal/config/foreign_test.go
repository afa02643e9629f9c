package config

import (
	"os"
	"path/filepath"
	"testing"
)

// TestForeignConfigs loads config.toml files as people have them for GitLab's runner: none has a mistake, or a key that
// nobody knows.
func TestForeignConfigs(t *testing.T) {
	t.Parallel()
	eachConfig(t, "testdata/foreign", func(t *testing.T, file string, src []byte) {
		cfg, warnings, err := Parse(file, src, func(string) string { return "" })
		if err != nil {
			t.Fatal(err)
		}
		if len(cfg.Runners) == 0 {
			t.Error("it has no runner")
		}
		for _, w := range warnings {
			if w.Unknown {
				t.Errorf("a key that GitLab documents is unknown: %s", w)
			}
			if w.Line == 0 {
				t.Errorf("no line: %s", w)
			}
		}
	})
}

// eachConfig tests each of a folder's config.toml files by itself, of which there are at least 15.
func eachConfig(t *testing.T, dir string, test func(t *testing.T, file string, src []byte)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.toml"))
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			test(t, file, src)
		})
	}
}
