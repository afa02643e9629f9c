package guard

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/rawconn"
	"github.com/slipway-ci/slipway/internal/tarball"
	"github.com/slipway-ci/slipway/internal/wire"
)

// talkBuffer is the size of the buffers of all streams but archives, of which a job may have hundreds open.
const talkBuffer = 16 << 10

var talkBuffers = sync.Pool{New: func() any { b := make([]byte, talkBuffer); return &b }}

// kept are the Engine's headers that a client gets to see.
var kept = []string{"Content-Type", "X-Docker-Container-Path-Stat", "Builder-Version"}

// forward sends a request of ours to the Engine and relays the answer as it comes.
func (c *call) forward(method, path string, query url.Values, body any) error {
	resp, err := c.engine.do(c.ctx, method, path, query, nil, body)
	if err != nil {
		return err
	}
	return c.relay(resp)
}

// relay answers with what the Engine answered, chunk by chunk, with our names taken out of errors.
func (c *call) relay(resp *http.Response) error {
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return c.written(readError(resp))
	}
	c.head(resp)
	return c.copyOut(resp.Body, resp.Header.Get("Content-Type") == "application/x-tar")
}

// head sends the head of the Engine's answer.
func (c *call) head(resp *http.Response) {
	c.setHeaders()
	for _, k := range kept {
		if v := resp.Header.Values(k); len(v) > 0 {
			c.w.Header()[k] = v
		}
	}
	if resp.ContentLength >= 0 && resp.StatusCode >= 200 && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusNotModified {
		c.w.Header().Set("Content-Length", fmt.Sprint(resp.ContentLength))
	}
	c.w.WriteHeader(resp.StatusCode)
	_ = http.NewResponseController(c.w).Flush() // events, wait and logs answer long before they say anything
}

// copyOut streams a body to the client. Each piece goes on as it comes, but for archives: nobody reads those as they grow, and big
// pieces are faster.
func (c *call) copyOut(body io.Reader, archive bool) error {
	flush := http.NewResponseController(c.w)
	pool, out := &talkBuffers, func(p []byte) (int, error) {
		n, err := c.w.Write(p)
		_ = flush.Flush()
		return n, err
	}
	if archive {
		pool, out = &tarball.Buffers, c.pacedAnswer().Write // other jobs may wait for the Engine's end of it: archivePut
	}
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	for {
		n, err := body.Read(*buf)
		for archive && err == nil && n < len(*buf) {
			var more int
			more, err = body.Read((*buf)[n:])
			n += more
		}
		if n > 0 {
			if _, werr := out((*buf)[:n]); werr != nil {
				return fmt.Errorf("%w: %w", errAnswered, werr)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			// The client must not take a cut answer for a whole one.
			panic(http.ErrAbortHandler)
		}
	}
}

// written shows what the Engine says of an error as it would say it to the job: with the names and paths that the job
// knows.
func (c *call) written(err error) error {
	var a *apiError
	if !errors.As(err, &a) {
		return err
	}
	message := c.unprefix(c.hideFolderVolumes(a.Message))
	if c.id != "" {
		message = strings.ReplaceAll(message, c.id, c.ref)
	}
	return &apiError{a.Status, c.hidePaths(message)}
}

// hidePaths replaces paths of the machine in a message: by where the job has them, or by nothing.
func (g *Guard) hidePaths(message string) string {
	message = strings.ReplaceAll(message, g.Socket(), "/var/run/docker.sock")
	byLength := slices.SortedFunc(slices.Values(g.policy.Mounts), func(a, b Mount) int { return len(b.Source) - len(a.Source) })
	for _, m := range byLength {
		if len(m.Source) > 1 {
			message = strings.ReplaceAll(message, m.Source, m.Destination)
		}
	}
	return strings.ReplaceAll(message, g.dir, "(slipway)")
}

// forwardJSON asks for a document, lets edit change it and answers with it. The document is an any of encoding/json, with
// json.Number for numbers, so that fields of every version of the Engine are kept.
func (c *call) forwardJSON(method, path string, query url.Values, body any, edit func(doc any) (any, error)) error {
	resp, err := c.engine.do(c.ctx, method, path, query, nil, body)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	if resp.StatusCode >= http.StatusBadRequest {
		return c.written(readError(resp))
	}
	dec := json.NewDecoder(resp.Body)
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return fmt.Errorf("read the Engine's answer: %w", err)
	}
	if edit != nil {
		if doc, err = edit(doc); err != nil {
			return err
		}
	}
	c.json(resp.StatusCode, doc)
	return nil
}

// forwardStream relays a stream of JSON documents, one per line; edit changes each, and says whether the client sees it.
func (c *call) forwardStream(path string, q url.Values, edit func(doc map[string]any) bool) error {
	// Since 28 the Engine has several forms of streams to offer.
	resp, err := c.engine.do(c.ctx, http.MethodGet, path, q, http.Header{"Accept": {"application/json"}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return c.written(readError(resp))
	}
	c.setHeaders()
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(resp.StatusCode)
	_ = http.NewResponseController(c.w).Flush()
	// An Engine that cannot get rid of an event waits a moment with each that follows, whosever it is.
	out := c.follower()
	defer out.end()
	dec := json.NewDecoder(resp.Body)
	dec.UseNumber()
	for {
		var doc map[string]any
		if err := dec.Decode(&doc); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			panic(http.ErrAbortHandler) // the client must not take a cut stream for a whole one
		}
		if !edit(doc) {
			continue
		}
		data, err := json.Marshal(doc)
		if err != nil {
			return fmt.Errorf("%w: %w", errAnswered, err)
		}
		if _, err := out.Write(append(data, '\n')); err != nil {
			return fmt.Errorf("%w: %w", errAnswered, err)
		}
	}
}

// unprefix shows a name of ours as the job wrote it.
func (g *Guard) unprefix(s string) string { return strings.ReplaceAll(s, g.policy.prefix(), "") }

// unprefixAll does the same with every string and key of a document.
func (g *Guard) unprefixAll(doc any) any {
	switch v := doc.(type) {
	case string:
		return g.unprefix(v)
	case []any:
		for i := range v {
			v[i] = g.unprefixAll(v[i])
		}
	case map[string]any:
		for k, e := range v {
			e = g.unprefixAll(e)
			if short := g.unprefix(k); short != k {
				delete(v, k)
				k = short
			}
			v[k] = e
		}
	}
	return doc
}

// hijack gives the client a raw connection with the Engine. The client's connection turns raw only after the Engine's
// has: a proxy that turns on the request's header alone can be made to pass further requests unseen.
func (c *call) hijack(path string, query url.Values, body any) error {
	const protocol = "tcp" // as docker's clients ask for it
	up, resp, err := c.engine.upgrade(c.ctx, path, query, nil, protocol, body)
	if err != nil {
		return err
	}
	if up == nil {
		return c.relay(resp)
	}
	defer up.Close()
	c.leavePlace() // the body is done with, and the stream may be long
	conn, buffered, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the client's connection: %w", err)
	}
	defer conn.Close()
	stop := c.cutAtEnd(conn, up)
	defer stop()
	contentType := resp.Header.Get("Content-Type")
	if contentType == "" {
		contentType = "application/vnd.docker.raw-stream"
	}
	if wantsUpgrade(c.r, protocol) {
		fmt.Fprintf(buffered, "HTTP/1.1 101 UPGRADED\r\nContent-Type: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\nApi-Version: %s\r\n\r\n", contentType, protocol, c.engine.version)
	} else {
		fmt.Fprintf(buffered, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nApi-Version: %s\r\n\r\n", contentType, c.engine.version)
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	c.pipe(rawconn.New(conn, buffered.Reader), up)
	return nil
}

// cutAtEnd closes raw connections when the guard ends: the server does not know them any more.
func (g *Guard) cutAtEnd(conns ...net.Conn) (stop func()) {
	done := make(chan struct{})
	go func() {
		select {
		case <-g.ctx.Done():
			for _, c := range conns {
				c.Close()
			}
		case <-done:
		}
	}()
	return sync.OnceFunc(func() { close(done) })
}

func wantsUpgrade(r *http.Request, protocol string) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), protocol) && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

// pipe joins two raw connections until the Engine has said its last. The end of the client's input is passed on alone:
// the output of what reads it is still to come.
func (g *Guard) pipe(client, engine *rawconn.Conn) {
	go func() {
		var err error // it is logged, and the connection ends
		defer mishap.Catch(g.log, "the input of a raw connection", &err)
		copyBuffered(engine.Conn, client)
		_ = engine.CloseWrite()
	}()
	copyBuffered(client.Conn, engine)
	_ = client.CloseWrite()
}

func copyBuffered(dst io.Writer, src io.Reader) {
	buf := talkBuffers.Get().(*[]byte)
	defer talkBuffers.Put(buf)
	_, _ = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, *buf) // how it ended shows in the container's state
}

// streamed is what write writes, as a body of a request. end must be called when the Engine has answered, which it may do before
// it has read all; it returns what was wrong with the writing itself.
func (c *call) streamed(write func(w io.Writer) error) (body io.Reader, end func() error) {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		var err error
		defer func() {
			w.CloseWithError(err)
			written <- err
		}()
		defer mishap.Catch(c.log, c.row, &err)
		err = write(w)
	}()
	return r, func() error {
		r.CloseWithError(errCopied)
		err := <-written
		if errors.Is(err, errCopied) || errors.Is(err, io.ErrClosedPipe) {
			return nil
		}
		return archiveError(err)
	}
}

var errCopied = errors.New("the Engine has answered")

// passThrough sends a request that audit mode would have refused, as far as it can be sent whole.
func (c *call) passThrough(path string) error {
	var body any
	if c.r.ContentLength != 0 {
		body = bufio.NewReader(c.r.Body)
	}
	query, err := wire.Query(c.r.URL.RawQuery)
	if err != nil {
		return err
	}
	return c.forward(c.r.Method, path, query, body)
}
