package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Selection says which files of a folder are wanted.
type Selection struct {
	Dir     string   // the folder's path as those call it who wrote Paths: for absolute ones
	Paths   []string // globs, of files and of folders with all that is in them
	Exclude []string // globs of what is left out; a folder's own does not stand for what is in it

	// Tracked reports whether Git knows a file; those that it does not know are wanted too. nil = only Paths are.
	Tracked func(name string) bool
}

// Found is what a selection found.
type Found struct {
	Names   []string // of files, folders and links, relative to the folder, sorted
	Matches []Match  // one per path of the selection, and one with the path "untracked"
}

// Match tells what one path of a selection found.
type Match struct {
	Path  string
	Count int    // files, folders and links
	Err   error  // why it cannot find anything
	Skip  string // what was left out: a path that is too long, or no file
}

// finder collects names.
type finder struct {
	ctx     context.Context
	fsys    fs.FS
	exclude []string
	names   map[string]bool
}

// Find looks for the files of a selection. Links are found, never followed, but for those on the way to a glob's fixed part,
// as long as they stay in the folder. The error is ctx's, or says that there is too much.
//
// GitLab: globs are doublestar's; what is outside the folder is a warning, as is a path without any match.
func Find(ctx context.Context, root *os.Root, sel Selection) (*Found, error) {
	f := &finder{ctx: ctx, fsys: root.FS(), names: map[string]bool{}}
	out := &Found{}
	for _, glob := range sel.Exclude {
		rel, err := relative(sel.Dir, glob)
		if err != nil {
			out.Matches = append(out.Matches, Match{Path: glob, Err: err})
			continue
		}
		f.exclude = append(f.exclude, rel)
	}
	for _, glob := range sel.Paths {
		m := Match{Path: glob}
		rel, err := relative(sel.Dir, glob)
		if err == nil {
			err = f.glob(rel, &m)
		}
		if f.stopped() != nil {
			return nil, f.stopped()
		}
		m.Err = err
		out.Matches = append(out.Matches, m)
	}
	if sel.Tracked != nil {
		m := Match{Path: "untracked"}
		m.Err = f.untracked(sel.Tracked, &m)
		if f.stopped() != nil {
			return nil, f.stopped()
		}
		out.Matches = append(out.Matches, m)
	}
	for name := range f.names {
		out.Names = append(out.Names, name)
	}
	slices.Sort(out.Names)
	return out, nil
}

// relative is a glob within the folder.
func relative(dir, glob string) (string, error) {
	rel := glob
	if path.IsAbs(glob) {
		inside, ok := strings.CutPrefix(path.Clean(glob)+"/", path.Clean(dir)+"/")
		if !ok {
			return "", fmt.Errorf("it is not in the project folder %s", dir)
		}
		rel = inside
	}
	rel = path.Clean(rel)
	if rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("it is not in the project folder %s", dir)
	}
	if !doublestar.ValidatePattern(rel) {
		return "", errors.New("it is no valid glob")
	}
	return rel, nil
}

var errTooMany = fmt.Errorf("there are more than %d files", maxEntries)

// stopped says why the search as a whole is over.
func (f *finder) stopped() error {
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	if len(f.names) > maxEntries {
		return errTooMany
	}
	return nil
}

func (f *finder) glob(glob string, m *Match) error {
	if !strings.ContainsAny(glob, `*?[{\`) { // a link may lead nowhere
		return f.tree(glob, m)
	}
	err := doublestar.GlobWalk(f.fsys, glob, func(name string, _ fs.DirEntry) error {
		return f.tree(name, m)
	}, doublestar.WithNoFollow())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// tree adds a file, or a folder with all that is in it.
func (f *finder) tree(name string, m *Match) error {
	info, err := fs.Lstat(f.fsys, name)
	if err != nil || !info.IsDir() { // WalkDir would follow a link here
		if err == nil {
			return f.visit(name, fs.FileInfoToDirEntry(info), nil, m, true)
		}
		return f.visit(name, nil, err, m, true)
	}
	return fs.WalkDir(f.fsys, name, func(name string, d fs.DirEntry, err error) error {
		return f.visit(name, d, err, m, true)
	})
}

// visit adds what a walk comes by.
func (f *finder) visit(name string, d fs.DirEntry, err error, m *Match, folders bool) error {
	if stop := f.stopped(); stop != nil {
		return stop
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // it was removed meanwhile
		return nil
	case err != nil:
		m.Skip = err.Error()
		if d != nil && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	case len(name) > maxName:
		m.Skip = fmt.Sprintf("%.100s…: the path is too long", name)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	}
	switch d.Type() {
	case 0, fs.ModeSymlink:
	case fs.ModeDir:
		if !folders || name == "." {
			return nil
		}
	default:
		m.Skip = fmt.Sprintf("%s is neither a file nor a folder", name)
		return nil
	}
	for _, glob := range f.exclude {
		if doublestar.MatchUnvalidated(glob, name) {
			return nil
		}
	}
	f.names[name] = true
	m.Count++
	return nil
}

// untracked adds the files that Git does not know. As for Git, a repository in the folder is not its own.
func (f *finder) untracked(tracked func(name string) bool, m *Match) error {
	return fs.WalkDir(f.fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && name != "." {
			if _, serr := fs.Lstat(f.fsys, path.Join(name, ".git")); name == ".git" || serr == nil {
				return fs.SkipDir
			}
		}
		if err == nil && tracked(name) {
			return nil
		}
		return f.visit(name, d, err, m, false)
	})
}
