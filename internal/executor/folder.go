package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/slipway-ci/slipway/internal/archive"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// folder is a job's project folder, while archives are made of it or unpacked into it. What is done there is told to the job's log.
type folder struct {
	root *os.Root // for all that is done there: a job may have put links in the way
	w    *source.Workspace
	p    *plan
	tr   *trace.Trace
}

// openFolder opens it. close must be called.
func openFolder(tr *trace.Trace, p *plan, w *source.Workspace) (*folder, error) {
	root, err := w.Root()
	return &folder{root, w, p, tr}, err
}

func (f *folder) close() { f.root.Close() }

// find looks for files, and tells what each path found.
func (f *folder) find(ctx context.Context, sel archive.Selection, untracked bool) ([]string, error) {
	if untracked {
		tracked, err := f.w.Tracked()
		if err != nil {
			return nil, err
		}
		sel.Tracked = tracked
	}
	found, err := archive.Find(ctx, f.root, sel)
	if err != nil {
		return nil, fmt.Errorf("look for files: %w", err)
	}
	for _, m := range found.Matches {
		switch {
		case m.Err != nil:
			f.tr.Warnf("%s: %v", m.Path, m.Err)
		case m.Count == 0:
			f.tr.Warnf("%s: found nothing (paths are relative to the project folder %s)", m.Path, sel.Dir)
		default:
			f.tr.Printf("%s: found %s", m.Path, count(m.Count, "file or folder", "files and folders"))
		}
		if m.Skip != "" {
			f.tr.Warnf("%s: left out: %s", m.Path, m.Skip)
		}
	}
	return found.Names, nil
}

// unzip unpacks an archive, and returns also what the log is to say of it.
func (f *folder) unzip(ctx context.Context, in io.ReaderAt, packed int64) (sum archive.Summary, text string, err error) {
	meter := newMeter(f.tr, "Unpacked")
	o := archive.Options{Umask: f.p.source.request.Umask, Owners: os.Geteuid() == 0, Progress: meter.read}
	if own := f.p.source.request.Owner; own != nil {
		o.Owner = &archive.Owner{UID: own.UID, GID: own.GID}
		if f.p.mapped && !f.p.imageUser {
			o.Users = docker.MappedUsers
		}
	}
	sum, err = archive.Unzip(ctx, f.root, in, packed, o)
	return sum, described(sum, packed, meter.stop()), err
}

// remove removes what find would find: a broken archive has left it where a cache belongs.
func (f *folder) remove(ctx context.Context, sel archive.Selection) error {
	found, err := archive.Find(ctx, f.root, sel)
	if err != nil {
		return err
	}
	for _, name := range slices.Backward(found.Names) { // a folder after what is in it
		err = errors.Join(err, f.root.RemoveAll(name))
	}
	return err
}
