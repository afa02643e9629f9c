package lfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Store is a folder of files, each under its hash. Several processes may use it at once.
type Store struct{ Dir string }

func (s Store) path(p Pointer) string { return filepath.Join(s.Dir, p.OID[:2], p.OID[2:4], p.OID) }

// Has reports whether the file is there.
func (s Store) Has(p Pointer) bool {
	info, err := os.Lstat(s.path(p))
	return err == nil && info.Mode().IsRegular() && info.Size() == p.Size
}

// Open opens a file to read it, and notes that it was used.
func (s Store) Open(p Pointer) (*os.File, error) {
	f, err := os.Open(s.path(p))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return f, os.Chtimes(s.path(p), now, now)
}

var errOther = errors.New("it is not the file that the pointer means")

// add takes a file in, if it is the one that p means.
func (s Store) add(p Pointer, r io.Reader) (err error) {
	dir := filepath.Dir(s.path(p))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), io.LimitReader(r, p.Size+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if n != p.Size || hex.EncodeToString(hash.Sum(nil)) != p.OID {
		return errOther
	}
	return os.Rename(f.Name(), s.path(p))
}

// temporary are the names of files that are not complete.
const temporary = ".tmp-*"

// Prune removes what was not used for so long. Nobody may use the store meanwhile.
func (s Store) Prune(ctx context.Context, unused time.Duration) error {
	err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return errors.Join(err, ctx.Err())
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if time.Since(info.ModTime()) > unused {
			return os.Remove(path)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove unused files of Git LFS: %w", err)
	}
	return nil
}
