package guard

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// How long a client may keep a place waiting that other jobs need, too: a minute, and more for what it sends.
const (
	clientPatience = time.Minute
	patienceFor    = 4 << 10 // bytes that are worth another second
)

// pacedBody is the body of a client that may not take all the time of the world. Only the time counts in which nothing is
// there to be read.
type pacedBody struct {
	body io.Reader
	conn *http.ResponseController
	left time.Duration
	most time.Duration
}

// paced reads the call's body. An Engine of today takes in one archive of images after the other, whoever sends them.
func (c *call) paced() io.Reader {
	return &pacedBody{body: c.r.Body, conn: http.NewResponseController(c.w), left: c.patience, most: c.patience}
}

func (p *pacedBody) Read(b []byte) (int, error) {
	began := time.Now()
	if err := p.conn.SetReadDeadline(began.Add(p.left)); err != nil {
		return 0, err
	}
	n, err := p.body.Read(b)
	p.left = min(p.left-time.Since(began)+time.Duration(n)*time.Second/patienceFor, p.most)
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
