package source

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// layOut makes the work tree equal to the job's commit.
func (w *Workspace) layOut(ctx context.Context, clean cleanFlags, out io.Writer) (*index, error) {
	idx, err := w.readIndex()
	if err != nil {
		return nil, err
	}
	removed := bufio.NewWriter(out)
	rm := &remover{top: w.project, path: w.Dir}
	s := &sweep{
		index: idx, keep: !clean.all, umask: w.req.Umask, owner: w.req.owner(), remover: rm,
		report:  func(path string, dir bool) { removed.WriteString(removing(path, dir)) },
		modules: w.req.Submodules.on(),
	}
	if err := rm.remove(ctx, w.project, ".git", filepath.Join(w.Dir, ".git")); err != nil {
		return nil, err
	}
	if s.keep {
		if err := os.Mkdir(filepath.Join(w.project.Name(), ".git"), 0o700); err != nil {
			return nil, withPath("make", filepath.Join(w.Dir, ".git"), err)
		}
	}
	err = s.run(ctx, w.project)
	if err := errors.Join(err, removed.Flush()); err != nil {
		return nil, err
	}
	if idx.raw == nil || w.checkedOut() != w.req.Git.SHA || s.intact != len(idx.entries) {
		if s.modules {
			if err := w.emptyFormer(ctx, s, idx); err != nil {
				return nil, err
			}
		}
		if idx, err = w.readTree(ctx); err != nil {
			return nil, err
		}
		if !s.modules {
			if err := w.emptySubmodules(ctx, s, idx.submodules()); err != nil {
				return nil, err
			}
		}
	}
	if !s.keep {
		return idx, nil
	}
	if !clean.skip {
		if err := w.clean(ctx, clean, out); err != nil {
			return nil, err
		}
	}
	if err := s.unpark(idx); err != nil {
		return nil, err
	}
	return idx, rm.remove(ctx, w.project, ".git", filepath.Join(w.Dir, ".git"))
}

// readTree has Git write what is missing or different, and the index.
func (w *Workspace) readTree(ctx context.Context) (*index, error) {
	if err := w.setCheckedOut(""); err != nil {
		return nil, err
	}
	// The slot's lock is ours, so a lock of Git is of one that was killed.
	if err := os.Remove(w.indexFile() + ".lock"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	call := w.call("read-tree", "--reset", "-u", w.req.Git.SHA)
	if err := w.store.git.run(ctx, call); err != nil {
		return nil, explainCheckout(err, w.Dir)
	}
	if err := w.giveTree(ctx); err != nil {
		return nil, err
	}
	if err := w.setCheckedOut(w.req.Git.SHA); err != nil {
		return nil, err
	}
	return w.readIndex()
}

// clean runs git clean with the job's own flags.
func (w *Workspace) clean(ctx context.Context, flags cleanFlags, out io.Writer) error {
	call := w.call(append([]string{"clean"}, flags.args...)...)
	call.stdout = out
	err := w.store.git.run(ctx, call)
	var ge *gitError
	if !errors.As(err, &ge) {
		return err
	}
	if err := explainCheckout(err, w.Dir); errors.Is(err, fs.ErrPermission) {
		return err
	}
	return &job.Error{Reason: job.ScriptFailure, ExitCode: 1, Err: err, Hint: "look at GIT_CLEAN_FLAGS"}
}

func (w *Workspace) call(args ...string) gitCall {
	return gitCall{args: args, gitDir: w.mirror.dir, workTree: w.project, index: w.indexFile(), umask: w.req.Umask}
}

// emptySubmodules: the folders may hold what was kept from another commit, in which they were no submodules.
func (w *Workspace) emptySubmodules(ctx context.Context, s *sweep, paths []string) error {
	for _, path := range paths {
		dir, err := w.openTracked(filepath.Dir(path))
		if err != nil {
			return withPath("open", filepath.Join(w.Dir, path), err)
		}
		err = s.hollow(ctx, dir, filepath.Base(path), path)
		dir.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Workspace) openTracked(rel string) (*os.File, error) {
	at, err := openDir(w.project, ".")
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(rel, "/") {
		next, err := openDir(at, name)
		at.Close()
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// wipe empties the project folder.
func (w *Workspace) wipe(ctx context.Context) error {
	if err := w.setCheckedOut(""); err != nil {
		return err
	}
	return w.clear(ctx, w.project, w.Dir)
}

func (w *Workspace) indexFile() string { return filepath.Join(w.state, "index") }

// readIndex returns what the last checkout left; nothing if that is not to be understood.
func (w *Workspace) readIndex() (*index, error) {
	raw, err := os.ReadFile(w.indexFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	idx, err := parseIndex(raw, len(w.req.Git.SHA)/2)
	if err != nil {
		w.store.log.Warn("index is unreadable, checking out anew", slog.String("file", w.indexFile()), slog.Any("error", err))
		if err := os.Remove(w.indexFile()); err != nil {
			return nil, err
		}
		return parseIndex(nil, 0)
	}
	return idx, nil
}

// checkedOut is the commit that the index stands for, "" while a checkout is under way or before the first.
func (w *Workspace) checkedOut() string {
	data, err := os.ReadFile(filepath.Join(w.state, "commit"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (w *Workspace) setCheckedOut(sha string) error {
	return writeWhole(filepath.Join(w.state, "commit"), sha+"\n")
}
