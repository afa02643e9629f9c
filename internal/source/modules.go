package source

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// What a job's submodules may come to. A branch that has itself as a submodule would never end.
const (
	deepestModule = 20
	mostModules   = 1000
	fetchedAtOnce = 4
)

// modulesFolder makes the empty folder from which a job reads the objects of its submodules. It is the slot's, and no
// job can write to it.
func (w *Workspace) modulesFolder(ctx context.Context, slot string) error {
	dir := filepath.Join(slot, "modules")
	// What the last job could read says nothing about this one.
	if err := EmptyFolder(ctx, dir); err != nil {
		return err
	}
	if !w.req.Submodules.on() || w.req.Objects == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	w.ModulesDir = dir
	return os.Chmod(dir, 0o755)
}

// EmptyFolder removes what is in a folder that no job can move, however deep it is; where there is no folder, there is nothing to do.
func EmptyFolder(ctx context.Context, dir string) error {
	f, err := openRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return (&remover{top: f, path: dir}).empty(ctx, f, ".", dir)
}

func (w *Workspace) closeModules() {
	for _, m := range w.modules {
		m.Close()
	}
	w.modules = nil
}

// bringModules lays the submodules of the commit out.
func (w *Workspace) bringModules(ctx context.Context, idx *index, p plan, out io.Writer) error {
	w.closeModules()
	if !w.req.Submodules.on() {
		notice(out, "Skipping Git submodules setup")
		return nil
	}
	mp, err := w.req.Submodules.plan()
	if err != nil {
		return err
	}
	for _, f := range mp.ignored {
		fmt.Fprintf(out, "WARNING: GIT_SUBMODULE_UPDATE_FLAGS: %s has no meaning on this runner and is left out\n", f)
	}
	how := ""
	if mp.recursive {
		how = " recursively"
	}
	if mp.depth > 0 {
		how += fmt.Sprintf(" with git depth set to %d", mp.depth)
	}
	notice(out, "Updating/initializing submodules"+how+"...")
	return w.bringLevel(ctx, nil, idx, mp, p.clean, out)
}

// bringLevel lays out the submodules right below the project (parent nil) or below a submodule.
func (w *Workspace) bringLevel(ctx context.Context, parent *module, idx *index, mp modulePlan, clean cleanFlags, out io.Writer) error {
	in := w
	if parent != nil {
		in = parent.Workspace
	}
	paths := idx.submodules()
	if len(paths) == 0 {
		return nil
	}
	wanted := map[string]bool{}
	if parent == nil || mp.recursive {
		specs := mp.paths
		if parent != nil {
			specs = pathspecs{all: true}
		}
		var err error
		if wanted, err = specs.pick(paths); err != nil {
			return err
		}
	}
	modules, left, err := w.openModules(ctx, in, parent, idx, wanted)
	if err != nil {
		return err
	}
	if err := in.emptySubmodules(ctx, in.sweeper(), left); err != nil {
		return err
	}
	if err := fetchModules(ctx, modules, mp); err != nil {
		return err
	}
	for _, m := range modules {
		if err := w.layOutModule(ctx, in, m, mp, clean, out); err != nil {
			return fmt.Errorf("submodule %s: %w", m.path, err)
		}
	}
	return nil
}

// openModules adds the submodules of one level that are wanted; left are the paths of the others.
func (w *Workspace) openModules(ctx context.Context, in *Workspace, parent *module, idx *index, wanted map[string]bool) (modules []*module, left []string, err error) {
	specs, err := in.gitmodules(ctx, idx)
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for _, path := range idx.submodules() {
		spec, known := specs[path]
		if !wanted[path] || spec.skip {
			left = append(left, path)
			continue
		}
		if !known {
			// Git: fatal, in these words.
			return nil, nil, scriptError("add the submodule to .gitmodules, or take it out of the commit (git rm --cached)", "no url found for submodule path '%s' in .gitmodules", path)
		}
		if len(w.modules) >= mostModules || parent != nil && parent.depth+1 >= deepestModule {
			return nil, nil, scriptError("GIT_SUBMODULE_PATHS picks those that the job needs", "the project has more than %d submodules, or more than %d within each other", mostModules, deepestModule)
		}
		if spec.branch == "." { // Git: the branch of the project
			spec.branch = in.req.Git.Ref
		}
		m, err := w.module(ctx, parent, spec, hex.EncodeToString([]byte(idx.entries[path].oid)))
		if err != nil {
			return nil, nil, fmt.Errorf("submodule %s: %w", path, err)
		}
		w.modules, modules, names = append(w.modules, m), append(modules, m), append(names, spec.name)
	}
	return modules, left, checkNested(names)
}

// fetchModules fetches several at once: most of the time goes into waiting for the server.
func fetchModules(ctx context.Context, modules []*module, mp modulePlan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(modules))
	places := make(chan struct{}, fetchedAtOnce)
	var wg sync.WaitGroup
	for i, m := range modules {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if ctx.Err() != nil {
				return
			}
			if err := m.fetch(ctx, mp); err != nil {
				errs[i] = fmt.Errorf("submodule %s: %w", m.path, err)
				cancel()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

func (w *Workspace) layOutModule(ctx context.Context, in *Workspace, m *module, mp modulePlan, clean cleanFlags, out io.Writer) error {
	var err error
	if m.project, err = in.openTracked(m.spec.path); err != nil {
		return withPath("open", m.Dir, err)
	}
	idx, err := m.layOut(ctx, clean, out)
	if err != nil {
		return err
	}
	if idx, err = m.bringLFS(ctx, idx, out); err != nil {
		return err
	}
	m.index = idx.raw
	if w.ModulesDir != "" {
		if err := m.expose(w.ModulesDir); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "Submodule path '%s': checked out '%s'\n", m.path, m.req.Git.SHA)
	return w.bringLevel(ctx, m, idx, mp, clean, out)
}

// sweeper works on single folders of the project.
func (w *Workspace) sweeper() *sweep {
	return &sweep{umask: w.req.Umask, owner: w.req.owner(), remover: &remover{top: w.project, path: w.Dir}}
}

// emptyFormer empties the folders of those submodules that are none in the new commit, so that Git can put something else
// in their place.
func (w *Workspace) emptyFormer(ctx context.Context, s *sweep, idx *index) error {
	paths := idx.submodules()
	if len(paths) == 0 || w.checkedOut() == w.req.Git.SHA {
		return nil
	}
	there := map[string]bool{}
	if len(paths) <= mostModules {
		out := &bounded{limit: largestModules}
		err := w.store.git.run(ctx, gitCall{
			args: append([]string{"ls-tree", "-z", w.req.Git.SHA, "--"}, paths...), gitDir: w.mirror.dir, umask: 0o077, stdout: out,
		})
		if err != nil {
			return explainCheckout(err, w.Dir)
		}
		there = gitlinks(out.String())
	}
	for _, path := range paths {
		if there[path] {
			continue
		}
		err := w.emptySubmodules(ctx, s, []string{path})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// unlinkModules takes away what leads from submodules to Git directories that are no more.
func (w *Workspace) unlinkModules(ctx context.Context, idx *index) error {
	rm := &remover{top: w.project, path: w.Dir}
	for _, path := range idx.submodules() {
		dir, err := w.openTracked(path)
		if err != nil {
			continue // the job took it away, or put something else there
		}
		err = rm.remove(ctx, dir, ".git", filepath.Join(w.Dir, path, ".git"))
		dir.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
