package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sweep goes through a work tree before Git does. Afterwards every tracked file that is still there is as the last
// checkout wrote it, tracked folders have their modes and owner back, and nothing is left that Git could stumble over:
// no .git at any place, no pipe that would make it wait, no path longer than it can handle.
//
// Without keep it also removes all that is not tracked, which is what git clean -ffdx does. Otherwise git clean comes
// later and decides by the job's own flags.
type sweep struct {
	index   *index
	keep    bool
	umask   fs.FileMode
	owner   Owner
	remover *remover
	report  func(path string, dir bool) // of what is removed and not tracked
	modules bool                        // what is in submodules stays: each is swept by itself

	intact int      // tracked entries that are as they were
	parked []string // folders of kept repositories, see park
}

const (
	longestPath = 3000 // bytes; Git needs some of the system's 4096 itself
	deepestPath = 200
)

// run sweeps the work tree dir.
func (s *sweep) run(ctx context.Context, dir *os.File) error {
	if _, err := dir.Seek(0, 0); err != nil {
		return err
	}
	return s.dir(ctx, dir, "", 0)
}

func (s *sweep) dir(ctx context.Context, f *os.File, rel string, depth int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	tracked := s.index.dirs[rel]
	if tracked {
		if err := s.restore(f, rel); err != nil {
			return err
		}
	}
	return each(f, s.full(rel), func(e os.DirEntry) error {
		name, path := e.Name(), join(rel, e.Name())
		ent, isEntry := s.index.entries[path]
		switch {
		case path == ".git":
			return nil // the car park
		case name == ".git" && s.keep && e.IsDir() && !tracked:
			return s.park(f, rel)
		case name == ".git":
			return s.discard(ctx, f, name, path, e)
		case isEntry && ent.submodule():
			return s.submodule(ctx, f, name, path, e)
		case isEntry:
			return s.file(ctx, f, name, path, ent)
		case s.index.dirs[path] && e.IsDir():
			return s.enter(ctx, f, name, path, depth)
		case s.index.dirs[path]:
			return s.discard(ctx, f, name, path, e)
		case !s.keep, special(e), len(path) > longestPath, depth > deepestPath:
			return s.discard(ctx, f, name, path, e)
		case tracked && name == ".gitattributes":
			// It would tell Git how to write the files of the commit.
			return s.discard(ctx, f, name, path, e)
		case e.IsDir():
			return s.enter(ctx, f, name, path, depth)
		}
		return nil
	})
}

func (s *sweep) enter(ctx context.Context, at *os.File, name, path string, depth int) error {
	f, err := openDir(at, name)
	if err != nil {
		return withPath("open", s.full(path), err)
	}
	defer f.Close()
	return s.dir(ctx, f, path, depth+1)
}

// restore gives a tracked folder its mode and owner, and takes what else a job may have hung on it. All of it goes
// into what a docker build takes for the folder's content, and may close it to the next job.
func (s *sweep) restore(f *os.File, rel string) error {
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return withPath("read", s.full(rel), err)
	}
	for _, name := range extras(fd) {
		_ = unix.Fchmod(fd, 0o700) // only who may write to it may remove them
		if err := unix.Fremovexattr(fd, name); err != nil {
			return withPath("remove "+name+" of", s.full(rel), err)
		}
		_ = unix.Fstat(fd, &st) // an access list is in the mode too
	}
	if os.Geteuid() == 0 && (st.Uid != uint32(s.owner.UID) || st.Gid != uint32(s.owner.GID)) {
		if err := unix.Fchown(fd, s.owner.UID, s.owner.GID); err != nil {
			return withPath("own", s.full(rel), err)
		}
	}
	if mode := uint32(0o777 &^ s.umask); st.Mode&0o7777 != mode {
		if err := unix.Fchmod(fd, mode); err != nil {
			return withPath("chmod", s.full(rel), err)
		}
	}
	return nil
}

// file removes a tracked file that is not as the checkout left it; Git writes it again. A file to which something was
// done that left no trace (chown -R to the owner that it has) is read and stays: to write it anew would change the
// index, and with it what a docker build has cached.
func (s *sweep) file(ctx context.Context, at *os.File, name, path string, ent entry) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(at.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return withPath("read", s.full(path), err)
	}
	if ent.looksSame(&st, uint32(s.umask)) && (ent.untouched(&st) || ent.sameContent(at, name)) {
		s.intact++
		return nil
	}
	return s.remover.remove(ctx, at, name, s.full(path))
}

func (s *sweep) submodule(ctx context.Context, at *os.File, name, path string, e os.DirEntry) error {
	if !e.IsDir() {
		return s.discard(ctx, at, name, path, e)
	}
	s.intact++
	if !s.modules {
		return s.hollow(ctx, at, name, path)
	}
	f, err := openDir(at, name)
	if err != nil {
		return withPath("open", s.full(path), err)
	}
	defer f.Close()
	// Git believes it, and would look for the submodule's commit where it leads.
	if err := s.remover.remove(ctx, f, ".git", s.full(join(path, ".git"))); err != nil {
		return err
	}
	return s.restore(f, path)
}

// hollow empties the folder of a submodule: Git believes what a .git in there says.
func (s *sweep) hollow(ctx context.Context, at *os.File, name, path string) error {
	if err := s.remover.empty(ctx, at, name, s.full(path)); err != nil {
		return err
	}
	f, err := openDir(at, name)
	if err != nil {
		return withPath("open", s.full(path), err)
	}
	defer f.Close()
	return s.restore(f, path)
}

// park moves the .git of a repository inside the work tree out of Git's sight, since Git reads every .git that it meets
// but one: the work tree's own, which is empty at this time. The rest of that repository stays where it is. In a
// tracked folder a .git is a trap and goes; elsewhere the job's clean flags may want to keep it.
func (s *sweep) park(at *os.File, rel string) error {
	lot := filepath.Join(s.remover.top.Name(), ".git", strconv.Itoa(len(s.parked)))
	if err := unix.Renameat(int(at.Fd()), ".git", unix.AT_FDCWD, lot); err != nil {
		return withPath("move", s.full(join(rel, ".git")), err)
	}
	s.parked = append(s.parked, rel)
	return nil
}

// unpark brings the parked .git back to folders that are still there and do not belong to the commit now.
func (s *sweep) unpark(now *index) error {
	root, err := os.OpenRoot(s.remover.top.Name())
	if err != nil {
		return err
	}
	defer root.Close()
	for i, rel := range s.parked {
		if now.dirs[rel] || now.entries[rel].submodule() {
			continue
		}
		err := root.Rename(filepath.Join(".git", strconv.Itoa(i)), join(rel, ".git"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return withPath("move", s.full(join(rel, ".git")), err)
		}
	}
	return nil
}

func (s *sweep) discard(ctx context.Context, at *os.File, name, path string, e os.DirEntry) error {
	if s.report != nil {
		s.report(path, e.IsDir())
	}
	return s.remover.remove(ctx, at, name, s.full(path))
}

func (s *sweep) full(rel string) string { return filepath.Join(s.remover.path, rel) }

// special: pipes, sockets and devices. Nobody keeps them from one job to the next.
func special(e os.DirEntry) bool {
	return e.Type()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeDevice|fs.ModeCharDevice|fs.ModeIrregular) != 0
}

func join(rel, name string) string {
	if rel == "" {
		return name
	}
	return rel + "/" + name
}

// removing is the line that git clean prints.
func removing(path string, dir bool) string {
	if dir {
		path += "/"
	}
	if strings.ContainsFunc(path, func(c rune) bool { return c < ' ' || c == 0x7f || c == '"' || c == '\\' || c == '�' }) {
		path = strconv.Quote(path)
	}
	return "Removing " + path + "\n"
}
