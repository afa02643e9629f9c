package executor

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// download is the archive of an earlier job on its way.
type download struct {
	from job.Dependency
	file *os.File // without a name: it is gone when it is closed
	size int64
	err  error
	done chan struct{}
}

// downloads are those of one job.
type downloads struct {
	all    []*download
	cancel context.CancelFunc
}

// downloadsAtOnce is how many archives are fetched at the same time.
const downloadsAtOnce = 4

// fetchArtifacts begins to fetch the archives of earlier jobs, while the image and the sources are fetched.
func (e *Executor) fetchArtifacts(ctx context.Context, server Server, p *plan) *downloads {
	ctx, cancel := context.WithCancel(ctx)
	out := &downloads{cancel: cancel}
	places := make(chan struct{}, downloadsAtOnce)
	for _, from := range p.spec.Dependencies {
		if from.ArtifactsFile.Filename == "" {
			continue
		}
		d := &download{from: from, done: make(chan struct{})}
		out.all = append(out.all, d)
		go func() {
			defer close(d.done)
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				d.err = context.Cause(ctx)
				return
			}
			d.err = e.fetch(ctx, server, p, d)
			<-places
		}()
	}
	return out
}

// close ends what is still on its way.
func (ds *downloads) close() {
	ds.cancel()
	for _, d := range ds.all {
		<-d.done
		if d.file != nil {
			d.file.Close()
		}
	}
}

func (e *Executor) fetch(ctx context.Context, server Server, p *plan, d *download) (err error) {
	if d.file == nil {
		if d.file, err = scratchFile(e.Settings.StateDir); err != nil {
			return err
		}
	}
	d.size, err = server.DownloadArtifact(ctx, d.from.ID, d.from.Token, e.Settings.flag("FF_USE_DIRECT_DOWNLOAD", p.vars), d.file)
	return err
}

// scratchFile makes a file that is gone with this process.
func scratchFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "scratch-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	return f, nil
}

// downloadArtifacts unpacks the artifacts of earlier jobs into the project folder. None of the job's scripts runs yet. Of a job with
// services the container does (waitWith): its image's entrypoint could write there meanwhile, and spoil its own job's files, but
// nothing leads out of the folder.
func (e *Executor) downloadArtifacts(ctx context.Context, server Server, tr *trace.Trace, p *plan, w *source.Workspace, fetched *downloads) error {
	if len(fetched.all) == 0 {
		return nil
	}
	defer tr.Flush()
	defer p.section(tr, "download_artifacts", "Downloading artifacts")()
	f, err := openFolder(tr, p, w)
	if err != nil {
		return err
	}
	defer f.close()
	for _, d := range fetched.all {
		tr.Printf("Downloading artifacts of %s (%d)...", d.from.Name, d.from.ID)
		first := true
		err := e.attempt(ctx, p, "ARTIFACT_DOWNLOAD_ATTEMPTS", func() error {
			if first {
				select {
				case <-d.done:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				first = false
			} else {
				d.err = e.fetch(ctx, server, p, d)
			}
			if d.err != nil {
				return downloadFailure(d, d.err)
			}
			return d.unpack(ctx, f)
		}, func(err error, pause time.Duration) bool {
			if pause > 0 {
				tr.Warnf("%v; trying again in %s", err, pause)
			} else {
				tr.Warnf("%v; trying again", err)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *download) unpack(ctx context.Context, f *folder) error {
	sum, text, err := f.unzip(ctx, d.file, d.size)
	if err != nil {
		return fmt.Errorf("the artifacts of %s (%d): %w", d.from.Name, d.from.ID, err)
	}
	for _, skipped := range sum.Skipped {
		f.tr.Warnf("%s", skipped)
	}
	f.tr.Printf("Unpacked %s", text)
	return nil
}

// downloadFailure says what the job's author can do.
func downloadFailure(d *download, err error) error {
	err = fmt.Errorf("the artifacts of %s (%d) cannot be downloaded: %w", d.from.Name, d.from.ID, err)
	switch httpStatus(err) {
	case 401, 403, 404:
		return &job.Error{
			Reason: job.ScriptFailure, Err: err,
			Hint: "they may have expired or been erased: run " + d.from.Name + " again, or give its artifacts a longer expire_in",
		}
	}
	return err
}
