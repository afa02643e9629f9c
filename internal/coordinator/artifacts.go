package coordinator

import (
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
)

// Artifact is one upload of a job.
type Artifact struct {
	Filename string
	Type     string // artifact_type, as in archive or junit
	Format   string // artifact_format, as in zip
	ExpireIn string
	Content  []byte
}

// uploadArtifacts takes one file, into memory.
func (c *Coordinator) uploadArtifacts(x *exchange) reply {
	ready := func(*Job) reply { return reply{} }
	if rep := c.asJob(x, x.r.Header.Get("Job-Token"), ready); rep.status != 0 {
		return rep
	}
	if c.opts.MaxArtifact < 0 {
		return message(http.StatusMethodNotAllowed, "")
	}
	a, err := readArtifact(x.r, c.opts.MaxArtifact)
	switch {
	case errors.Is(err, multipart.ErrMessageTooLarge):
		return message(http.StatusRequestEntityTooLarge, "")
	case err != nil:
		return message(http.StatusBadRequest, err.Error())
	}
	// The job may have ended during the upload.
	return c.asJob(x, x.r.Header.Get("Job-Token"), func(j *Job) reply {
		j.artifacts = append(j.artifacts, a)
		j.notify()
		return message(http.StatusCreated, "").with(j.header())
	})
}

// readArtifact reads the part "file" of a multipart body. It returns multipart.ErrMessageTooLarge beyond limit bytes.
func readArtifact(r *http.Request, limit int64) (Artifact, error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return Artifact{}, err
	}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return Artifact{}, errors.New("file is missing")
		}
		if err != nil {
			return Artifact{}, err
		}
		if part.FormName() != "file" {
			continue
		}
		content, err := io.ReadAll(io.LimitReader(part, limit+1))
		if err != nil {
			return Artifact{}, err
		}
		if int64(len(content)) > limit {
			return Artifact{}, multipart.ErrMessageTooLarge
		}
		q := r.URL.Query()
		return Artifact{
			Filename: part.FileName(), Type: q.Get("artifact_type"), Format: q.Get("artifact_format"),
			ExpireIn: q.Get("expire_in"), Content: content,
		}, nil
	}
}

// downloadArtifacts sends the job's archive. The token is that job's own, which its dependents got with their payload,
// so it is good after the job's end.
func (c *Coordinator) downloadArtifacts(x *exchange) reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := x.job
	if j == nil {
		return message(http.StatusNotFound, "")
	}
	if !sameToken(j.spec.Token, x.r.Header.Get("Job-Token")) {
		return message(http.StatusForbidden, "")
	}
	for _, a := range j.artifacts {
		if a.Type == "archive" || a.Type == "" {
			return reply{
				status: http.StatusOK, contentType: "application/octet-stream", body: a.Content,
				header: map[string]string{
					"Content-Disposition": "attachment; filename*=UTF-8''" + url.PathEscape(a.Filename),
				},
			}
		}
	}
	return message(http.StatusNotFound, "")
}
