package guard

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// reluctant is a client that takes in what a test lets it.
type reluctant struct {
	http.ResponseWriter
	room chan int // pieces
	late chan struct{}
	got  strings.Builder
}

func (r *reluctant) Write(p []byte) (int, error) {
	select {
	case <-r.late:
		return 0, os.ErrDeadlineExceeded
	case <-r.room:
		return r.got.Write(p)
	}
}

func (r *reluctant) FlushError() error { return nil }

func (r *reluctant) SetWriteDeadline(time.Time) error {
	close(r.late)
	return nil
}

// TestFollower: a client may be away while it has little to take in. If it is far behind, it must catch up.
func TestFollower(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", maxBehind/2)
	begin := func() (*reluctant, *follower) {
		w := &reluctant{room: make(chan int), late: make(chan struct{})}
		return w, (&call{Guard: &Guard{patience: time.Minute}, w: w}).follower()
	}
	write := func(t *testing.T, f *follower, n int) (err error) {
		t.Helper()
		for range n {
			if _, werr := f.Write([]byte(text)); err == nil {
				err = werr
			}
			synctest.Wait()
		}
		return err
	}
	synctest.Test(t, func(t *testing.T) {
		w, f := begin()
		began := time.Now()
		if err := write(t, f, 3); err != nil || !time.Now().Equal(began) {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		time.Sleep(24 * time.Hour)
		go close(w.room)
		f.end()
		if w.got.Len() != 3*len(text) || !f.behind.IsZero() {
			t.Errorf("it got %d bytes", w.got.Len())
		}
	})
	for _, c := range []struct {
		what string
		take func(w *reluctant)
		cut  bool
	}{
		{"nothing", func(*reluctant) {}, true},
		{"a little now and then", func(w *reluctant) {
			for {
				time.Sleep(6 * time.Second)
				select {
				case w.room <- 1:
				case <-w.late:
					return
				}
			}
		}, true},
		{"all, in time", func(w *reluctant) {
			time.Sleep(9 * time.Second)
			close(w.room)
		}, false},
		{"all, each time", func(w *reluctant) {
			for range 3 {
				time.Sleep(9 * time.Second)
				for range 3 { // what was held comes at once
					w.room <- 1
				}
				time.Sleep(time.Second / 2)
			}
		}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, f := begin()
			go c.take(w)
			var err error
			for range 3 { // one is on its way then, two are held, and one waits
				err = errors.Join(err, write(t, f, 4))
				time.Sleep(time.Second / 2)
			}
			f.end()
			if c.cut != errors.Is(err, errBehind) || !c.cut && (err != nil || w.got.Len() != 12*len(text)) {
				t.Errorf("%s: %v, after %d bytes", c.what, err, w.got.Len())
			}
			time.Sleep(time.Hour)
			select {
			case <-w.late:
				if !c.cut {
					t.Errorf("%s: it was cut later", c.what)
				}
			default:
			}
		})
	}
}
