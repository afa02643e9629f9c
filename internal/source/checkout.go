package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Checkout brings the job's commit into the project folder and writes the job's .git. What a user would see of Git goes
// to out. Nothing else may write to the folder meanwhile.
//
// A second call for the same workspace starts from an empty folder (GitLab: GET_SOURCES_ATTEMPTS does so).
// What the job's author or the server is to blame for comes back as a *job.Error; a *PermissionError means that files
// of the last job must be removed by somebody with more rights first.
func (w *Workspace) Checkout(ctx context.Context, out io.Writer) (err error) {
	begin, processes := time.Now(), w.store.git.started.Load()
	defer func() {
		w.store.log.DebugContext(ctx, "sources laid out", slog.String("dir", w.Dir), slog.Duration("took", time.Since(begin)),
			slog.Int64("git_processes", w.store.git.started.Load()-processes), slog.Any("error", err))
	}()
	if err := w.removeStale(ctx); err != nil {
		return w.denied(err)
	}
	w.attempts++
	defer func() {
		if errors.As(w.denied(err), new(*PermissionError)) {
			w.attempts-- // nothing is wrong with the rest
		}
	}()
	switch w.req.Strategy {
	case None:
		notice(out, "Skipping Git repository setup")
		notice(out, "Skipping Git checkout")
		return nil
	case Empty:
		notice(out, "Skipping Git repository setup and creating an empty build directory")
		return w.clear(ctx, w.project, w.Dir)
	case Fetch, Clone:
	default:
		return fmt.Errorf("unknown GIT_STRATEGY %q", w.req.Strategy)
	}
	if !isOID(w.req.Git.SHA) {
		return fmt.Errorf("%q is not a commit", w.req.Git.SHA)
	}
	if w.req.Strategy == Clone || w.attempts > 1 {
		if err := w.wipe(ctx); err != nil {
			return err
		}
	}
	err = w.bring(ctx, out)
	if lacksObjects(err) && w.store.git.refetch && !w.refetch {
		err = w.repair(ctx, out, begin, err)
	}
	var ge *gitError
	if errors.As(err, &ge) {
		fmt.Fprintln(out, strings.TrimRight(ge.stderr, "\n")) // what Git said, in full
	}
	return err
}

// repair tries again after damage was found: with all of the job's branch, unless that was tried not long ago and did not help.
func (w *Workspace) repair(ctx context.Context, out io.Writer, begin time.Time, damage error) error {
	due, done := false, false
	all := []*Workspace{w}
	for _, m := range w.modules {
		all = append(all, m.Workspace)
	}
	for _, one := range all {
		refetches, err := one.mirror.refetches()
		if err != nil {
			return err
		}
		at := refetches[one.req.refetchName()]
		due = due || !lately(at)
		done = done || at.After(begin) // by a neighbour that found the same
	}
	log := w.store.log.With(slog.String("dir", w.mirror.dir), slog.Any("error", damage))
	switch {
	case due:
		log.WarnContext(ctx, "a mirror is damaged, fetching all of it again")
		notice(out, "What this machine has of the repository is damaged, fetching all of it...")
	case done:
		notice(out, "What this machine had of the repository was damaged, trying again...")
	default:
		log.WarnContext(ctx, "a mirror is damaged although all that the job needs was fetched again not long ago")
		return damage
	}
	w.refetch = true
	w.closeModules()
	return w.bring(ctx, out)
}

func (w *Workspace) bring(ctx context.Context, out io.Writer) error {
	p, err := w.plan()
	if err != nil {
		return err
	}
	for _, f := range p.fetch.ignored {
		fmt.Fprintf(out, "WARNING: GIT_FETCH_EXTRA_FLAGS: %s has no meaning on this runner and is left out\n", f)
	}
	if d := w.req.Git.Depth; d > 0 {
		notice(out, fmt.Sprintf("Fetching changes with git depth set to %d...", d))
	} else {
		notice(out, "Fetching changes...")
	}
	o, err := w.store.git.objects(ctx, w.mirror.dir)
	if err != nil {
		return err
	}
	defer o.close()
	src, err := w.obtain(ctx, o, p)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	if !w.req.Checkout {
		notice(out, "Skipping Git checkout")
		return w.keepTree(ctx, o, p, src)
	}
	notice(out, fmt.Sprintf("Checking out %.8s as detached HEAD (ref is %s)...", w.req.Git.SHA, w.req.Git.Ref))
	idx, err := w.layOut(ctx, p.clean, out)
	if err != nil {
		return err
	}
	if idx, err = w.bringLFS(ctx, idx, out); err != nil {
		return err
	}
	if err := w.bringModules(ctx, idx, p, out); err != nil {
		return err
	}
	return w.writeJobGit(w.req.Git.SHA, src, idx.raw)
}

// keepTree serves GIT_CHECKOUT=false: the work tree stays on the commit that it has.
func (w *Workspace) keepTree(ctx context.Context, o *objects, p plan, src sources) error {
	rm := &remover{top: w.project, path: w.Dir}
	if err := rm.remove(ctx, w.project, ".git", filepath.Join(w.Dir, ".git")); err != nil {
		return err
	}
	head := w.checkedOut()
	if isOID(head) {
		past, err := o.past(p.depth, w.req.Git.SHA, head)
		if err != nil {
			return err
		}
		if past.found {
			idx, err := w.readIndex()
			if err != nil {
				return err
			}
			if p.depth > 0 {
				src.past = past
			}
			if err := w.unlinkModules(ctx, idx); err != nil {
				return err
			}
			return w.writeJobGit(head, src, idx.raw)
		}
	}
	// GitLab: git init with init.defaultBranch = none.
	return w.writeJobGit("ref: refs/heads/none", src, nil)
}

func (w *Workspace) writeJobGit(head string, src sources, index []byte) error {
	remote, err := cleanRemote(w.req.RemoteURL, w.req.Schemes)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(w.project.Name())
	if err != nil {
		return err
	}
	defer root.Close()
	g := jobGit{
		dir: ".git", head: head, refs: src.refs, shallow: src.past.boundary, index: index, format: w.req.Git.RepoObjectFormat,
		remote: remote.String(), objects: w.req.Objects, umask: w.req.Umask, extra: modulesConfig(w.modules, ""), owner: w.req.Owner,
	}
	if w.req.Objects == "" {
		g.packs = filepath.Join(w.mirror.objectsDir(), "pack")
	}
	if w.GitDir != "" {
		err = w.writeOutside(root, &g)
	} else {
		err = g.write(root)
	}
	for _, m := range w.modules {
		if err == nil {
			err = m.writeJobGit(root, w)
		}
	}
	if err != nil {
		return withPath("write", filepath.Join(w.Dir, ".git"), err)
	}
	return nil
}

// writeOutside writes the Git directory beside the project, and the file in the project that leads there.
func (w *Workspace) writeOutside(project *os.Root, g *jobGit) error {
	root, err := os.OpenRoot(w.GitDir)
	if err != nil {
		return err
	}
	defer root.Close()
	g.dir = "."
	if err := g.write(root); err != nil {
		return err
	}
	return writeNew(project, ".git", []byte("gitdir: "+w.req.GitDir+"\n"), 0o666&^w.req.Umask, w.req.Owner)
}

// notice prints a line of the runner's own, green as GitLab's are.
func notice(out io.Writer, text string) { fmt.Fprintf(out, "\x1b[32;1m%s\x1b[0;m\n", text) }
