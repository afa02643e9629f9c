package guard

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// How long a client may keep something waiting that other jobs need, too: a minute, and more for what it sends or takes.
const (
	clientPatience = time.Minute
	patienceFor    = 4 << 10 // bytes that are worth another second
)

// pace is how long a client may still keep others waiting. Only the time counts in which nothing goes on.
type pace struct {
	conn       *http.ResponseController
	left, most time.Duration
}

func (c *call) pace() pace { return pace{http.NewResponseController(c.w), c.patience, c.patience} }

// took counts a piece of so many bytes.
func (p *pace) took(d time.Duration, n int) {
	p.left = min(p.left-d+time.Duration(n)*time.Second/patienceFor, p.most)
}

// pacedBody is the body of a client that may not take all the time of the world.
type pacedBody struct {
	pace
	body io.Reader
}

// pacedBody reads the call's body.
func (c *call) pacedBody() io.Reader { return &pacedBody{c.pace(), c.r.Body} }

func (p *pacedBody) Read(b []byte) (int, error) {
	began := time.Now()
	if err := p.conn.SetReadDeadline(began.Add(p.left)); err != nil {
		return 0, err
	}
	n, err := p.body.Read(b)
	p.took(time.Since(began), n)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return n, &apiError{http.StatusRequestTimeout, "slipway: the rest of the archive did not come in time: other jobs are waiting; send it from a file"}
	}
	if err == io.EOF { // the connection may have another call
		if err := p.conn.SetReadDeadline(time.Time{}); err != nil {
			return n, err
		}
	}
	return n, err
}

// pacedAnswer is the answer to such a client, who gets each piece at once.
type pacedAnswer struct {
	pace
	w io.Writer
}

// pacedAnswer writes the call's answer.
func (c *call) pacedAnswer() io.Writer { return &pacedAnswer{c.pace(), c.w} }

func (p *pacedAnswer) Write(b []byte) (int, error) {
	began := time.Now()
	_ = p.conn.SetWriteDeadline(began.Add(p.left)) // none is as good, for clients of good will
	n, err := p.w.Write(b)
	if err == nil {
		err = p.conn.Flush()
	}
	_ = p.conn.SetWriteDeadline(time.Time{})
	p.took(time.Since(began), n)
	return n, err
}

// maxBehind is how many bytes of a stream are kept for a client that does not take them. A job may have hundreds of such clients.
const maxBehind = 256 << 10

var errBehind = errors.New("the client does not keep up")

// follower is a client of a stream with which the Engine keeps up, or others wait. It may be away for as long as it has nothing to take
// in. Once it is far behind, it must catch up in a moment: taking in a little now and then is not enough.
type follower struct {
	w      io.Writer
	conn   *http.ResponseController
	moment time.Duration

	mu      sync.Mutex
	changed *sync.Cond
	held    []byte
	behind  time.Time     // since when it is far behind; zero = it is not
	over    bool          // nothing comes any more
	err     error         // why the client gets no more
	done    chan struct{} // closed when it has all, or gets no more
}

// follower writes the call's answer. end must be called.
func (c *call) follower() *follower {
	f := &follower{w: c.w, conn: http.NewResponseController(c.w), moment: c.patience / 6, done: make(chan struct{})}
	f.changed = sync.NewCond(&f.mu)
	go func() {
		defer close(f.done)
		for next := f.next(); len(next) > 0; next = f.next() {
			_, err := f.w.Write(next)
			if err == nil {
				err = f.conn.Flush()
			}
			if err != nil {
				f.stop(err)
				return
			}
		}
	}()
	return f
}

// next is what the client gets next. Without anything it is over.
func (f *follower) next() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.held) == 0 {
		f.behind = time.Time{}
	}
	for len(f.held) == 0 && !f.over {
		f.changed.Wait()
	}
	next := f.held
	f.held = nil
	f.changed.Broadcast()
	return next
}

func (f *follower) stop(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = cmp.Or(f.err, err)
	f.changed.Broadcast()
}

// Write waits only for a moment. A piece may be larger than all that is kept otherwise.
func (f *follower) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.err == nil && len(f.held) > 0 && len(f.held)+len(p) > maxBehind {
		if f.behind.IsZero() {
			f.behind = time.Now()
			time.AfterFunc(f.moment, f.cut)
		}
		f.changed.Wait()
	}
	if f.err != nil {
		return 0, f.err
	}
	f.held = append(f.held, p...)
	f.changed.Broadcast()
	return len(p), nil
}

// cut ends what is being written, and all that follows.
func (f *follower) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.behind.IsZero() || time.Since(f.behind) < f.moment || f.over { // it has caught up meanwhile
		return
	}
	_ = f.conn.SetWriteDeadline(time.Now()) // none is as good, for clients of good will
	f.err = cmp.Or(f.err, errBehind)
	f.changed.Broadcast()
}

// end waits until the client has all, or has gone: nobody waits for it any more.
func (f *follower) end() {
	f.mu.Lock()
	f.over = true
	f.changed.Broadcast()
	f.mu.Unlock()
	<-f.done
}
