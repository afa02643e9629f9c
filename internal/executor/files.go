package executor

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/slipway-ci/slipway/internal/job"
)

// writeFiles puts the file variables where the job finds them.
func (p *plan) writeFiles(dir string, a *Account, files []job.Variable) error {
	for _, v := range files {
		if err := p.writeFile(dir, a, v.Key, v.Value); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a new file into a folder that the job may have written to: nothing that lies there is followed,
// opened or kept. It is for the account alone; without one, every user of the container may read it. It belongs to whom the job's other
// files belong to.
func (p *plan) writeFile(dir string, a *Account, name, content string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the job's temporary folder: %w", err)
	}
	defer root.Close()
	if err := root.RemoveAll(name); err != nil {
		return fmt.Errorf("make room for %s: %w", name, err)
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = io.WriteString(f, content)
	mode := fs.FileMode(0o666) // GitLab: umask 0000
	if a != nil {
		mode = 0o600
	}
	if cerr := f.Chmod(mode); err == nil {
		err = cerr
	}
	if o := p.source.request.Owner; o != nil && err == nil {
		err = f.Chown(o.UID, o.GID)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// heldWriter keeps what is written until it is released, then passes everything on: what is done early appears in
// the log in its own section.
type heldWriter struct {
	out io.Writer

	mu       sync.Mutex
	held     bytes.Buffer
	released bool
}

func (h *heldWriter) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		return h.out.Write(p)
	}
	return h.held.Write(p)
}

func (h *heldWriter) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.released = true
	_, _ = h.held.WriteTo(h.out) // the log keeps its own errors
}
