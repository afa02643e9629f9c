// Package archive packs files of a folder into archives and unpacks archives into a folder: the artifacts and the caches
// of jobs. A job has written to the folder and may still do so, so no path of it is trusted: nothing outside of it is
// read or written, and nothing is opened that is not a plain file. It knows nothing of jobs and of where archives go.
package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The bounds of a folder and of an archive.
const (
	maxName    = 4095      // bytes of a path and of a link, as Linux takes them (PATH_MAX)
	maxEntries = 4_000_000 // each takes some hundred bytes of memory
)

// errNoFile: it was a plain file a moment ago, or never was one.
var errNoFile = errors.New("neither a file nor a folder")

// open opens a plain file below root for reading. What else might lie there is not even opened: a device acts when it
// is, and a pipe waits.
func open(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	held, err := root.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, err
	}
	defer held.Close()
	info, err := held.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: errNoFile}
	}
	// The kernel's link leads to what is held, whatever has become of its name.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", held.Fd()))
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: errors.Unwrap(err)}
	}
	return f, info, nil
}

// owner of a file, as the system says.
func owner(info fs.FileInfo) (uid, gid uint32) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid, st.Gid
	}
	return 0, 0
}
