package guard

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// hasty is a connection with an Engine that takes a bit of a request, answers, and goes. What it said is heard later than that.
type hasty struct {
	net.Conn
	room         int
	answer       io.Reader
	gone, closed chan struct{}
	close        sync.Once
}

func (h *hasty) Write(p []byte) (int, error) {
	if h.room -= len(p); h.room >= 0 {
		return len(p), nil
	}
	close(h.gone)
	return 0, &net.OpError{Op: "write", Net: "unix", Err: syscall.EPIPE}
}

func (h *hasty) Read(p []byte) (int, error) {
	select {
	case <-h.gone:
		time.Sleep(time.Second)
	case <-h.closed:
	}
	select {
	case <-h.closed:
		return 0, net.ErrClosed
	default:
		return h.answer.Read(p)
	}
}

func (h *hasty) Close() error {
	h.close.Do(func() { close(h.closed) })
	return nil
}

// TestAnsweredUnread: an Engine that answers before it has read what is sent to it, and goes, is heard all the same. One whose request
// breaks is not waited for.
func TestAnsweredUnread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		send := func(ctx context.Context, body io.Reader) (*http.Response, *hasty, error) {
			conn := &hasty{
				room: 1 << 20, answer: strings.NewReader("HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 4\r\n\r\nfull"),
				gone: make(chan struct{}), closed: make(chan struct{}),
			}
			u := &upstream{dial: func(context.Context) (net.Conn, error) { return conn, nil }}
			resp, err := u.doAlone(ctx, http.MethodPost, "/build", nil, body)
			return resp, conn, err
		}
		resp, conn, err := send(t.Context(), io.LimitReader(zeros{}, 2<<20))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusInsufficientStorage || string(text) != "full" || err != nil {
			t.Errorf("%d %q %v", resp.StatusCode, text, err)
		}
		resp.Body.Close()
		<-conn.closed
		if _, _, err := send(t.Context(), iotest.ErrReader(io.ErrNoProgress)); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		// Who asked may go at any time.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := send(ctx, strings.NewReader("short")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		if _, conn, err = send(ctx, io.LimitReader(zeros{}, 2<<20)); err != nil {
			t.Fatal(err)
		}
		cancel()
		<-conn.closed
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
