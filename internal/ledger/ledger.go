// Package ledger is the record, on disk, of whose the images of an Engine are. All guards of an Engine and the runner
// share it, in one process or in several: whoever gives an image a name records that before the Engine is asked.
// So a name that is not in the record is the operator's: it was there before the record, or was made past it by who
// has the Engine's own socket. Such names are for all to read and for none to change.
//
// The package knows names, IDs and scopes; it knows neither jobs nor the Engine, whose few calls it is given.
package ledger

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is what is known of one name of the Engine's.
type Entry struct {
	Name string `json:"name"` // canonical: docker.io/library/alpine:3
	// Scope owns the name, which lies below Host; Written is the name as the scope's jobs know it, canonical.
	Scope   string `json:"scope,omitempty"`
	Written string `json:"written,omitempty"`
	// Pulled says that the scope's own name was pulled, and that its registry may have a newer image.
	Pulled bool `json:"pulled,omitempty"`
	// Temporary names are a scope's for a moment; no job sees them.
	Temporary bool `json:"temporary,omitempty"`
	// Shared temporary names are not one job's: see Share.
	Shared bool `json:"shared,omitempty"`
	// Public names were pulled without credentials: what the Engine has under them is for all to read.
	Public bool `json:"public,omitempty"`
	// Readers are the scopes that pulled the name with credentials or wrote it below the own path of their project, with
	// the image that they got or wrote. That the Engine gives the name to another image later is not for them to see.
	Readers map[string]string `json:"readers,omitempty"`
	// Operator marks a name of the operator's that is in the record only because of its Change.
	Operator bool      `json:"operator,omitempty"`
	Change   *Pending  `json:"change,omitempty"`
	Used     time.Time `json:"used,omitzero"`
	Gone     bool      `json:"gone,omitempty"`
}

// Pending says that the Engine is asked to give the name to another image. If that is never completed, the image with
// ID gets the name back.
type Pending struct {
	ID string `json:"id,omitempty"` // of the image that had the name before, "" = none
}

// Ledger is an open record. It is safe for concurrent use.
type Ledger struct {
	dir  string
	lock *os.File

	mu      sync.Mutex
	file    *os.File
	offset  int64 // up to where the file was read
	lines   int
	entries map[string]*known
	seq     uint64 // counts the lines read by this process
	dropped uint64 // seq of the last name that became the operator's
}

type known struct {
	Entry
	seq uint64
}

const fileName = "images.jsonl"

// Open opens the record in a folder, which is made if it is not there. Nobody but root and the runner may write to it.
func Open(dir string) (*Ledger, error) {
	if err := os.MkdirAll(filepath.Join(dir, "locks"), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the ledger: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the ledger's lock: %w", err)
	}
	l := &Ledger{dir: dir, lock: lock}
	if err := l.change(func(tx *transaction) error { return nil }); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Folder is the folder of an Engine's record among those of all Engines. Nothing of one is true of another.
func Folder(dir, engineID string) string {
	sum := sha256.Sum256([]byte(engineID))
	return filepath.Join(dir, hex.EncodeToString(sum[:8]))
}

// Dir is the folder of the record.
func (l *Ledger) Dir() string { return l.dir }

// Close closes the files.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.file != nil {
		err = l.file.Close()
	}
	return errors.Join(err, l.lock.Close())
}

// refresh reads what was written since, by whichever process. It needs no lock between processes: a line counts when
// it is whole.
func (l *Ledger) refresh() error {
	if err := l.reopen(); err != nil {
		return err
	}
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	if info.Size() <= l.offset {
		return nil
	}
	r := bufio.NewReader(io.NewSectionReader(l.file, l.offset, info.Size()-l.offset))
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return nil // what is left is being written, or its writer died: see change
		}
		if err != nil {
			return fmt.Errorf("read the ledger: %w", err)
		}
		if err := l.apply(line); err != nil {
			return err
		}
		l.offset += int64(len(line))
	}
}

func (l *Ledger) apply(line []byte) error {
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil || e.Name == "" {
		// Nothing may be believed of a record with holes: a private name would look like the operator's.
		return fmt.Errorf("the ledger %s is damaged at line %d; restore it, or remove it and all images that jobs made", filepath.Join(l.dir, fileName), l.lines+1)
	}
	l.lines++
	l.seq++
	if e.Gone {
		delete(l.entries, e.Name)
		if !isOwn(e.Name) {
			l.dropped = l.seq
		}
		return nil
	}
	l.entries[e.Name] = &known{Entry: e, seq: l.seq}
	return nil
}

// reopen follows a compaction by another process.
func (l *Ledger) reopen() error {
	if l.lock == nil {
		return errors.New("the ledger is not open")
	}
	path := filepath.Join(l.dir, fileName)
	var now, have unix.Stat_t
	err := unix.Stat(path, &now)
	switch {
	case err != nil && (l.file != nil || !errors.Is(err, unix.ENOENT)):
		return fmt.Errorf("read the ledger: %w", err) // one that vanished must not look like an empty one
	case err == nil && l.file != nil:
		if err := unix.Fstat(int(l.file.Fd()), &have); err == nil && have.Ino == now.Ino && have.Dev == now.Dev {
			return nil
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the ledger: %w", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.offset, l.lines, l.entries = f, 0, 0, map[string]*known{}
	l.seq++
	l.dropped = l.seq
	return nil
}

// transaction is a change of the record while all others wait.
type transaction struct {
	l    *Ledger
	out  bytes.Buffer
	sync bool
}

// get returns a copy that may be changed and put.
func (tx *transaction) get(name string) (Entry, bool) {
	k, ok := tx.l.entries[name]
	if !ok {
		return Entry{Name: name}, false
	}
	return k.copy(), true
}

func (k *known) copy() Entry {
	e := k.Entry
	e.Readers = maps.Clone(e.Readers)
	if e.Change != nil {
		c := *e.Change
		e.Change = &c
	}
	return e
}

func (tx *transaction) put(e Entry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode an entry of the ledger: %w", err)
	}
	tx.out.Write(append(data, '\n'))
	tx.sync = true
	return nil
}

func (tx *transaction) drop(name string) error { return tx.put(Entry{Name: name, Gone: true}) }

// change runs f with the record read to its end and locked, and writes what f put, all or nothing of each line.
func (l *Ledger) change(f func(tx *transaction) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lock == nil {
		return errors.New("the ledger is not open")
	}
	if err := flock(l.lock, unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the ledger: %w", err)
	}
	defer func() { _ = flock(l.lock, unix.LOCK_UN) }()
	if err := l.refresh(); err != nil {
		return err
	}
	if err := l.mend(); err != nil {
		return err
	}
	tx := &transaction{l: l}
	if err := f(tx); err != nil {
		return err
	}
	if tx.out.Len() > 0 {
		if _, err := l.file.Write(tx.out.Bytes()); err != nil {
			return errors.Join(fmt.Errorf("write the ledger: %w", err), l.mend())
		}
		if tx.sync {
			if err := l.file.Sync(); err != nil {
				return fmt.Errorf("write the ledger: %w", err)
			}
		}
		if err := l.refresh(); err != nil {
			return err
		}
	}
	return l.compact()
}

// mend cuts off a line whose writer died in the middle: the lock says that nobody is writing it.
func (l *Ledger) mend() error {
	info, err := l.file.Stat()
	if err == nil && info.Size() > l.offset {
		err = l.file.Truncate(l.offset)
	}
	if err != nil {
		return fmt.Errorf("mend the ledger: %w", err)
	}
	return nil
}

// spareLines is how many lines the file may have beyond twice what is needed.
const spareLines = 1000

// compact writes the record anew, without what is outdated. Others notice that the file is another one.
func (l *Ledger) compact() error {
	if l.lines <= 2*len(l.entries)+spareLines {
		return nil
	}
	path := filepath.Join(l.dir, fileName)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("compact the ledger: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for _, k := range l.entries {
		if err := enc.Encode(k.Entry); err != nil {
			return fmt.Errorf("compact the ledger: %w", err)
		}
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return fmt.Errorf("compact the ledger: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("compact the ledger: %w", err)
	}
	if d, err := os.Open(l.dir); err == nil {
		_ = d.Sync() // the old file is as good if this does not last
		d.Close()
	}
	return l.refresh()
}

// flock goes on where a signal interrupts it.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
