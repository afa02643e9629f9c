package source

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/job"
)

// Request says which sources a job wants and where.
type Request struct {
	Server      string // base URL of the GitLab instance; with ProjectID it names the mirror
	ProjectID   int64
	ProjectPath string // group/project, for people
	Slot        string // tells workspaces of one project apart: letters, digits, ".", "_" and "-"

	// Root and Rel put the project folder at Root/Rel and the temporary one at Root/Rel.tmp instead of into the state
	// folder, for an operator who mounts a folder of the host over the builds folder. Jobs may write anywhere below
	// Root. Two slots must not share a Rel.
	Root, Rel string

	Git       job.Git
	Token     job.Secret
	RemoteURL string // what Git fetches from, and the remote that the job sees; "" = Git.RepoURL. Credentials in it are dropped

	Strategy   Strategy    // "" = Fetch
	Checkout   bool        // GIT_CHECKOUT; false = fetch, but touch nothing in the work tree
	CleanFlags []string    // Words of GIT_CLEAN_FLAGS
	FetchFlags []string    // Words of GIT_FETCH_EXTRA_FLAGS
	SkipLFS    bool        // GIT_LFS_SKIP_SMUDGE: the job wants the pointers of Git LFS
	Umask      fs.FileMode // of all that the job gets. GitLab: 0000, 0022 with FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR

	Submodules    Submodules
	GitDir        string   // path of Workspace.GitDir inside the container: the project's .git is a file that leads there; "" = it is a folder. Not with Submodules
	Owner         *Owner   // whom the job's files belong to; nil = whoever this process is
	Objects       string   // path of Workspace.ObjectsDir inside the container; "" = the job's .git has the objects itself
	Modules       string   // path of Workspace.ModulesDir inside the container; needed with Submodules
	CAFile        string   // certificates that the Git server may have, "" = the system's
	UserAgent     string   // of requests to the Git server
	CorrelationID string   // sent to the Git server, may be empty
	Schemes       []string // of RemoteURL; nil = http and https

	extra   []setting // for requests to the server
	foreign bool      // it is another server than the one that the job came from
}

// Workspace is one job's place on the host. It is held, with its mirror, until Close.
type Workspace struct {
	Dir        string // host path of the project folder: CI_PROJECT_DIR
	TempDir    string // host path of RUNNER_TEMP_PROJECT_DIR, empty at first
	ObjectsDir string // host path to mount read-only at Request.Objects
	ModulesDir string // host path to mount read-only at Request.Modules; "" without submodules
	GitDir     string // host path to mount at Request.GitDir; "" without that

	store    *Store
	req      Request
	mirror   *mirror
	state    string // host-only folder with the index
	project  *os.File
	slot     *lock
	use      *lock
	modules  []*module // laid out, parents first
	attempts int
	refetch  bool     // the mirror lacks something that it should have: all is fetched as if there were nothing, if it was not lately
	hidden   string   // where the project folder has been put away; "" = it is in its place
	stale    []string // in the project folder: files of former jobs that could not be removed
}

var slotName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)

// What lies in a slot's folder besides its project: the lock, and the folder with the index.
const (
	slotLock  = "lock"
	slotState = "git"
)

// Workspace makes the folders of a job and holds them for it, waiting for another job in the same slot to end. It does
// no Git yet: the job's container can be made from the three folders meanwhile, but nothing may run in it before
// Checkout has returned. A *PermissionError is as that of Checkout.
func (s *Store) Workspace(ctx context.Context, req Request) (_ *Workspace, err error) {
	if err := req.complete(); err != nil {
		return nil, fmt.Errorf("open workspace: %w", err)
	}
	key := req.key()
	w := &Workspace{store: s, req: req, mirror: &mirror{dir: filepath.Join(s.dir, "mirrors", key), git: s.git}}
	w.ObjectsDir = w.mirror.objectsDir()
	slot := filepath.Join(s.dir, "workspaces", key, req.Slot)
	w.state = filepath.Join(slot, slotState)
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if w.slot, err = hold(ctx, slot, slotLock, exclusive); err != nil {
		return nil, fmt.Errorf("open workspace: %w", err)
	}
	if w.use, err = hold(ctx, w.mirror.dir, useLock, shared); err != nil {
		return nil, fmt.Errorf("open workspace: %w", err)
	}
	if err := errors.Join(w.slot.touch(), w.use.touch(), privateDir(w.state)); err != nil {
		return nil, fmt.Errorf("open workspace: %w", err)
	}
	if err := w.mirror.create(req.Git.RepoObjectFormat); err != nil {
		return nil, fmt.Errorf("open workspace: %w", err)
	}
	if err := w.folders(ctx, slot); err != nil {
		return nil, fmt.Errorf("open workspace: %w", w.denied(err))
	}
	if err := errors.Join(w.modulesFolder(ctx, slot), w.gitFolder(ctx, slot), w.removeLeftovers(ctx, slot)); err != nil {
		return nil, fmt.Errorf("open workspace: %w", w.denied(err))
	}
	return w, nil
}

// Root opens the project folder: nothing outside of it can be reached through it, whatever a job has put there.
func (w *Workspace) Root() (*os.Root, error) {
	// The kernel's link leads to the folder that is held, whatever has become of its path.
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", w.project.Fd()))
	if err != nil {
		return nil, fmt.Errorf("open the project folder: %w", err)
	}
	return root, nil
}

// Tracked returns whether Git knows a file, as of the last checkout; names are relative to the project folder.
func (w *Workspace) Tracked() (func(name string) bool, error) {
	if w.req.Strategy == Empty {
		return func(string) bool { return false }, nil
	}
	idx, err := w.readIndex()
	if err != nil {
		return nil, fmt.Errorf("read what Git knows: %w", err)
	}
	return func(name string) bool { _, ok := idx.entries[name]; return ok }, nil
}

// complete fills in defaults and refuses what would be dangerous in a path or a file of ours.
func (r *Request) complete() error {
	if r.RemoteURL == "" {
		r.RemoteURL = r.Git.RepoURL
	}
	if r.Schemes == nil {
		r.Schemes = []string{"http", "https"}
	}
	if r.Strategy == "" {
		r.Strategy = Fetch
	}
	r.Umask &= 0o777
	switch {
	case r.Server == "" || r.ProjectID <= 0:
		return errors.New("the request names no project")
	case !slotName.MatchString(r.Slot):
		return fmt.Errorf("bad slot name %q", r.Slot)
	case r.Root == "" && r.Rel != "", r.Root != "" && !(filepath.IsAbs(r.Root) && r.Rel != "." && filepath.IsLocal(r.Rel)):
		return fmt.Errorf("bad project folder %q in %q", r.Rel, r.Root)
	case r.Objects != "" && !filepath.IsAbs(r.Objects) || strings.ContainsAny(r.Objects, "\n\""):
		return fmt.Errorf("bad path of the objects in the container %q", r.Objects)
	case r.GitDir != "" && (r.Objects == "" || r.Submodules.on() || !filepath.IsAbs(r.GitDir) || strings.ContainsAny(r.GitDir, "\n")):
		return fmt.Errorf("bad path of the Git directory in the container %q", r.GitDir)
	case r.Objects != "" && r.Submodules.on() && (!filepath.IsAbs(r.Modules) || strings.ContainsAny(r.Modules, "\n\"")):
		return fmt.Errorf("bad path of the submodules' objects in the container %q", r.Modules)
	}
	return nil
}

var unreadable = regexp.MustCompile(`[^a-z0-9.-]+`)

// key names the project in paths. Its path on the server may change and is left out.
func (r *Request) key() string {
	server := strings.TrimRight(strings.ToLower(r.Server), "/")
	host := server
	if _, rest, ok := strings.Cut(server, "://"); ok {
		host = rest
	}
	format := r.Git.RepoObjectFormat
	if format == "sha1" {
		format = ""
	}
	id := strconv.FormatInt(r.ProjectID, 10)
	sum := sha256.Sum256([]byte(server + "\n" + id + "\n" + format))
	host = strings.Trim(unreadable.ReplaceAllString(host, "-"), ".-")
	return host[:min(40, len(host))] + "-" + id + "-" + hex.EncodeToString(sum[:6])
}

// folders opens the project folder and empties the temporary one.
func (w *Workspace) folders(ctx context.Context, slot string) error {
	root, project, temp := slot, "project", "tmp"
	if w.req.Root != "" {
		root, project, temp = w.req.Root, w.req.Rel, w.req.Rel+".tmp"
		if err := os.MkdirAll(root, 0o755); err != nil {
			return err
		}
		if w.req.Owner != nil {
			if err := outOfReach(root, w.req.Owner.UID); err != nil {
				return err
			}
		}
	}
	if w.req.Strategy == Empty {
		project += "-empty" // GitLab: the kept work tree of other jobs is not lost
	}
	w.Dir, w.TempDir = filepath.Join(root, project), filepath.Join(root, temp)
	if os.Geteuid() == 0 { // only root hides folders
		if err := w.bringBack(ctx); err != nil {
			return err
		}
	}
	top, err := openRoot(root)
	if err != nil {
		return err
	}
	defer top.Close()
	if w.project, err = w.folder(top, project); err != nil {
		return withPath("open", w.Dir, err)
	}
	if err := w.give(w.project); err != nil {
		return withPath("own", w.Dir, err)
	}
	tmp, err := w.folder(top, temp)
	if err != nil {
		return withPath("open", w.TempDir, err)
	}
	if err := w.give(tmp); err != nil {
		tmp.Close()
		return withPath("own", w.TempDir, err)
	}
	err = w.clear(ctx, tmp, w.TempDir)
	tmp.Close()
	var denied *PermissionError
	if !errors.As(err, &denied) {
		return err
	}
	// The job needs an empty folder now.
	if err := w.putAside(top, temp); err != nil {
		return withPath("move", w.TempDir, err)
	}
	if tmp, err = w.folder(top, temp); err != nil {
		return withPath("open", w.TempDir, err)
	}
	return tmp.Close()
}

// denied tells a PermissionError which folders are concerned.
func (w *Workspace) denied(err error) error {
	var p *PermissionError
	if errors.As(err, &p) {
		p.Folders = []string{w.Dir, w.TempDir}
	}
	return err
}

// putAside moves what this process may not remove into the project: Checkout tells whoever can.
func (w *Workspace) putAside(at *os.File, name string) error {
	stale := "slipway-" + rand.Text()
	if err := unix.Renameat(int(at.Fd()), name, int(w.project.Fd()), stale); err != nil {
		return err
	}
	w.stale = append(w.stale, stale)
	return nil
}

func (w *Workspace) removeStale(ctx context.Context) error {
	rm := &remover{top: w.project, path: w.Dir}
	for _, name := range w.stale {
		if err := rm.remove(ctx, w.project, name, filepath.Join(w.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// removeLeftovers removes what is left of the workspace where its removal ended half way.
func (w *Workspace) removeLeftovers(ctx context.Context, slot string) error {
	left, err := filepath.Glob(filepath.Join(slot, movedAway+"*"))
	if err != nil || len(left) == 0 {
		return err
	}
	top, err := openRoot(slot)
	if err != nil {
		return err
	}
	defer top.Close()
	rm := &remover{top: top, path: slot}
	for _, path := range left {
		name := filepath.Base(path)
		err := rm.remove(ctx, top, name, path)
		if errors.As(err, new(*PermissionError)) {
			if err = w.putAside(top, name); err != nil { // it is in nobody's way
				w.store.log.Warn("files of former jobs stay", slog.String("dir", path), slog.Any("error", err))
				continue
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// folder opens rel below top, makes what is missing, and puts a folder in the place of anything else.
func (w *Workspace) folder(top *os.File, rel string) (*os.File, error) {
	at := top
	for name := range strings.SplitSeq(filepath.Clean(rel), "/") {
		next, err := openDir(at, name)
		if err == unix.ENOTDIR || err == unix.ELOOP { // a link to somewhere, say
			err = unix.Unlinkat(int(at.Fd()), name, 0)
		}
		if next == nil && (err == nil || err == unix.ENOENT) {
			if err = unix.Mkdirat(int(at.Fd()), name, 0o700); err == nil || err == unix.EEXIST {
				next, err = openDir(at, name)
			}
		}
		if err == nil {
			// A job may have closed it, or asked for another umask. What belongs to others is left to complain about
			// when it gets in the way.
			_ = next.Chmod(0o777 &^ w.req.Umask)
		}
		if at != top {
			at.Close()
		}
		if err != nil {
			if next != nil {
				next.Close()
			}
			return nil, err
		}
		at = next
	}
	return at, nil
}

// clear empties a folder that jobs write to, and gives it its mode back.
func (w *Workspace) clear(ctx context.Context, dir *os.File, path string) error {
	none, err := parseIndex(nil, 0)
	if err != nil {
		return err
	}
	rm := &remover{top: dir, path: path}
	if err := rm.remove(ctx, dir, ".git", filepath.Join(path, ".git")); err != nil {
		return err
	}
	s := &sweep{index: none, umask: w.req.Umask, owner: w.req.owner(), remover: rm}
	return s.run(ctx, dir)
}

// Close gives the workspace and the mirror back. The folders stay for the next job.
func (w *Workspace) Close() error {
	w.closeModules()
	err := w.Show(context.Background())
	if w.project != nil {
		w.project.Close()
		w.project = nil
	}
	w.use.release()
	w.slot.release()
	w.use, w.slot = nil, nil
	return err
}
