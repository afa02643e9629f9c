package executor

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// mountPoint is one line of /proc/self/mountinfo.
type mountPoint struct {
	device string // major:minor
	root   string // what of the device's file system is mounted
	at     string
}

// readMounts is what is mounted on this machine, as this process sees it; nothing where there is no such file.
func readMounts() []mountPoint {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return parseMounts(string(text))
}

func parseMounts(text string) (out []mountPoint) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 4 {
			out = append(out, mountPoint{f[2], unescape.Replace(f[3]), unescape.Replace(f[4])})
		}
	}
	return out
}

// places are all paths of this machine at which the file or folder at a resolved path can be reached: a bind mount of
// it, or of a folder above it, is another name that no path shows.
func places(mounts []mountPoint, file string) []string {
	out := []string{file}
	var on *mountPoint
	for i, m := range mounts {
		// Of two mounts at one place, the later one lies on top.
		if isBelow(file, m.at) && (on == nil || len(m.at) >= len(on.at)) {
			on = &mounts[i]
		}
	}
	if on == nil {
		return out
	}
	inside := path.Join(on.root, strings.TrimPrefix(file, on.at))
	for _, m := range mounts {
		if m.device == on.device && isBelow(inside, m.root) {
			out = append(out, path.Join(m.at, strings.TrimPrefix(inside, m.root)))
		}
	}
	return out
}

// holds reports whether somebody who is given dir gets at the file, too.
func holds(mounts []mountPoint, dir, file string) bool {
	for _, p := range places(mounts, resolved(file)) {
		if isBelow(p, resolved(dir)) {
			return true
		}
	}
	return false
}

// overlap reports whether one of two folders lies in the other, or both are one.
func overlap(mounts []mountPoint, a, b string) bool {
	return holds(mounts, a, b) || holds(mounts, b, a)
}

// isBelow reports whether a clean path is dir, or in it.
func isBelow(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

// sameFile reports whether two paths lead to one file: by symlinks, by a hard link or by a bind mount of the file.
func sameFile(a, b string) bool {
	if resolved(a) == resolved(b) {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// resolved is a path without symlinks, as far as there is something at it.
func resolved(p string) string {
	p = path.Clean(p)
	rest := ""
	for {
		if r, err := filepath.EvalSymlinks(p); err == nil {
			return path.Join(r, rest)
		}
		if p == "/" || p == "." {
			return path.Join(p, rest)
		}
		p, rest = path.Dir(p), path.Join(path.Base(p), rest)
	}
}
