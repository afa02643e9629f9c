package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/slipway-ci/slipway/internal/archive"
)

// treeSize is how much each tree holds, in bytes; smallFile is one of its small files.
const (
	treeSize  = 1 << 30
	smallFile = 20 << 10
)

// archives measures how artifacts and caches are packed and unpacked, beside the usual programs on the same files.
func archives(ctx context.Context, runs int, t *table) error {
	for _, program := range []string{"zip", "unzip", "tar", "gzip"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: apt-get install zip unzip", err)
		}
	}
	for _, kind := range []string{"small files", "one file"} {
		if err := archivesOf(ctx, kind, runs, t); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

// trees is a folder with the files, the archives made of it, and where they are unpacked.
type trees struct {
	dir   string
	root  *os.Root
	names []string
}

func archivesOf(ctx context.Context, kind string, runs int, t *table) (err error) {
	dir, err := os.MkdirTemp("", "slipway-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &trees{dir: dir}
	if err := b.fill(ctx, kind == "one file"); err != nil {
		return err
	}
	defer b.root.Close()
	for _, row := range []struct {
		name, goal string
		ours       func() error
		theirs     []string
	}{
		{"artifacts, 1 GiB of " + kind + ": zip", "≤ 1× zip -1", func() error { return b.pack(ctx, "ours.zip", "fastest", archive.Contents.WriteZip) }, []string{"zip", "-1", "-q", "-r", "../theirs.zip", "."}},
		{"unzip", "≤ 1× unzip", func() error { return b.unpack(ctx, "theirs.zip") }, []string{"unzip", "-q", "../theirs.zip", "-d", "../theirs"}},
		{"cache: save", "", func() error { return b.pack(ctx, "cache.zip", "", archive.Contents.WriteFastZip) }, []string{"tar", "czf", "../theirs.tar.gz", "."}},
		{"cache: restore", "≤ 0.33× tar xzf", func() error { return b.unpack(ctx, "cache.zip") }, []string{"tar", "xzf", "../theirs.tar.gz", "-C", "../theirs"}},
	} {
		var p pair
		for range runs {
			if err := b.clear(); err != nil {
				return err
			}
			if row.theirs[0] == "zip" { // which adds to an archive that is there
				_ = os.Remove(filepath.Join(dir, "theirs.zip"))
			}
			began := time.Now()
			cmd := exec.CommandContext(ctx, row.theirs[0], row.theirs[1:]...)
			cmd.Dir = filepath.Join(dir, "files")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", row.theirs[0], err, out)
			}
			p.minimum = append(p.minimum, time.Since(began))
			began = time.Now()
			if err := row.ours(); err != nil {
				return err
			}
			p.ours = append(p.ours, time.Since(began))
		}
		t.pair(row.name, p, row.goal)
	}
	return nil
}

// clear empties the folders that archives are unpacked into.
func (b *trees) clear() error {
	var failed []error
	for _, name := range []string{"ours", "theirs"} {
		to := filepath.Join(b.dir, name)
		failed = append(failed, os.RemoveAll(to), os.Mkdir(to, 0o755))
	}
	return errors.Join(failed...)
}

// fill makes files of which half can be compressed.
func (b *trees) fill(ctx context.Context, one bool) (err error) {
	files := filepath.Join(b.dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		return err
	}
	size, n := smallFile, treeSize/smallFile
	if one {
		size, n = treeSize, 1
	}
	random, text := rand.NewChaCha8([32]byte{1}), bytes.Repeat([]byte("func main() { fmt.Println(\"hello\") } // "), smallFile/80)
	block := make([]byte, smallFile)
	for i := range n {
		sub := filepath.Join(files, fmt.Sprint(i%500))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(sub, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		for written := 0; written < size; written += len(block) {
			_, _ = random.Read(block) // never fails
			copy(block, text)
			if _, err := f.Write(block); err != nil {
				return errors.Join(err, f.Close())
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	if b.root, err = os.OpenRoot(files); err != nil {
		return err
	}
	found, err := archive.Find(ctx, b.root, archive.Selection{Paths: []string{"."}})
	if err != nil {
		return err
	}
	b.names = found.Names
	return nil
}

func (b *trees) pack(ctx context.Context, name string, level archive.Level, write func(archive.Contents, context.Context, io.Writer) (archive.Summary, error)) error {
	f, err := os.Create(filepath.Join(b.dir, name))
	if err != nil {
		return err
	}
	_, err = write(archive.Contents{Root: b.root, Names: b.names, Level: level}, ctx, f)
	return errors.Join(err, f.Close())
}

func (b *trees) unpack(ctx context.Context, name string) error {
	f, err := os.Open(filepath.Join(b.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	to, err := os.OpenRoot(filepath.Join(b.dir, "ours"))
	if err != nil {
		return err
	}
	defer to.Close()
	_, err = archive.Unzip(ctx, to, f, info.Size(), archive.Options{})
	return err
}
