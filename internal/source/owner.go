package source

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/job"
)

// Owner is another user of this machine. Only root can give files to one.
type Owner struct{ UID, GID int }

// owner is whom the job's files belong to.
func (r *Request) owner() Owner {
	if r.Owner != nil {
		return *r.Owner
	}
	return Owner{os.Geteuid(), os.Getegid()}
}

// give makes the job's user the owner of a folder. Those above it stay root's.
func (w *Workspace) give(dir *os.File) error {
	if o := w.req.Owner; o != nil {
		return dir.Chown(o.UID, o.GID)
	}
	return nil
}

// Give makes a user the owner of what the job gets, which was to be this process's own. It must be called before Checkout, and the
// workspace must not lie below a folder that jobs can change.
func (w *Workspace) Give(o Owner) error {
	w.req.Owner = &o
	if err := w.give(w.project); err != nil {
		return withPath("own", w.Dir, err)
	}
	tmp, err := os.OpenFile(w.TempDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer tmp.Close()
	if err := w.give(tmp); err != nil {
		return withPath("own", w.TempDir, err)
	}
	return nil
}

// giveTree makes the job's user the owner of what Git has just written, and lets the index know: it has the owner and the time of
// the last change of each file.
func (w *Workspace) giveTree(ctx context.Context) error {
	if w.req.Owner == nil {
		return nil
	}
	idx, err := w.readIndex()
	if err != nil {
		return err
	}
	in := map[string][]string{} // names by folder
	for name, e := range idx.entries {
		if !e.submodule() {
			in[path.Dir(name)] = append(in[path.Dir(name)], path.Base(name))
		}
	}
	for dir := range idx.dirs {
		if dir != "" {
			in[path.Dir(dir)] = append(in[path.Dir(dir)], path.Base(dir))
		}
	}
	for dir, names := range in {
		f, err := w.openTracked(dir)
		if err != nil {
			return withPath("open", filepath.Join(w.Dir, dir), err)
		}
		for _, name := range names {
			if err = w.req.Owner.take(f, name); err != nil {
				err = withPath("own", filepath.Join(w.Dir, dir, name), err)
				break
			}
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return explainCheckout(w.store.git.run(ctx, w.call("update-index", "-q", "--refresh")), w.Dir)
}

// take makes o the owner of a file or folder. One with several names is not of a checkout: it may be anybody's.
func (o *Owner) take(dir *os.File, name string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Uid == uint32(o.UID) && st.Gid == uint32(o.GID):
		return nil
	case st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1:
		return errors.New("it has several names")
	}
	return unix.Fchownat(fd, "", o.UID, o.GID, unix.AT_EMPTY_PATH)
}

// outOfReach makes sure that a user cannot put another folder, or a link, in the place of dir: root works below it.
func outOfReach(dir string, uid int) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for at := real; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Uid != 0 || info.Mode()&0o022 != 0 && (at == real || info.Mode()&fs.ModeSticky == 0) {
			return &job.Error{
				Reason: job.ConfigurationError, Err: fmt.Errorf("builds_dir %s lies in %s, which others than root can change", dir, at),
				Hint: "let builds_dir in config.toml be a folder whose parents belong to root, such as /var/lib/builds; jobs get folders of their own in it",
			}
		}
		if at == "/" {
			return nil
		}
	}
}

// Hide puts an empty folder, which the job's user may do with as he likes, in the place of the project's until Show or Close, also while
// Checkout works: none of his processes finds the project's folder. It is only for folders with an Owner.
func (w *Workspace) Hide() error {
	// What root does here goes by names.
	if err := outOfReach(filepath.Dir(w.Dir), w.req.Owner.UID); err != nil {
		return err
	}
	if w.hidden == "" {
		away := w.Dir + awaySuffix
		if err := os.Mkdir(away, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.Rename(w.Dir, filepath.Join(away, awayProject)); err != nil {
			return err
		}
		w.hidden = away
	}
	if err := os.Mkdir(w.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) { // an attempt before this one has made it
		return err
	}
	return errors.Join(os.Chown(w.Dir, w.req.Owner.UID, w.req.Owner.GID), os.Chmod(w.Dir, 0o777&^w.req.Umask))
}

// Show brings back what Hide has put away.
func (w *Workspace) Show(ctx context.Context) error {
	if w.hidden == "" {
		return nil
	}
	w.hidden = ""
	return w.bringBack(ctx)
}

// Where a project's folder is while it is hidden. No project's path has a colon.
const (
	awaySuffix  = ":hidden"
	awayProject = "project"
)

// bringBack also serves what a process that was killed has put away.
func (w *Workspace) bringBack(ctx context.Context) error {
	away := w.Dir + awaySuffix
	if _, err := os.Lstat(filepath.Join(away, awayProject)); err == nil {
		if err := os.Rename(w.Dir, filepath.Join(away, rand.Text())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Rename(filepath.Join(away, awayProject), w.Dir); err != nil {
			return err
		}
	}
	if err := errors.Join(EmptyFolder(ctx, away), os.Remove(away)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.store.log.Warn("what a job had in the place of its project's folder stays", slog.String("dir", away), slog.Any("error", err))
	}
	return nil
}
