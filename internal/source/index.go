package source

import (
	"bytes"
	"crypto/sha1" // as Git does
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// index is what the last checkout left in a work tree, with what the system said of each file at that time.
type index struct {
	raw     []byte
	entries map[string]entry
	dirs    map[string]bool // folders that hold entries, "" for the top one; not the folders of submodules
}

// entry is a file, a symbolic link or a submodule of the commit.
type entry struct {
	ctime, mtime  [2]uint32 // seconds, nanoseconds
	ino           uint32
	mode          uint32
	uid, gid, len uint32
	oid           string // of the content, as bytes
	at            int    // where it begins in the index
}

func (e entry) submodule() bool { return e.mode == 0o160000 }

// regular says that it is a file: no link, no submodule.
func (e entry) regular() bool { return e.mode&0o170000 == 0o100000 }

const indexHead = 12 // bytes: "DIRC", version, number of entries

var errIndex = errors.New("not an index that this program reads")

// parseIndex reads version 2 and 3 of Git's index format; our own Git writes it into a host-only folder.
func parseIndex(raw []byte, oidSize int) (*index, error) {
	idx := &index{raw: raw, entries: map[string]entry{}, dirs: map[string]bool{"": true}}
	if raw == nil {
		return idx, nil
	}
	if len(raw) < indexHead || string(raw[:4]) != "DIRC" {
		return nil, errIndex
	}
	version := binary.BigEndian.Uint32(raw[4:])
	if version != 2 && version != 3 {
		return nil, fmt.Errorf("%w: version %d", errIndex, version)
	}
	rest := raw[indexHead:]
	for range binary.BigEndian.Uint32(raw[8:]) {
		const stat = 40
		if len(rest) < stat+oidSize+4 {
			return nil, errIndex
		}
		n := func(i int) uint32 { return binary.BigEndian.Uint32(rest[4*i:]) }
		e := entry{
			ctime: [2]uint32{n(0), n(1)}, mtime: [2]uint32{n(2), n(3)},
			ino: n(5), mode: n(6), uid: n(7), gid: n(8), len: n(9), oid: string(rest[stat : stat+oidSize]),
			at: len(raw) - len(rest),
		}
		head := stat + oidSize + 2
		const extended = 0x4000
		if binary.BigEndian.Uint16(rest[stat+oidSize:])&extended != 0 {
			head += 2
		}
		end := bytes.IndexByte(rest[head:], 0)
		if end < 0 {
			return nil, errIndex
		}
		// One to eight NUL bytes end the name, so that the next entry begins at a multiple of eight.
		size := (head + end + 8) &^ 7
		if len(rest) < size {
			return nil, errIndex
		}
		idx.add(string(rest[head:head+end]), e)
		rest = rest[size:]
	}
	return idx, nil
}

func (idx *index) add(name string, e entry) {
	idx.entries[name] = e
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '/' {
			if idx.dirs[name[:i]] {
				break
			}
			idx.dirs[name[:i]] = true
		}
	}
}

// restat returns the index with what the system says of some files now, whatever Git thinks that they should hold.
func (idx *index) restat(now map[string]unix.Stat_t) ([]byte, error) {
	raw := bytes.Clone(idx.raw)
	sum := sha1.New()
	for name, st := range now {
		e := idx.entries[name]
		if len(e.oid) == sha256.Size {
			sum = sha256.New()
		}
		for i, v := range []uint32{
			uint32(st.Ctim.Sec), uint32(st.Ctim.Nsec), uint32(st.Mtim.Sec), uint32(st.Mtim.Nsec), uint32(st.Dev), uint32(st.Ino),
			e.mode, st.Uid, st.Gid, uint32(st.Size),
		} {
			binary.BigEndian.PutUint32(raw[e.at+4*i:], v)
		}
	}
	if len(raw) < indexHead+sum.Size() {
		return nil, errIndex
	}
	end := len(raw) - sum.Size()
	sum.Write(raw[:end])
	return sum.Sum(raw[:end]), nil
}

func (idx *index) submodules() []string {
	var names []string
	for name, e := range idx.entries {
		if e.submodule() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// looksSame reports whether st may be the file that the checkout wrote. Only untouched makes sure.
func (e entry) looksSame(st *unix.Stat_t, umask uint32) bool {
	want := uint32(unix.S_IFREG) | 0o666&^umask
	switch e.mode {
	case 0o100755:
		want = unix.S_IFREG | 0o777&^umask
	case 0o120000:
		want = unix.S_IFLNK | 0o777
	}
	return st.Mode == want && sameTime(e.mtime, st.Mtim) &&
		e.ino == uint32(st.Ino) && e.uid == st.Uid && e.gid == st.Gid && e.len == uint32(st.Size)
}

// untouched reports whether nobody has done anything to the file. A job can set every time of a file but that of its
// last change; Git compares that by the second, this by the nanosecond.
func (e entry) untouched(st *unix.Stat_t) bool { return sameTime(e.ctime, st.Ctim) }

// sameTime: a Git built without nanoseconds writes zeroes.
func sameTime(t [2]uint32, ts unix.Timespec) bool {
	return t[0] == uint32(ts.Sec) && (t[1] == 0 || t[1] == uint32(ts.Nsec))
}
