package source

import (
	"crypto/sha1" // Git names content by it
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// sameContent reports whether the file name of dir holds what the commit holds, and carries nothing else: no second
// name, no access list, no capability.
func (e entry) sameContent(dir *os.File, name string) bool {
	if e.mode == 0o120000 {
		target := make([]byte, e.len+1)
		n, err := unix.Readlinkat(int(dir.Fd()), name, target)
		return err == nil && e.holds(int64(n), strings.NewReader(string(target[:n])))
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || len(extras(fd)) > 0 {
		return false
	}
	return e.holds(st.Size, f)
}

func (e entry) holds(size int64, r io.Reader) bool {
	var h hash.Hash
	switch len(e.oid) {
	case sha1.Size:
		h = sha1.New()
	case sha256.Size:
		h = sha256.New()
	default:
		return false
	}
	fmt.Fprintf(h, "blob %d\x00", size)
	n, err := io.Copy(h, r)
	return err == nil && n == size && string(h.Sum(nil)) == e.oid
}

// extras are the extended attributes of an open file that a job can have set.
func extras(fd int) []string {
	n, err := unix.Flistxattr(fd, nil)
	if err != nil || n == 0 {
		return nil
	}
	buf := make([]byte, n)
	if n, err = unix.Flistxattr(fd, buf); err != nil {
		return nil
	}
	var names []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		// The rest belongs to the system: security.selinux and the like.
		if strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_") || name == "security.capability" {
			names = append(names, name)
		}
	}
	return names
}
