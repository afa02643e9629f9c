package guard

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/slipway-ci/slipway/internal/rawconn"
)

// upstream is the Engine as the guard speaks to it: always in one version, with requests made from nothing.
type upstream struct {
	dial      func(ctx context.Context) (net.Conn, error)
	transport *http.Transport
	version   apiVersion // spoken, and the newest that clients may speak
	release   string     // of the Engine: 20.10.24
	platform  string     // that it builds for if nobody says otherwise: linux/amd64
	// containerd says that it keeps images in containerd, and not in a store of its own.
	containerd bool

	mu   sync.Mutex
	info *engineInfo
}

// newUpstream asks the Engine for its versions.
func newUpstream(ctx context.Context, dial func(ctx context.Context) (net.Conn, error)) (*upstream, error) {
	u := &upstream{dial: dial}
	u.transport = &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true,
		MaxIdleConns:       16, MaxIdleConnsPerHost: 16,
		WriteBufferSize: talkBuffer, ReadBufferSize: talkBuffer, // archives are read and written in bigger pieces, past these
	}
	var v struct{ Version, ApiVersion, Os, Arch string }
	if err := u.getJSON(ctx, "/version", nil, &v); err != nil {
		return nil, fmt.Errorf("ask the Engine for its version: %w", err)
	}
	engine, err := parseVersion(v.ApiVersion)
	if err != nil {
		return nil, fmt.Errorf("the Engine's API version %q cannot be read", v.ApiVersion)
	}
	newest, _ := parseVersion(maxAPI)
	if newest.less(engine) {
		engine = newest
	}
	u.version, u.release, u.platform = engine, v.Version, v.Os+"/"+v.Arch
	var info struct{ DriverStatus [][2]string }
	if u.version.atLeast("1.44") {
		if err := u.getJSON(ctx, "/info", nil, &info); err != nil {
			return nil, fmt.Errorf("ask the Engine about itself: %w", err)
		}
	}
	u.containerd = storesInContainerd(info.DriverStatus)
	return u, nil
}

// storesInContainerd reports which of its two stores the Engine has.
func storesInContainerd(driverStatus [][2]string) bool {
	for _, s := range driverStatus {
		if s[0] == "driver-type" && strings.HasPrefix(s[1], "io.containerd.snapshotter") {
			return true
		}
	}
	return false
}

// settings are asked for once.
func (u *upstream) settings(ctx context.Context) (engineInfo, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.info == nil {
		var i engineInfo
		if err := u.getJSON(ctx, "/info", nil, &i); err != nil {
			return engineInfo{}, fmt.Errorf("ask the Engine for its settings: %w", err)
		}
		u.info = &i
	}
	return *u.info, nil
}

func (u *upstream) close() { u.transport.CloseIdleConnections() }

// request makes a request of ours for the Engine. body may be nil, a JSON value, or an io.Reader of contentType.
func (u *upstream) request(ctx context.Context, method, path string, query url.Values, header http.Header, body any) (*http.Request, error) {
	var reader io.Reader
	contentType := ""
	switch b := body.(type) {
	case nil:
	case io.Reader:
		reader, contentType = b, "application/x-tar"
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return nil, fmt.Errorf("encode a request: %w", err)
		}
		reader, contentType = bytes.NewReader(data), "application/json"
	}
	target := &url.URL{Scheme: "http", Host: "engine", Path: path, RawQuery: query.Encode()}
	if u.version != (apiVersion{}) {
		target.Path = "/v" + u.version.String() + path
	}
	r, err := http.NewRequestWithContext(ctx, method, target.String(), reader)
	if err != nil {
		return nil, err
	}
	maps.Copy(r.Header, header)
	r.Header.Set("User-Agent", "slipway-guard")
	// Never left out: without a type of its own, a body could be taken for a form, which wins over the query.
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r, nil
}

// do sends a request. The caller closes the answer's body.
func (u *upstream) do(ctx context.Context, method, path string, query url.Values, header http.Header, body any) (*http.Response, error) {
	r, err := u.request(ctx, method, path, query, header, body)
	if err != nil {
		return nil, err
	}
	resp, err := u.transport.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("ask the Engine: %w", err)
	}
	return resp, nil
}

// getJSON asks for a document.
func (u *upstream) getJSON(ctx context.Context, path string, query url.Values, v any) error {
	return u.callJSON(ctx, http.MethodGet, path, query, nil, v)
}

// callJSON asks for something and decodes the answer into v, if that is not nil. An answer that is an error becomes an
// *apiError with the Engine's words.
func (u *upstream) callJSON(ctx context.Context, method, path string, query url.Values, body, v any) error {
	resp, err := u.do(ctx, method, path, query, nil, body)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	if resp.StatusCode >= http.StatusBadRequest {
		return readError(resp)
	}
	if v == nil {
		return nil
	}
	dec := json.NewDecoder(resp.Body)
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("read the Engine's answer to %s %s: %w", method, path, err)
	}
	return nil
}

// readError is what the Engine says of a call that it does not do.
func readError(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var m struct{ Message string }
	if err := json.Unmarshal(data, &m); err != nil || m.Message == "" {
		m.Message = strings.TrimSpace(string(data))
	}
	return &apiError{resp.StatusCode, m.Message}
}

// drain lets a connection be used again.
func drain(body io.ReadCloser) {
	_, _ = io.Copy(io.Discard, io.LimitReader(body, 64<<10))
	body.Close()
}

// isStatus reports whether the Engine answered with that status.
func isStatus(err error, status int) bool {
	var a *apiError
	return errors.As(err, &a) && a.Status == status
}

// upgrade asks for a raw connection. Without the Engine's 101 there is none, and the answer is returned to be relayed. ctx
// ends the asking only: the caller closes the connection.
func (u *upstream) upgrade(ctx context.Context, path string, query url.Values, header http.Header, protocol string, body any) (*rawconn.Conn, *http.Response, error) {
	r, err := u.request(ctx, http.MethodPost, path, query, header, body)
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", protocol)
	conn, resp, err := u.roundTripAlone(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &aloneBody{resp.Body, conn}
		return nil, resp, nil
	}
	// From here on ctx says nothing: the server ends a request's context at the end of the client's input, which may be
	// long before the end of the output.
	if !conn.stop() {
		conn.Close()
		return nil, nil, context.Cause(ctx)
	}
	return conn.Conn, resp, nil
}

// doAlone is do on a connection of its own, for a body that may come slowly. An Engine that ends, or that answers before it
// has read all, is noticed at once: net/http's transport would tell of it only when the body has ended. The caller closes
// the answer's body.
func (u *upstream) doAlone(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	r, err := u.request(ctx, method, path, query, nil, body)
	if err != nil {
		return nil, err
	}
	conn, resp, err := u.roundTripAlone(ctx, r)
	if err != nil {
		return nil, err
	}
	resp.Body = &aloneBody{resp.Body, conn}
	return resp, nil
}

// aloneConn is a connection with the Engine that one request has for itself.
type aloneConn struct {
	*rawconn.Conn
	stop func() bool // the end of the request's context closes it no more
}

// Close ends it.
func (c *aloneConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// roundTripAlone sends a request on a connection of its own, and reads the head of the answer, while the body is being sent.
func (u *upstream) roundTripAlone(ctx context.Context, r *http.Request) (*aloneConn, *http.Response, error) {
	conn, err := u.dial(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the Engine: %w", err)
	}
	ahead := bufio.NewReaderSize(conn, talkBuffer)
	c := &aloneConn{rawconn.New(conn, ahead), context.AfterFunc(ctx, func() { conn.Close() })}
	go func() {
		to := &taker{Writer: conn}
		w := bufio.NewWriterSize(to, talkBuffer)
		if (r.Write(w) != nil || w.Flush() != nil) && !to.gone {
			conn.Close() // the Engine is not to wait for the rest, nor is anybody for its answer
		}
	}()
	resp, err := http.ReadResponse(ahead, r)
	if err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("read the Engine's answer: %w", cmp.Or(context.Cause(ctx), err))
	}
	return c, resp, nil
}

// taker writes to an Engine, which may go before it has all that is written.
type taker struct {
	io.Writer
	gone bool // or it has answered already; then the answer is still to be read
}

func (t *taker) Write(p []byte) (int, error) {
	n, err := t.Writer.Write(p)
	t.gone = err != nil
	return n, err
}

// aloneBody is the answer's body on such a connection, which ends with it.
type aloneBody struct {
	io.ReadCloser
	conn *aloneConn
}

// Close does not wait for what the Engine may still have to say.
func (b *aloneBody) Close() error {
	b.conn.Close()
	return b.ReadCloser.Close()
}
