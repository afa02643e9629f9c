package archive

import (
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

// Store keeps archives by key in a folder of the host that no job can write to. It is safe for concurrent use, by several
// processes too: an archive is replaced as a whole.
type Store struct{ Dir string }

func (s Store) path(project, key string) string {
	sum := sha256.Sum256([]byte(key)) // a key may be no file name
	return filepath.Join(s.Dir, project, hex.EncodeToString(sum[:])+".zip")
}

// Open opens the archive of a key, and notes that it was used. The error is fs.ErrNotExist if there is none.
func (s Store) Open(project, key string) (f *os.File, size int64, err error) {
	name := s.path(project, key)
	if f, err = os.Open(name); err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	now := time.Now()
	if err := os.Chtimes(name, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) { // a neighbour may have replaced it
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// Put keeps what write writes under a key, if write succeeds. It returns the archive's size in bytes.
func (s Store) Put(project, key string, write func(w io.Writer) error) (size int64, err error) {
	name := s.path(project, key)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return 0, fmt.Errorf("make the cache folder: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "new-")
	if err != nil {
		return 0, fmt.Errorf("make a cache file: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return 0, err
	}
	if size, err = f.Seek(0, io.SeekEnd); err != nil {
		return 0, err
	}
	if err := f.Close(); err != nil {
		return 0, fmt.Errorf("write a cache file: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return 0, fmt.Errorf("keep a cache file: %w", err)
	}
	return size, nil
}

// Expire removes the archives that were not used for so long, and what a killed process left.
func (s Store) Expire(unused time.Duration) error {
	files, err := filepath.Glob(filepath.Join(s.Dir, "*", "*"))
	if err != nil {
		return err
	}
	var failed []error
	for _, name := range files {
		info, err := os.Lstat(name)
		if err == nil && time.Since(info.ModTime()) > unused {
			err = os.Remove(name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
