// Package lfs fetches the files that Git LFS keeps beside a repository, and holds them in a folder by their hash. Of the
// protocol (https://github.com/git-lfs/git-lfs/tree/main/docs/api) it speaks what a download needs: the batch API and the
// basic transfer.
package lfs

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Pointer is what Git has of a file.
type Pointer struct {
	OID  string // SHA-256 of the file, in hexadecimal
	Size int64  // of the file, in bytes
}

// largest is above any file that there is, in bytes. An empty file has no pointer.
const largest = 1 << 50

// MaxPointer is how long the text of a pointer is at most, in bytes.
//
// Git LFS: docs/spec.md.
const MaxPointer = 1024

// versions are the first lines of a pointer: today's, and those of Git LFS before its release.
var versions = []string{"https://git-lfs.github.com/spec/v1", "https://hawser.github.com/spec/v1", "http://git-media.io/v/2"}

var oidValue = regexp.MustCompile(`^sha256:([0-9a-f]{64})$`)

// ParsePointer reads the text of a pointer; false if it is anything else.
func ParsePointer(text string) (Pointer, bool) {
	if len(text) > MaxPointer {
		return Pointer{}, false
	}
	p := Pointer{Size: -1}
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		key, value, _ := strings.Cut(line, " ")
		switch {
		case i == 0:
			if key != "version" || !slices.Contains(versions, value) {
				return Pointer{}, false
			}
		case key == "oid":
			m := oidValue.FindStringSubmatch(value)
			if m == nil {
				return Pointer{}, false
			}
			p.OID = m[1]
		case key == "size":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return Pointer{}, false
			}
			p.Size = n
		}
	}
	return p, p.OID != "" && p.Size > 0 && p.Size < largest
}
