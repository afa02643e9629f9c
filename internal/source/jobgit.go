package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// jobGit is the Git directory that a job sees. Two jobs of one commit in one workspace get the same bytes: a docker
// build that takes .git along stays cached. So there are no logs, no FETCH_HEAD, no names of pipelines and no tokens.
type jobGit struct {
	dir     string            // in the project folder: .git, or one below it for a submodule
	extra   string            // at the end of the config file
	owner   *Owner            // nil = this process's user
	packs   string            // folder whose packs the job gets as files of its own, "" = objects names them
	head    string            // commit, or "ref: ..." before the first checkout
	refs    map[string]string // name → object
	shallow []string          // sorted
	index   []byte            // of the work tree; nil = none
	format  string            // sha1 or sha256
	remote  string            // URL without credentials
	objects string            // path of the mirror's objects in the container
	umask   fs.FileMode
}

// gitFolder makes the empty folder for a Git directory outside of the project. It is the slot's; the job may write to it, and
// nobody reads what it leaves there.
func (w *Workspace) gitFolder(ctx context.Context, slot string) error {
	dir := filepath.Join(slot, "jobgit")
	if err := EmptyFolder(ctx, dir); err != nil || w.req.GitDir == "" {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	w.GitDir = dir
	return os.Chmod(dir, 0o777&^w.req.Umask)
}

// files are the contents of the directory.
func (g *jobGit) files() map[string][]byte {
	files := map[string][]byte{
		"HEAD": []byte(g.head + "\n"),
		"config": []byte(coreConfig(g.format, false) +
			"[remote \"origin\"]\n\turl = " + quoteConfig(g.remote) + "\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n" + g.extra),
	}
	if g.packs == "" {
		files["objects/info/alternates"] = []byte(g.objects + "\n")
	}
	if len(g.refs) > 0 {
		var b strings.Builder
		b.WriteString("# pack-refs with: sorted \n")
		for _, r := range sortedRefs(g.refs) {
			fmt.Fprintf(&b, "%s %s\n", r[1], r[0])
		}
		files["packed-refs"] = []byte(b.String())
	}
	if len(g.shallow) > 0 {
		files["shallow"] = []byte(strings.Join(g.shallow, "\n") + "\n")
	}
	if g.index != nil {
		files["index"] = g.index
	}
	return files
}

// quoteConfig writes a value for a Git config file.
func quoteConfig(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}

// write makes the directory in the project folder, which has none.
func (g *jobGit) write(root *os.Root) error {
	for _, d := range []string{"", "objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags"} {
		if err := makeDirs(root, path.Join(g.dir, d), 0o777&^g.umask, g.owner); err != nil {
			return err
		}
	}
	for name, data := range g.files() {
		if err := writeNew(root, path.Join(g.dir, name), data, 0o666&^g.umask, g.owner); err != nil {
			return err
		}
	}
	if g.packs != "" {
		return g.linkPacks(root)
	}
	return nil
}

// linkPacks gives the job the packs of a mirror. They are hard links, which stay this process's: nobody else can write to
// them. On another file system they are copies.
func (g *jobGit) linkPacks(root *os.Root) error {
	into, err := root.Open(path.Join(g.dir, "objects/pack"))
	if err != nil {
		return err
	}
	defer into.Close()
	files, err := filepath.Glob(filepath.Join(g.packs, "pack-*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		err := unix.Linkat(unix.AT_FDCWD, f, int(into.Fd()), filepath.Base(f), 0)
		if err == unix.EXDEV || err == unix.EPERM || err == unix.EMLINK {
			err = g.copyPack(root, f)
		}
		if err != nil {
			return withPath("give the job", f, err)
		}
	}
	return nil
}

func (g *jobGit) copyPack(root *os.Root, file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	name := path.Join(g.dir, "objects/pack", filepath.Base(file))
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(0o444), out.Close())
}

// makeDirs makes what is missing of the folders on the way to dir. Their modes are set one by one: the umask of this
// process says nothing about what the job may do.
func makeDirs(root *os.Root, dir string, mode fs.FileMode, owner *Owner) error {
	for i := range len(dir) + 1 {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		switch err := root.Mkdir(dir[:i], 0o700); {
		case errors.Is(err, fs.ErrExist):
		case err != nil:
			return err
		default:
			if err := root.Chmod(dir[:i], mode); err != nil {
				return err
			}
			if owner != nil {
				if err := root.Lchown(dir[:i], owner.UID, owner.GID); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func writeNew(root *os.Root, name string, data []byte, mode fs.FileMode, owner *Owner) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if owner != nil {
		err = errors.Join(err, f.Chown(owner.UID, owner.GID))
	}
	return errors.Join(err, f.Chmod(mode), f.Close())
}
