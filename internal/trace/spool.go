package trace

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// spoolName is the log's file in the job's spool folder.
const spoolName = "trace"

// maxTail is how much the runner may still say when the disk takes nothing more, in bytes.
const maxTail = 64 << 10

// spool keeps the log as it is sent: on disk, and in memory what the runner says after the disk failed. Then the
// job's own output is dropped; size and checksum are always those of what is kept. Safe for concurrent use.
type spool struct {
	log  *slog.Logger
	file *os.File

	mu   sync.Mutex
	size int64  // bytes kept
	sum  uint32 // CRC-32 (IEEE) of them
	last byte
	err  error  // why the disk takes no more
	tail []byte // what follows the file's bytes
}

// openSpool opens the log of dir, an interrupted one too.
func openSpool(dir string, log *slog.Logger) (*spool, error) {
	f, err := os.OpenFile(filepath.Join(dir, spoolName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	s := &spool{log: log, file: f}
	if _, err := io.Copy(noting{s}, f); err != nil {
		f.Close()
		return nil, fmt.Errorf("read spool: %w", err)
	}
	return s, nil
}

// noting takes what is already on disk into account.
type noting struct{ *spool }

func (n noting) Write(p []byte) (int, error) {
	n.note(p)
	return len(p), nil
}

func (s *spool) note(p []byte) {
	if len(p) > 0 {
		s.size += int64(len(p))
		s.sum = crc32.Update(s.sum, crc32.IEEETable, p)
		s.last = p[len(p)-1]
	}
}

// job appends what the job printed.
func (s *spool) job(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.store(p)
	}
}

// runner appends what the runner says.
func (s *spool) runner(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		p = p[s.store(p):]
	}
	if len(p) == 0 {
		return
	}
	p = p[:min(len(p), maxTail-len(s.tail))]
	s.tail = append(s.tail, p...)
	s.note(p)
}

// store puts p on disk and returns how much of it is there: at the first error, whole lines only.
func (s *spool) store(p []byte) int {
	n, err := s.file.Write(p)
	if err == nil {
		s.note(p)
		return n
	}
	s.err = err
	s.log.Error("the job's log cannot be stored; what the job prints from here on is lost",
		"file", s.file.Name(), "error", err)
	n = bytes.LastIndexByte(p[:n], '\n') + 1
	s.note(p[:n])
	// What stays on disk must be what was noted: after a crash the file alone says what the log is.
	if err := s.file.Truncate(s.size); err != nil {
		s.log.Error("cut the job's log at its last whole line", "file", s.file.Name(), "error", err)
	}
	if s.size > 0 && s.last != '\n' {
		s.tail = append(s.tail, '\n')
		s.note(s.tail)
	}
	return n
}

// lost is why output is being dropped, nil if it is not.
func (s *spool) lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// sums are the log's length in bytes and its checksum in GitLab's form, "" for an empty log.
func (s *spool) sums() (int64, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size == 0 {
		return 0, ""
	}
	return s.size, fmt.Sprintf("crc32:%08x", s.sum)
}

// read returns up to n bytes of the log from off; none at its end.
func (s *spool) read(off, n int64) ([]byte, error) {
	s.mu.Lock()
	disk, tail := s.size-int64(len(s.tail)), s.tail
	n = min(n, s.size-off)
	s.mu.Unlock()
	if off >= disk {
		return bytes.Clone(tail[off-disk:][:n]), nil
	}
	p := make([]byte, min(n, disk-off))
	if _, err := s.file.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read spool: %w", err)
	}
	return p, nil
}

func (s *spool) close() { s.file.Close() }
