package archive

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// unfinished begins the name of a file that is being written.
const unfinished = "new-"

// Store keeps archives by key in a folder of the host that no job can write to. It is safe for concurrent use, by several
// processes too: an archive is replaced as a whole.
type Store struct{ Dir string }

func (s Store) path(project, key string) string {
	sum := sha256.Sum256([]byte(key)) // a key may be no file name
	return filepath.Join(s.Dir, project, hex.EncodeToString(sum[:])+".zip")
}

// Stored is an archive of a store, opened for reading.
type Stored struct {
	*os.File
	Size int64  // bytes of the archive, which the file begins with
	Tag  string // what was said of it when it was put there
}

// Open opens the archive of a key, and notes that it was used. The error is fs.ErrNotExist if there is none.
func (s Store) Open(project, key string) (a *Stored, err error) {
	name := s.path(project, key)
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	// Evict leaves it while it is read. The lock ends with the file.
	if err := flock(f, unix.LOCK_SH); err != nil {
		return nil, fmt.Errorf("lock a cache file: %w", err)
	}
	a = &Stored{File: f}
	if a.Tag, a.Size, err = readTag(f); err != nil {
		return nil, err
	}
	now := time.Now()
	if err := os.Chtimes(name, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) { // a neighbour may have replaced it
		return nil, err
	}
	return a, nil
}

// Put keeps what write writes to a file under a key, with the tag that it returns, if it succeeds. It returns the archive's size
// in bytes.
func (s Store) Put(project, key string, write func(f *os.File) (tag string, err error)) (size int64, err error) {
	name := s.path(project, key)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return 0, fmt.Errorf("make the cache folder: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), unfinished)
	if err != nil {
		return 0, fmt.Errorf("make a cache file: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	tag, err := write(f)
	if err != nil {
		return 0, err
	}
	if size, err = f.Seek(0, io.SeekEnd); err != nil {
		return 0, err
	}
	if err := writeTag(f, tag); err != nil {
		return 0, fmt.Errorf("write a cache file: %w", err)
	}
	if err := f.Close(); err != nil {
		return 0, fmt.Errorf("write a cache file: %w", err)
	}
	putting, err := lockFolder(filepath.Dir(name), unix.LOCK_SH)
	if err != nil {
		return 0, fmt.Errorf("keep a cache file: %w", err)
	}
	defer putting.Close()
	if err := os.Rename(f.Name(), name); err != nil {
		return 0, fmt.Errorf("keep a cache file: %w", err)
	}
	return size, nil
}

// Remove removes the archive of a key, if there is one.
func (s Store) Remove(project, key string) error {
	if err := os.Remove(s.path(project, key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a cache file: %w", err)
	}
	return nil
}

// tagMark ends a file that has a tag: the archive, the tag, its length in two bytes, the mark. So both are replaced at once. No
// archive of ours ends so; one from elsewhere has a tag behind it.
const tagMark = "slipway tag\n"

const tagEnd = 2 + len(tagMark)

func writeTag(w io.Writer, tag string) error {
	if tag == "" || len(tag) > math.MaxUint16 {
		return nil
	}
	_, err := w.Write(append(binary.LittleEndian.AppendUint16([]byte(tag), uint16(len(tag))), tagMark...))
	return err
}

// readTag returns a file's tag, if it has one, and the size of what is before it.
func readTag(f *os.File) (tag string, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	size = info.Size()
	if size < int64(tagEnd) {
		return "", size, nil
	}
	end := make([]byte, tagEnd)
	if _, err := f.ReadAt(end, size-int64(tagEnd)); err != nil {
		return "", 0, err
	}
	length := int(binary.LittleEndian.Uint16(end))
	if string(end[2:]) != tagMark || int64(length+tagEnd) > size {
		return "", size, nil
	}
	text := make([]byte, length)
	size -= int64(length + tagEnd)
	_, err = f.ReadAt(text, size)
	return string(text), size, err
}

// Expire removes the archives that were not used for so long, and what a killed process left.
func (s Store) Expire(unused time.Duration) error {
	files, err := filepath.Glob(filepath.Join(s.Dir, "*", "*"))
	if err != nil {
		return err
	}
	var failed []error
	for _, name := range files {
		_, err := removeIf(name, func(at fs.FileInfo) bool { return time.Since(at.ModTime()) > unused })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
