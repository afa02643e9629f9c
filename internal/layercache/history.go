package layercache

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// History is the folder where the last builds of a project are remembered, one file for each image. Jobs that build the same
// image at the same time do not disturb each other: the last one stays.
type History struct{ dir string }

// NewHistory takes the builds of one project. The folder is made when there is something to remember.
func NewHistory(dir string) *History { return &History{dir} }

// Unused is how long a build is remembered.
const Unused = 30 * 24 * time.Hour

// maxBuilds bounds what is remembered of a project.
const maxBuilds = 50

// maxRecord bounds a file, in bytes.
const maxRecord = 1 << 20

// maxDecoded bounds what is read out of one.
const maxDecoded = 16 << 20

// working bounds how many records are read or written at once in this process, whoever's they are: it is done in memory.
var working = make(chan struct{}, 2)

// work waits for its turn. end must be called.
func work(ctx context.Context) (end func(), err error) {
	select {
	case working <- struct{}{}:
		return func() { <-working }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Last is the last build of an image, nil if none is known. key may be any name of a file.
func (h *History) Last(ctx context.Context, key string) (*Build, error) {
	end, err := work(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	f, err := os.Open(h.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unzip, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	var b Build
	if err := json.NewDecoder(io.LimitReader(unzip, maxDecoded)).Decode(&b); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return &b, nil
}

// Keep remembers a build as the last one of its image; without its files if they are too many, and not at all if it is still too
// large.
func (h *History) Keep(ctx context.Context, key string, b *Build) error {
	if b.large {
		return nil
	}
	end, err := work(ctx)
	if err != nil {
		return err
	}
	defer end()
	data, err := b.encode()
	if err == nil && len(data) > maxRecord {
		smaller := *b
		smaller.Files = nil
		data, err = smaller.encode()
	}
	if err != nil || len(data) > maxRecord {
		return err
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return err
	}
	return errors.Join(h.write(key, data), h.trim())
}

func (b *Build) encode() ([]byte, error) {
	var out bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed) // the level is a valid one
	err := errors.Join(json.NewEncoder(zip).Encode(b), zip.Close())
	return out.Bytes(), err
}

// unfinished begins the names of what is being written.
const unfinished = ".new-"

// write puts a record in its place at once.
func (h *History) write(key string, data []byte) error {
	f, err := os.CreateTemp(h.dir, unfinished+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), h.path(key))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (h *History) path(key string) string { return filepath.Join(h.dir, key+".json.gz") }

// trim removes what is too much, the oldest first.
func (h *History) trim() error {
	all, err := records(h.dir)
	if err != nil || len(all) <= maxBuilds {
		return err
	}
	slices.SortFunc(all, func(a, b record) int { return cmp.Compare(b.modified.UnixNano(), a.modified.UnixNano()) })
	var failed error
	for _, r := range all[maxBuilds:] {
		failed = errors.Join(failed, r.remove())
	}
	return failed
}

// Expire removes what is remembered of builds that are older than age, in all folders of histories below root.
func Expire(root string, now time.Time, age time.Duration) error {
	folders, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	failed := err
	for _, d := range folders {
		dir := filepath.Join(root, d.Name())
		all, err := records(dir)
		failed = errors.Join(failed, err)
		for _, r := range all {
			if now.Sub(r.modified) > age {
				failed = errors.Join(failed, r.remove())
			}
		}
		_ = os.Remove(dir) // if it is empty now
	}
	return failed
}

// abandonedAfter is when what is being written can be nobody's any more.
const abandonedAfter = time.Hour

// Evict removes what is remembered of builds, the oldest first, in all folders of histories below root, until about so many bytes of
// the disk are free again. It says how many builds and bytes these were.
func Evict(ctx context.Context, root string, need int64) (n int, freed int64, err error) {
	folders, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	failed := err
	var all []record
	for _, d := range folders {
		of, err := records(filepath.Join(root, d.Name()))
		failed = errors.Join(failed, err)
		all = append(all, of...)
	}
	slices.SortFunc(all, func(a, b record) int { return cmp.Or(a.modified.Compare(b.modified), cmp.Compare(a.path, b.path)) })
	for _, r := range all {
		if freed >= need || ctx.Err() != nil {
			break
		}
		if strings.HasPrefix(filepath.Base(r.path), unfinished) && time.Since(r.modified) < abandonedAfter {
			continue
		}
		if err := r.remove(); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		n++
		freed += r.takes
	}
	return n, freed, failed
}

// record is one file of a history.
type record struct {
	path     string
	modified time.Time
	takes    int64 // bytes of the disk
}

func (r record) remove() error {
	if err := os.Remove(r.path); !errors.Is(err, fs.ErrNotExist) { // another job was faster
		return err
	}
	return nil
}

func records(dir string) ([]record, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []record
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // else it is gone
			r := record{path: filepath.Join(dir, e.Name()), modified: info.ModTime(), takes: info.Size()}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				r.takes = st.Blocks * 512
			}
			out = append(out, r)
		}
	}
	return out, nil
}
