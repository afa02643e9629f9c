package pin

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Place is a folder or a file of this machine that is seen somewhere else.
type Place struct {
	At       string // where it is seen, absolute and clean
	Source   string // on this machine
	ReadOnly bool   // nothing is made in it
}

// View is the tree of files of somebody who has nothing of this machine but some places: a job in its container.
type View []Place

// OutsideError says that a path leads to where the view has no place.
type OutsideError struct {
	Path string // in the view, with all links that were seen followed
}

func (e *OutsideError) Error() string { return e.Path + " is outside of all places" }

// maxLinks is the kernel's own limit.
const maxLinks = 40

// maxDepth bounds the files that are held open on the way: links can make a path longer than the kernel would take.
const maxDepth = 256

// Open follows a path as the view's owner would: links lead where they lead in the view, not where they lead on this
// machine. Each name is looked up in a folder that is held open, and no name is ever looked up twice, so that nobody can
// lead it elsewhere by swapping names. With create, folders that are missing are made.
//
// The error is an *OutsideError, fs.ErrNotExist, or one of the kernel's.
func (v View) Open(name string, create bool) (*File, error) {
	if !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return nil, fmt.Errorf("open %q: %w", name, fs.ErrInvalid)
	}
	w := &walk{view: v, create: create}
	defer w.close()
	if err := w.enter(""); err != nil {
		return nil, err
	}
	w.todo = strings.Split(name, "/")
	for len(w.todo) > 0 {
		next := w.todo[0]
		w.todo = w.todo[1:]
		if err := w.step(next); err != nil {
			return nil, err
		}
	}
	return w.file()
}

// node is one step of the way from the view's root.
type node struct {
	name  string
	place int // -1: in none
	fd    int // -1 in none
}

type walk struct {
	view   View
	create bool
	way    []node
	todo   []string
	links  int
}

func (w *walk) here() node { return w.way[len(w.way)-1] }

func (w *walk) close() {
	for _, n := range w.way {
		if n.fd >= 0 {
			_ = unix.Close(n.fd)
		}
	}
}

// at is the path of a child of here, in the view.
func (w *walk) at(child string) string {
	names := make([]string, 0, len(w.way))
	for _, n := range w.way {
		names = append(names, n.name)
	}
	return path.Join("/", path.Join(names...), child)
}

func (w *walk) step(name string) error {
	switch name {
	case "", ".":
		return w.mustBeDir()
	case "..":
		if err := w.mustBeDir(); err != nil {
			return err
		}
		w.up()
		return nil
	}
	return w.enter(name)
}

// mustBeDir refuses "file/." and "file/..", as the kernel does. A trailing slash comes here too.
func (w *walk) mustBeDir() error {
	n := w.here()
	if n.fd < 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	return nil
}

// up goes back along the way that was come: a folder that was moved meanwhile leads nowhere else.
func (w *walk) up() {
	if len(w.way) == 1 {
		return
	}
	if n := w.here(); n.fd >= 0 {
		_ = unix.Close(n.fd)
	}
	w.way = w.way[:len(w.way)-1]
}

// enter goes down to a child of here: to a place, if one is seen there.
func (w *walk) enter(name string) error {
	if len(w.way) > maxDepth {
		return unix.ENAMETOOLONG
	}
	at := "/"
	parent := node{place: -1, fd: -1}
	if len(w.way) > 0 {
		at, parent = w.at(name), w.here()
	}
	// The last mount at a path covers those before it.
	for i := len(w.view) - 1; i >= 0; i-- {
		if w.view[i].At != at {
			continue
		}
		fd, err := unix.Open(w.view[i].Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", at, err)
		}
		w.way = append(w.way, node{name, i, fd})
		return nil
	}
	if parent.fd < 0 {
		w.way = append(w.way, node{name, -1, -1})
		return nil
	}
	return w.open(parent, name)
}

// open looks one name up in an open folder and goes there, or puts a link's names before those that are to do.
func (w *walk) open(parent node, name string) error {
	fd, err := w.openat(parent, name)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		w.way = append(w.way, node{name, parent.place, fd})
		return nil
	}
	target, err := readlink(fd)
	_ = unix.Close(fd)
	if err != nil {
		return err
	}
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	if path.IsAbs(target) {
		for len(w.way) > 1 {
			w.up()
		}
	}
	w.todo = append(strings.Split(target, "/"), w.todo...)
	return nil
}

// openat opens a single name: neither a link nor "..", so it cannot lead out of the folder. With O_PATH nothing is read,
// and no device is woken.
func (w *walk) openat(parent node, name string) (int, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(parent.fd, name, flags, 0)
	if !errors.Is(err, unix.ENOENT) || !w.create || w.view[parent.place].ReadOnly {
		return fd, err
	}
	if err := unix.Mkdirat(parent.fd, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return unix.Openat(parent.fd, name, flags, 0)
}

// readlink reads the link that is open itself.
func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", unix.ENOENT
	}
	return string(buf[:n]), nil
}

// file is where the way ended.
func (w *walk) file() (*File, error) {
	n := w.here()
	if n.fd < 0 {
		return nil, &OutsideError{w.at("")}
	}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return nil, err
	}
	f := &File{Place: n.place, fd: n.fd, Dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
	first := slices.IndexFunc(w.way, func(m node) bool { return m.place == n.place })
	// A way may leave a place for another one that is seen within it, so only the last stretch counts.
	for i := len(w.way) - 1; i >= 0 && w.way[i].place == n.place; i-- {
		first = i
	}
	for _, m := range w.way[first+1:] {
		f.Path = path.Join(f.Path, m.name)
	}
	w.way[len(w.way)-1].fd = -1 // it is the caller's now
	return f, nil
}
