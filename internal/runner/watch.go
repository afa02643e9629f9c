package runner

import (
	"context"
	"os"
	"time"
)

// WatchInterval is how often the configuration file is looked at.
//
// GitLab: the same three seconds.
const WatchInterval = 3 * time.Second

// Watch calls changed each time the file at path is found changed (another file, size or modification time), looking
// every so often until ctx ends. last is what the file was before it was read, so that no change is missed; nil if it
// was not there. A missing file is no change: it may be about to be replaced. What the file says is
// for changed to judge; one that cannot be used should leave things as they are, Watch calls again for the next change.
func Watch(ctx context.Context, path string, last os.FileInfo, every time.Duration, changed func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := os.Stat(path)
		if err != nil || sameFile(last, now) {
			continue
		}
		last = now
		changed()
	}
}

func sameFile(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
