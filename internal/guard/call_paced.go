package guard

import (
	"errors"
	"io"
	"net/http"
	"os"
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
