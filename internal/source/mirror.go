package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/lfs"
)

// mirror is the bare repository of a project on this machine. Jobs read its objects while others fetch into it, so
// objects are only ever added; pruning on fetch drops names of branches, never what they pointed to.
type mirror struct {
	dir string
	git *git
}

const (
	// manyPacks is when Maintain merges: Git looks into every pack for each object.
	manyPacks = 50
	// manyLoose is when refs are put into one file, tags with what is behind them.
	manyLoose = 100
	// staleAfter is when a temporary pack can be nobody's any more.
	staleAfter = 24 * time.Hour
	// unusedFiles is how long a file of Git LFS is kept that no checkout has taken: they are large, and can be had again.
	unusedFiles = 14 * 24 * time.Hour
)

// files are those of Git LFS, in a folder for each server that they come from. No job can reach them: they are put into its
// workspace as copies.
func (m *mirror) files(name string) lfs.Store { return lfs.Store{Dir: filepath.Join(m.dir, name)} }

func (m *mirror) objectsDir() string { return filepath.Join(m.dir, "objects") }

// create makes the files of an empty bare repository, without a process and without any template.
func (m *mirror) create(format string) error {
	for _, d := range []string{"", "objects", "objects/info", "objects/pack", "refs"} {
		if err := os.MkdirAll(filepath.Join(m.dir, d), 0o700); err != nil {
			return fmt.Errorf("create mirror: %w", err)
		}
	}
	// Jobs of any user read the objects; the folder above keeps everybody else out.
	for _, d := range []string{"objects", "objects/info", "objects/pack"} {
		if err := os.Chmod(filepath.Join(m.dir, d), 0o755); err != nil {
			return fmt.Errorf("create mirror: %w", err)
		}
	}
	config := coreConfig(format, true)
	for name, text := range map[string]string{"config": config, "HEAD": "ref: refs/heads/none\n"} {
		path := filepath.Join(m.dir, name)
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := writeWhole(path, text); err != nil {
			return fmt.Errorf("create mirror: %w", err)
		}
	}
	return nil
}

// coreConfig begins the config file of a repository.
func coreConfig(format string, bare bool) string {
	version, extensions := 0, ""
	if format != "" && format != "sha1" {
		version, extensions = 1, "[extensions]\n\tobjectformat = "+format+"\n"
	}
	return fmt.Sprintf("[core]\n\trepositoryformatversion = %d\n\tfilemode = true\n\tbare = %t\n%s", version, bare, extensions)
}

// writeWhole puts a file there at once or not at all.
func writeWhole(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return err
	}
	return os.Rename(f.Name(), path)
}

// shallow are the commits behind which the mirror has nothing.
func (m *mirror) shallow() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(m.dir, "shallow"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read mirror: %w", err)
	}
	return strings.Fields(string(data)), nil
}

func (m *mirror) packs() ([]string, error) {
	return filepath.Glob(filepath.Join(m.objectsDir(), "pack", "*.pack"))
}

// fetch brings the refspecs ("source:name in the mirror") up to date. The caller holds fetch.lock.
func (m *mirror) fetch(ctx context.Context, r *Request, flags fetchFlags, refspecs []string, depth int) error {
	u, err := cleanRemote(r.RemoteURL, r.Schemes)
	if err != nil {
		return err
	}
	args := []string{
		"fetch", "--quiet", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--update-shallow",
	}
	args = append(args, flags.args...)
	limit, err := m.depthArgs(depth)
	if err != nil {
		return err
	}
	args = append(args, limit...)
	args = append(args, "--", u.String())
	args = append(args, refspecs...)
	call := gitCall{
		args: args, gitDir: m.dir, umask: 0o022,
		config: remoteConfig(u, r), token: r.Token.Reveal(), schemes: r.Schemes,
	}
	err = m.git.run(ctx, call)
	var ge *gitError
	if errors.As(err, &ge) && ge.says(".lock': File exists", "cannot lock ref", "bad object", "not a valid ref", "is corrupt", "shallow file has changed") {
		// A Git that was killed left a lock, or a ref is broken or in the way of another. The refs can be had again.
		if err := m.dropRefs(); err != nil {
			return err
		}
		err = m.git.run(ctx, call)
	}
	if err != nil {
		return explainFetch(err, u.String())
	}
	return nil
}

// refetchNote is a file of a mirror that tells what was fetched again, as if there were nothing, because something was lacking: commits of
// branches or tags, or of a submodule, and when that was. It is a fetch of one of them that brings what belongs to it.
const (
	refetchNote  = "refetched"
	refetchPause = time.Hour // until it is tried again: what Git says may be wrong, and another fetch is no cure then
)

// refetchName is what a fetch for the request brings all of.
func (r *Request) refetchName() string {
	if len(r.Git.Refspecs) == 0 {
		return r.Git.SHA
	}
	return fmt.Sprintf("%s %s %s %d", r.Git.RefType, r.Git.Ref, r.Git.SHA, r.Git.Depth) // of another commit, or deeper, is more
}

// refetches reads the note. One that cannot be understood says nothing.
func (m *mirror) refetches() (map[string]time.Time, error) {
	text, err := os.ReadFile(filepath.Join(m.dir, refetchNote))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read mirror: %w", err)
	}
	at := map[string]time.Time{}
	if json.Unmarshal(text, &at) != nil || at == nil {
		return map[string]time.Time{}, nil
	}
	return at, nil
}

// lately reports whether what was fetched again then need not be now. A time to come is of a clock that has been set since.
func lately(refetched time.Time) bool {
	past := time.Since(refetched)
	return past >= 0 && past < refetchPause
}

// noteRefetch says that it was now. The caller holds fetch.lock.
func (m *mirror) noteRefetch(name string) error {
	at, err := m.refetches()
	if err != nil {
		return err
	}
	maps.DeleteFunc(at, func(_ string, t time.Time) bool { return !lately(t) })
	at[name] = time.Now()
	text, err := json.Marshal(at)
	if err != nil {
		return fmt.Errorf("note in mirror: %w", err)
	}
	if err := writeWhole(filepath.Join(m.dir, refetchNote), string(text)); err != nil {
		return fmt.Errorf("note in mirror: %w", err)
	}
	return nil
}

// depthArgs: a limit cuts a mirror that is whole, and the next job that wants all would fetch the rest again. So only
// an empty mirror or one that was cut before is given a limit.
func (m *mirror) depthArgs(depth int) ([]string, error) {
	cut, err := m.shallow()
	if err != nil {
		return nil, err
	}
	packs, err := m.packs()
	if err != nil {
		return nil, err
	}
	switch {
	case depth > 0 && (len(cut) > 0 || len(packs) == 0):
		return []string{"--depth=" + strconv.Itoa(depth)}, nil
	case depth == 0 && len(cut) > 0:
		return []string{"--unshallow"}, nil
	}
	return nil, nil
}

// dropRefs forgets all names and removes locks. The objects stay.
func (m *mirror) dropRefs() error {
	locks, err := filepath.Glob(filepath.Join(m.dir, "*.lock"))
	if err != nil {
		return fmt.Errorf("repair mirror: %w", err)
	}
	for _, name := range append(locks, filepath.Join(m.dir, "packed-refs")) {
		if ours := filepath.Base(name); ours == fetchLock || ours == useLock {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("repair mirror: %w", err)
		}
	}
	refs := filepath.Join(m.dir, "refs")
	if err := os.RemoveAll(refs); err != nil {
		return fmt.Errorf("repair mirror: %w", err)
	}
	if err := os.Mkdir(refs, 0o700); err != nil {
		return fmt.Errorf("repair mirror: %w", err)
	}
	return nil
}

// packRefs puts refs into one file when there are many. The caller holds fetch.lock.
func (m *mirror) packRefs(ctx context.Context, loose int) error {
	if loose < manyLoose {
		return nil
	}
	return m.git.run(ctx, gitCall{args: []string{"pack-refs", "--all"}, gitDir: m.dir, umask: 0o022})
}

// The locks of a mirror: fetchLock is held while something is added, useLock (shared) while a workspace is open.
const (
	fetchLock = "fetch.lock"
	useLock   = "use.lock"
)

// maintain merges packs and drops unused files of Git LFS if nobody uses the mirror.
func (m *mirror) maintain(ctx context.Context) error {
	use, err := tryAcquire(filepath.Join(m.dir, useLock), exclusive)
	if errors.Is(err, errLocked) || errors.Is(err, fs.ErrNotExist) { // used, or evicted
		return nil
	}
	if err != nil {
		return err
	}
	defer use.release()
	if err := m.removeStale(); err != nil {
		return err
	}
	stores, err := filepath.Glob(filepath.Join(m.dir, "lfs*"))
	if err != nil {
		return err
	}
	for _, dir := range stores {
		if err := m.files(filepath.Base(dir)).Prune(ctx, unusedFiles); err != nil {
			return err
		}
	}
	packs, err := m.packs()
	if err != nil || len(packs) <= manyPacks {
		return err
	}
	// It joins packs as they are, so what no ref reaches stays too.
	return m.git.run(ctx, gitCall{
		args: []string{"repack", "--geometric=2", "-d", "-q"}, gitDir: m.dir, umask: 0o022, stdout: io.Discard,
	})
}

// removeStale removes temporary packs of a Git that was killed.
func (m *mirror) removeStale() error {
	names, err := filepath.Glob(filepath.Join(m.objectsDir(), "pack", "*tmp_*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		info, err := os.Lstat(name)
		if err == nil && time.Since(info.ModTime()) > staleAfter {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}
