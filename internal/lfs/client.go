package lfs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	batchSize = 100 // Git LFS: objects in one call of the batch API
	parallel  = 8   // Git LFS: lfs.concurrenttransfers
	tries     = 3
	idle      = time.Minute // without a byte, after which a download is given up
	// batchTimeout bounds one call of the batch API.
	batchTimeout = 2 * time.Minute
	mediaType    = "application/vnd.git-lfs+json"
	// largestAnswer bounds what is read of an answer of the batch API, in bytes.
	largestAnswer = 4 << 20
)

// Client speaks to the LFS server of one repository.
type Client struct {
	HTTP           *http.Client
	Endpoint       *url.URL // of the API: https://host/group/project.git/info/lfs
	User, Password string   // for the endpoint's server alone; "" = none
	UserAgent      string
}

// StatusError is an answer of the server, or of the place that it sends a client to, other than the file.
type StatusError struct {
	Status  int    // of HTTP
	Message string // the server's own, may be empty
	What    string // that was asked for
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s: %d %s", e.What, e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Fetch brings files into the store, those that it has already left out. With ask, the server is asked for all of them
// nonetheless: it says then whether this client may have them.
func (c *Client) Fetch(ctx context.Context, s Store, want []Pointer, ask bool) error {
	want = slices.Clone(want)
	slices.SortFunc(want, func(a, b Pointer) int { return cmp.Or(cmp.Compare(a.OID, b.OID), cmp.Compare(a.Size, b.Size)) })
	want = slices.Compact(want)
	if !ask {
		want = slices.DeleteFunc(want, s.Has)
	}
	for batch := range slices.Chunk(want, batchSize) {
		var found []object
		err := retry(ctx, func() (err error) {
			found, err = c.batch(ctx, batch)
			return err
		})
		if err != nil {
			return err
		}
		at := map[string]object{}
		for _, o := range found {
			at[o.OID] = o
		}
		for _, p := range batch {
			switch o := at[p.OID]; {
			case o.Error != nil:
				return &StatusError{Status: o.Error.Code, Message: o.Error.Message, What: "object " + p.OID}
			case o.Actions.Download.Href == "":
				return &StatusError{Status: http.StatusNotFound, Message: "the server does not say where it is", What: "object " + p.OID}
			}
		}
		if err := c.downloadAll(ctx, s, batch, at); err != nil {
			return err
		}
	}
	return nil
}

// downloadAll brings what is missing of a batch.
func (c *Client) downloadAll(ctx context.Context, s Store, batch []Pointer, at map[string]object) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, p := range batch {
		if s.Has(p) {
			continue
		}
		g.Go(func() error {
			return retry(ctx, func() error { return c.download(ctx, s, p, at[p.OID]) })
		})
	}
	return g.Wait()
}

// object is what the batch API says of one.
type object struct {
	OID           string `json:"oid"`
	Size          int64  `json:"size"`
	Authenticated bool   `json:"authenticated,omitempty"`
	Actions       struct {
		Download struct {
			Href   string            `json:"href"`
			Header map[string]string `json:"header"`
		} `json:"download"`
	} `json:"actions,omitzero"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// batch asks where files are.
func (c *Client) batch(ctx context.Context, want []Pointer) ([]object, error) {
	var objects []object
	for _, p := range want {
		objects = append(objects, object{OID: p.OID, Size: p.Size})
	}
	body, err := json.Marshal(map[string]any{"operation": "download", "transfers": []string{"basic"}, "hash_algo": "sha256", "objects": objects})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, batchTimeout, fmt.Errorf("no answer for %s", batchTimeout))
	defer cancel()
	at := c.Endpoint.JoinPath("objects/batch")
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", mediaType)
	r.Header.Set("Accept", mediaType)
	resp, err := c.do(r, true)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, largestAnswer))
	if err != nil {
		return nil, &passing{err}
	}
	var answer struct {
		Transfer string   `json:"transfer"`
		Objects  []object `json:"objects"`
		Message  string   `json:"message"`
	}
	err = json.Unmarshal(text, &answer)
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, status(resp, answer.Message, "POST "+at.Redacted())
	case err != nil:
		return nil, fmt.Errorf("the answer of %s is not one of the LFS API: %w", at.Redacted(), err)
	case answer.Transfer != "" && answer.Transfer != "basic":
		return nil, fmt.Errorf("the LFS server wants the transfer %q, which is not known", answer.Transfer)
	}
	return answer.Objects, nil
}

// download brings one file into the store.
func (c *Client) download(ctx context.Context, s Store, p Pointer, o object) error {
	to, err := c.Endpoint.Parse(o.Actions.Download.Href)
	if err != nil || to.Scheme != "http" && to.Scheme != "https" {
		return errors.New("the LFS server says that a file is at an address that is none of http and https")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(idle, func() { cancel(fmt.Errorf("nothing came for %s", idle)) })
	defer watch.Stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return err
	}
	for key, value := range o.Actions.Download.Header {
		r.Header.Set(key, value)
	}
	// GitLab names the credentials that its own address wants; some servers leave them out.
	resp, err := c.do(r, !o.Authenticated && r.Header.Get("Authorization") == "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	what := "object " + p.OID
	if resp.StatusCode != http.StatusOK {
		return status(resp, "", what)
	}
	body := &watched{r: resp.Body, seen: func() { watch.Reset(idle) }}
	err = s.add(p, body)
	if body.err != nil || errors.Is(err, errOther) {
		return &passing{fmt.Errorf("%s: %w", what, cmp.Or(context.Cause(ctx), err))}
	}
	return err
}

// do sends a request, with the credentials only to the server that they are for.
func (c *Client) do(r *http.Request, authenticate bool) (*http.Response, error) {
	if authenticate && c.Password != "" && r.URL.Scheme == c.Endpoint.Scheme && r.URL.Host == c.Endpoint.Host {
		r.SetBasicAuth(c.User, c.Password)
	}
	r.Header.Set("User-Agent", c.UserAgent)
	resp, err := c.HTTP.Do(r)
	if err != nil {
		var u *url.Error // its text has the whole address, with what signs it
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, &passing{fmt.Errorf("ask %s: %w", r.URL.Host, err)}
	}
	return resp, nil
}

// status is the error for an answer that is not the one wanted.
func status(resp *http.Response, message, what string) error {
	err := &StatusError{Status: resp.StatusCode, Message: strings.TrimSpace(message), What: what}
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout {
		return &passing{err}
	}
	return err
}

// passing is an error that may be gone a moment later.
type passing struct{ err error }

func (e *passing) Error() string { return e.err.Error() }
func (e *passing) Unwrap() error { return e.err }

// Unreachable reports whether an error of Fetch is one of the network or of a server in trouble, and not the server's no.
func Unreachable(err error) bool { return errors.As(err, new(*passing)) }

func retry(ctx context.Context, do func() error) error {
	for wait, n := time.Second, 1; ; wait, n = 2*wait, n+1 {
		err := do()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n == tries || !errors.As(err, new(*passing)) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watched is a body that tells of each piece that comes, and keeps why it ended.
type watched struct {
	r    io.Reader
	seen func()
	err  error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.seen()
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}
