package gitlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// How often a transfer of artifacts is tried.
//
// GitLab: three times, an upload that meets a busy server six times.
const (
	transferTries = 3
	busyTries     = 6
	maxHops       = 10 // of redirects
)

// DefaultUploadTimeout bounds one try of an upload.
//
// GitLab: [runners.artifact] upload_timeout.
const DefaultUploadTimeout = time.Hour

// localError is what kept the content of an upload from being made. It would not help to send it again.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// UploadArtifact sends one file of artifacts, whose content write writes: as often as it must be sent. A *StatusError tells that
// the server refuses it; an error of write comes back as it is.
func (j *Job) UploadArtifact(ctx context.Context, u job.Upload, write func(w io.Writer) error) error {
	base := j.client.base
	requestID := newRequestID()
	for try, hops := 1, 0; ; try++ {
		got, err := j.uploadOnce(ctx, base, requestID, u, write)
		tries := transferTries
		switch {
		case err == nil && got.status == http.StatusCreated:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(localError)):
			return errors.Unwrap(err)
		case err != nil:
		case got.status == http.StatusTemporaryRedirect && hops < maxHops:
			if base, err = moved(base, got.header.Get("Location")); err != nil {
				return fmt.Errorf("upload artifacts: %w", err)
			}
			hops, try = hops+1, try-1
			continue
		case got.status == http.StatusServiceUnavailable:
			tries = busyTries
		case !retryable(got.status):
			return got.statusError()
		}
		if err == nil {
			err = got.statusError()
		}
		if try >= tries {
			return fmt.Errorf("upload artifacts: %w", err)
		}
		var h http.Header
		if got != nil {
			h = got.header
		}
		wait, _ := retryWait(h, try)
		j.client.log.WarnContext(ctx, "an upload of artifacts failed; trying again", "job", j.id, "error", err, "try", try, "wait", wait, "request_id", requestID)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// moved is the API's root at the server that a redirect names.
//
// GitLab: only the scheme and the host of an upload's Location count.
func moved(base *url.URL, location string) (*url.URL, error) {
	to, err := base.Parse(location)
	if err != nil || location == "" || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, fmt.Errorf("the server redirects to %q, which is no address", location)
	}
	if base.Scheme == "https" && to.Scheme != "https" {
		return nil, fmt.Errorf("the server redirects from https to %s", to.Redacted())
	}
	next := *base
	next.Scheme, next.Host = to.Scheme, to.Host
	return &next, nil
}

func (j *Job) uploadOnce(ctx context.Context, base *url.URL, requestID string, u job.Upload, write func(w io.Writer) error) (*reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, j.client.uploadTimeout, fmt.Errorf("it took longer than %s", j.client.uploadTimeout))
	defer cancel()
	body, out := io.Pipe()
	form := multipart.NewWriter(out)
	made := make(chan error, 1)
	go func() {
		err := writeForm(form, u.Filename, write)
		out.CloseWithError(err) // nil is the end of the body
		made <- err
	}()
	to := base.JoinPath(fmt.Sprintf("jobs/%d/artifacts", j.id))
	query := url.Values{}
	for key, value := range map[string]string{"artifact_format": u.Format, "artifact_type": u.Type, "expire_in": u.ExpireIn} {
		if value != "" {
			query.Set(key, value)
		}
	}
	to.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), body)
	if err != nil {
		body.CloseWithError(err)
		<-made
		return nil, err
	}
	req.Header.Set(jobToken, j.token.Reveal())
	req.Header.Set("Content-Type", form.FormDataContentType())
	got, err := j.client.transfer(req, requestID)
	body.CloseWithError(errAnswered)
	if werr := <-made; err != nil && werr != nil && !errors.Is(werr, errAnswered) && !errors.Is(werr, io.ErrClosedPipe) {
		return nil, localError{werr}
	}
	if err != nil {
		return nil, orCause(ctx, err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(io.LimitReader(got.Body, maxBody))
	return &reply{status: got.StatusCode, header: got.Header, body: text, err: err, secret: j.token}, nil
}

// errAnswered: the server has answered before it had read all.
var errAnswered = errors.New("the server has answered")

func writeForm(form *multipart.Writer, filename string, write func(w io.Writer) error) error {
	part, err := form.CreateFormFile("file", filename)
	if err != nil {
		return err
	}
	if err := write(part); err != nil {
		return err
	}
	return form.Close()
}

// transfer sends a request that may take long and is not redirected.
func (c *Client) transfer(req *http.Request, requestID string) (*http.Response, error) {
	req.Header.Set("User-Agent", c.version.userAgent())
	req.Header.Set("X-Request-Id", requestID)
	start := time.Now()
	resp, err := c.bulk.Do(req)
	if err != nil {
		var bare *url.Error
		if errors.As(err, &bare) {
			err = bare.Err // without the URL: that of a storage has a signature that opens it
		}
		return nil, err
	}
	if endpoint := map[string]string{http.MethodPost: "upload_artifacts", http.MethodGet: "download_artifacts"}[req.Method]; strings.HasPrefix(req.URL.Path, c.base.Path) {
		c.observe(endpoint, strings.ToLower(req.Method), resp.StatusCode, time.Since(start)) // else the call of a storage
	}
	c.log.DebugContext(req.Context(), "called the server", "method", req.Method, "path", req.URL.Path, "status", resp.StatusCode,
		"took", time.Since(start), "request_id", requestID)
	return resp, nil
}

// DownloadArtifact writes the archive of another job's artifacts into a file, from its beginning. token is that job's. direct lets
// the server send the client on to where it stores archives; if that fails, the next try does without. A *StatusError tells
// that the server does not have it, or not for us.
func (j *Job) DownloadArtifact(ctx context.Context, id int64, token job.Secret, direct bool, to *os.File) (size int64, err error) {
	requestID := newRequestID()
	for try := 1; ; try++ {
		size, err = j.client.downloadOnce(ctx, id, token, direct, to, requestID)
		var status *StatusError
		switch {
		case err == nil:
			return size, nil
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case errors.As(err, &status) && (status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden || status.Status == http.StatusNotFound):
			return 0, status
		case try >= transferTries:
			return 0, fmt.Errorf("download artifacts: %w", err)
		}
		direct = false
		wait, _ := retryWait(nil, try)
		j.client.log.WarnContext(ctx, "a download of artifacts failed; trying again", "job", j.id, "error", err, "try", try, "wait", wait, "request_id", requestID)
		if err := sleep(ctx, wait); err != nil {
			return 0, err
		}
	}
}

func (c *Client) downloadOnce(ctx context.Context, id int64, token job.Secret, direct bool, to *os.File, requestID string) (int64, error) {
	if err := to.Truncate(0); err != nil {
		return 0, err
	}
	if _, err := to.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	at := c.base.JoinPath(fmt.Sprintf("jobs/%d/artifacts", id))
	if direct {
		at.RawQuery = url.Values{"direct_download": {strconv.FormatBool(direct)}}.Encode()
	}
	for hop := 0; ; hop++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return 0, err
		}
		if hop == 0 {
			req.Header.Set(jobToken, token.Reveal()) // for GitLab only, not for a storage
		}
		resp, err := c.transfer(req, requestID)
		if err != nil {
			return 0, err
		}
		if next := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && next != "" && hop < maxHops {
			resp.Body.Close()
			was := at
			if at, err = was.Parse(next); err != nil {
				return 0, errors.New("the server redirects to what is no address")
			}
			if was.Scheme == "https" && at.Scheme != "https" {
				return 0, fmt.Errorf("the server redirects from https to %s://%s", at.Scheme, at.Host)
			}
			continue
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
			return 0, (&reply{status: resp.StatusCode, header: resp.Header, body: text, err: err, secret: token}).statusError()
		}
		return io.Copy(to, resp.Body)
	}
}

// orCause prefers why a context ended to what broke because of it.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
