package runner

import (
	"context"
	"os"
	"sync"
	"time"
)

// WatchInterval is how often the configuration file is looked at.
//
// GitLab: the same three seconds.
const WatchInterval = 3 * time.Second

// Watch calls changed each time the file is found changed, looking every so often until ctx ends. What the file says is
// for changed to judge; one that cannot be used should leave things as they are, Watch calls again for the next change.
func Watch(ctx context.Context, file *File, every time.Duration, changed func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if file.Look() {
			changed()
		}
	}
}

// File is a file that is read again when it has changed. Whoever reads it looks first, so that no change is missed and none is
// found twice.
type File struct {
	Path string

	mu   sync.Mutex
	last os.FileInfo // nil = it was not there yet
}

// Look reports whether it is another file than at the last look, or has another size or modification time. A missing file is no
// change: it may be about to be replaced.
func (f *File) Look() (changed bool) {
	now, err := os.Stat(f.Path)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || sameFile(f.last, now) {
		return false
	}
	f.last = now
	return true
}

func sameFile(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
