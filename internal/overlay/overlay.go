// Package overlay finds where paths of a container lead, through the links among its files, as overlayfs puts its layers together. It
// reads the layers from outside, and asks nobody.
package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Driver is what an Engine says of where a container's files are.
type Driver struct {
	Name string
	Data struct{ LowerDir, UpperDir string }
}

// Layers are a container's files as overlayfs puts them together, the topmost folder first. The container must stand still.
type Layers []string

// Layers are where the container's files are, if that can be known.
func (d Driver) Layers() (Layers, error) {
	if d.Name != "overlay2" || d.Data.UpperDir == "" {
		return nil, fmt.Errorf("the storage driver %s is not known", d.Name)
	}
	return append(Layers{d.Data.UpperDir}, strings.Split(d.Data.LowerDir, ":")...), nil
}

// follow leads a path of the container through its links, and returns where it ends and all folders that it passes.
func (l Layers) follow(name string) (end string, passed []string, err error) {
	at, todo := "/", strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		next := todo[0]
		if todo = todo[1:]; next == "" || next == "." {
			continue
		}
		passed = append(passed, at)
		if next == ".." {
			at = path.Dir(at)
			continue
		}
		at = path.Join(at, next)
		target, err := l.link(at)
		if err != nil {
			return "", nil, err
		}
		if target == "" {
			continue
		}
		if links++; links > 40 {
			return "", nil, unix.ELOOP
		}
		if at = path.Dir(at); path.IsAbs(target) {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, passed, nil
}

// link is where a link leads, "" if the path is none. No folder above it may be a link.
func (l Layers) link(name string) (string, error) {
	folders := l
	parts := strings.Split(name[1:], "/")
	for i, part := range parts {
		var below Layers
		for _, folder := range folders {
			file := filepath.Join(folder, part)
			st, err := os.Lstat(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return "", err
			}
			if !st.IsDir() { // it covers what lies below, and whatever is no folder has nothing in it
				if len(below) == 0 && i == len(parts)-1 && st.Mode()&fs.ModeSymlink != 0 {
					return os.Readlink(file)
				}
				break
			}
			below = append(below, file)
			if n, err := unix.Lgetxattr(file, "trusted.overlay.redirect", nil); err == nil && n > 0 {
				return "", errors.New("a folder was moved")
			}
			opaque := make([]byte, 1)
			if n, err := unix.Lgetxattr(file, "trusted.overlay.opaque", opaque); err == nil && n == 1 && opaque[0] == 'y' {
				break
			}
		}
		if folders = below; len(folders) == 0 {
			return "", nil // the Engine makes folders there
		}
	}
	return "", nil
}

// Nested reports whether the way to the place of a mount, or to one of the other files, leads through a mount, whose users can move
// it. The way is that through the links among the container's files.
func (l Layers) Nested(mounts []string, others ...string) (bool, error) {
	ends := map[string]bool{}
	var passed []string
	for _, m := range slices.Concat(mounts, others) {
		end, way, err := l.follow(m)
		if err != nil {
			return false, err
		}
		passed = append(passed, way...)
		if slices.Contains(mounts, m) {
			ends[end] = true
		}
	}
	return slices.ContainsFunc(passed, func(folder string) bool { return ends[folder] }), nil
}
