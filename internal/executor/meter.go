package executor

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/slipway-ci/slipway/internal/trace"
)

// meterEvery is how often the log tells how far a long transfer is.
const meterEvery = 10 * time.Second

// meter tells the log how far something is that takes long.
type meter struct {
	in, out atomic.Int64 // bytes
	began   time.Time
	end     chan struct{}
	ended   chan struct{}
}

func newMeter(tr *trace.Trace, what string) *meter {
	m := &meter{began: time.Now(), end: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(m.ended)
		tick := time.NewTicker(meterEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				tr.Printf("%s %s so far...", what, size(m.in.Load()))
				tr.Flush()
			case <-m.end:
				return
			}
		}
	}()
	return m
}

// read counts bytes of files.
func (m *meter) read(n int64) { m.in.Add(n) }

// reset begins anew: what was sent must be sent again.
func (m *meter) reset() {
	m.in.Store(0)
	m.out.Store(0)
}

// writer counts what is written.
func (m *meter) writer(w io.Writer) io.Writer { return countWriter{w, &m.out} }

func (m *meter) sent() int64 { return m.out.Load() }

// stop ends the reports and returns how long it took.
func (m *meter) stop() time.Duration {
	close(m.end)
	<-m.ended
	return time.Since(m.began)
}

type countWriter struct {
	io.Writer
	n *atomic.Int64
}

func (w countWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.n.Add(int64(n))
	return n, err
}
