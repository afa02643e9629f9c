package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/docker/go-units"

	"github.com/slipway-ci/slipway/internal/archive"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// The forms in which artifacts go to the server.
const (
	formatZip  = "zip"  // an archive
	formatGzip = "gzip" // reports: each file compressed, one after the other
	formatRaw  = "raw"  // one file as it is
)

// artifactPlan is one upload that the job promises.
type artifactPlan struct {
	upload    job.Upload // the name of a raw file is known when it is found
	selection archive.Selection
	untracked bool
	when      string
	level     archive.Level
	statement string // name of the file in an archive that says how the others were made; "" = none
}

// planArtifacts reads the artifacts of the payload.
//
// GitLab: variables are expanded in names and paths; an archive without a name is artifacts.zip.
func (p *plan) planArtifacts() ([]artifactPlan, error) {
	var out []artifactPlan
	stated := p.stated()
	for _, a := range p.spec.Artifacts {
		to := artifactPlan{
			upload: job.Upload{Type: a.Type, Format: a.Format, ExpireIn: a.ExpireIn}, untracked: a.Untracked, when: a.When,
			selection: p.selection(a.Paths, a.Exclude), level: archive.Level(p.vars.Get("ARTIFACT_COMPRESSION_LEVEL")),
		}
		name := "artifacts"
		if a.Name != "" {
			name = path.Base(p.vars.Expand(a.Name))
		}
		if name == "." || name == "/" {
			name = "default"
		}
		switch a.Format {
		case "", formatZip:
			to.upload.Format, to.upload.Filename = formatZip, name+".zip"
			if stated {
				to.statement = name + "-metadata.json"
			}
		case formatGzip:
			to.upload.Filename = name + ".gz"
		case formatRaw:
		default:
			return nil, configurationError("", "the server asks for artifacts in the format %q, which this runner does not know", a.Format)
		}
		out = append(out, to)
	}
	return out, nil
}

// selection is what globs of the payload stand for.
func (p *plan) selection(paths, exclude []string) archive.Selection {
	s := archive.Selection{Dir: p.dir}
	for _, glob := range paths {
		s.Paths = append(s.Paths, p.vars.Expand(glob))
	}
	for _, glob := range exclude {
		s.Exclude = append(s.Exclude, p.vars.Expand(glob))
	}
	return s
}

// wanted reports whether something is to be kept of a job that ended so.
//
// GitLab: on_success is the default.
func wanted(when string, failure error) bool {
	switch when {
	case "always":
		return true
	case "on_failure":
		return failure != nil
	}
	return failure == nil
}

// uploadArtifacts sends what the job promised. The first error is returned, after all has been tried.
func (e *Executor) uploadArtifacts(ctx context.Context, server Server, tr *trace.Trace, p *plan, w *source.Workspace, s *session, failure error) error {
	var todo []artifactPlan
	for _, a := range p.artifacts {
		if wanted(a.when, failure) {
			todo = append(todo, a)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	name, headline := "upload_artifacts_on_success", "Uploading artifacts for successful job"
	if failure != nil {
		name, headline = "upload_artifacts_on_failure", "Uploading artifacts for failed job"
	}
	defer tr.Flush()
	defer p.section(tr, name, headline)()
	e.readable(ctx, tr, p, s)
	f, err := openFolder(tr, p, w)
	if err != nil {
		return err
	}
	defer f.close()
	var first error
	for _, a := range todo {
		err := e.uploadArtifact(ctx, server, f, a)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			continue
		}
		if failure != nil || first != nil { // the log's last line tells only of one
			tr.Errorf("%v", err)
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// readable makes sure that a runner that is not root can read what the job wrote.
func (e *Executor) readable(ctx context.Context, tr *trace.Trace, p *plan, s *session) {
	ctx, cancel := context.WithTimeout(ctx, cleanUpTimeout)
	defer cancel()
	if err := s.place.readable(ctx, s, p.dir); err != nil {
		tr.Warnf("some files may not be readable for the runner, which is not root: %v", err)
	}
}

func (e *Executor) uploadArtifact(ctx context.Context, server Server, f *folder, a artifactPlan) error {
	kind := a.upload.Type
	if kind == "" {
		kind = "archive"
	}
	f.tr.Printf("Uploading artifacts as %q...", kind)
	names, err := f.find(ctx, a.selection, a.untracked)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		f.tr.Warnf("there are no files to upload")
		return nil
	}
	if a.upload.Format == formatRaw {
		if names = plainFiles(f.root, names); len(names) != 1 {
			return configurationError("name one file in artifacts:paths", "artifacts as %q are one file, and %d were found", kind, len(names))
		}
		a.upload.Filename = path.Base(names[0])
	}
	meter := newMeter(f.tr, "Packed and sent")
	var sum archive.Summary
	err = server.UploadArtifact(ctx, a.upload, func(out io.Writer) (err error) {
		defer mishap.Catch(e.Log, "artifacts", &err) // it has a goroutine for itself
		meter.reset()
		out = meter.writer(out)
		contents := archive.Contents{Root: f.root, Names: names, Level: a.level, Progress: meter.read}
		if a.statement != "" {
			contents.Note = &archive.Note{Name: a.statement, Write: func(w io.Writer, files []archive.Sum) error {
				return e.Settings.writeStatement(w, f.p, files, time.Now())
			}}
		}
		switch a.upload.Format {
		case formatRaw:
			sum, err = contents.WriteRaw(ctx, out)
		case formatGzip:
			sum, err = contents.WriteGzip(ctx, out)
		default:
			sum, err = contents.WriteZip(ctx, out)
		}
		return err
	})
	took := meter.stop()
	for _, skipped := range sum.Skipped {
		f.tr.Warnf("%s", skipped)
	}
	if err != nil {
		return uploadFailure(a.upload, err)
	}
	f.tr.Printf("Uploaded %s: %s", a.upload.Filename, described(sum, meter.sent(), took))
	return nil
}

// plainFiles leaves out folders and links.
func plainFiles(root *os.Root, names []string) (out []string) {
	for _, name := range names {
		if info, err := root.Lstat(name); err == nil && info.Mode().IsRegular() {
			out = append(out, name)
		}
	}
	return out
}

// uploadFailure says what the job's author can do.
//
// GitLab: a job fails whose artifacts cannot be sent.
func uploadFailure(u job.Upload, err error) error {
	failed := &job.Error{Reason: job.SystemFailure, Err: fmt.Errorf("the artifacts %s were not uploaded: %w", u.Filename, err)}
	status := httpStatus(err)
	if status > 0 && status < 500 {
		failed.Reason = job.ScriptFailure
	}
	switch status {
	case 413:
		failed.Hint = "they are larger than the server allows (maximum artifacts size of the project, group or instance): leave something out, or raise the limit"
	case 405:
		failed.Hint = "artifacts are disabled on the server"
	case 403:
		failed.Hint = "the server no longer takes anything of this job"
	}
	return failed
}

// httpStatus is the status of a server's answer that an error tells of, 0 if it is another error.
func httpStatus(err error) int {
	var answered interface{ HTTPStatus() int }
	if errors.As(err, &answered) {
		return answered.HTTPStatus()
	}
	return 0
}

// described says what went into an archive or came out of it; packed is the archive's size in bytes.
func described(sum archive.Summary, packed int64, took time.Duration) string {
	return fmt.Sprintf("%s, %s, packed %s, in %.2f s", count(sum.Files, "file", "files"), size(sum.Bytes), size(packed), took.Seconds())
}

func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// size is bytes for people.
func size(n int64) string {
	return units.CustomSize("%.3g %s", float64(n), 1000, []string{"B", "kB", "MB", "GB", "TB", "PB"})
}
