package source

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// moduleSpec is a submodule as .gitmodules describes it.
type moduleSpec struct {
	name, path, url, branch string
	skip                    bool // update = none
	shallow                 bool
}

// largestModules bounds what is read of a .gitmodules file, in bytes.
const largestModules = 4 << 20

// gitmodules reads the commit's .gitmodules out of the mirror: not the file in the work tree, and no link.
func (w *Workspace) gitmodules(ctx context.Context, idx *index) (map[string]moduleSpec, error) {
	e, ok := idx.entries[".gitmodules"]
	if !ok || e.mode == 0o120000 || e.submodule() {
		return nil, nil
	}
	list, err := w.readConfig(ctx, e, largestModules)
	if err != nil {
		return nil, scriptError("mend .gitmodules, for example with git submodule sync", "read .gitmodules: %w", err)
	}
	return parseModules(list), nil
}

// readConfig is what git config -z --list prints of a file of the commit that is written like Git's own, limit bytes at most.
func (w *Workspace) readConfig(ctx context.Context, e entry, limit int) (string, error) {
	out := &bounded{limit: limit}
	err := w.store.git.run(ctx, gitCall{
		args:   []string{"config", "-z", "--no-includes", "--blob", hex.EncodeToString([]byte(e.oid)), "--list"},
		gitDir: w.mirror.dir, stdout: out, umask: 0o077,
	})
	return out.String(), err
}

// parseModules reads what git config -z --list prints, and returns the submodules by path.
//
// Git: of two values the later one holds.
func parseModules(list string) map[string]moduleSpec {
	byName := map[string]*moduleSpec{}
	var names []string
	for entry := range strings.SplitSeq(list, "\x00") {
		key, value, hasValue := strings.Cut(entry, "\n")
		rest, ok := strings.CutPrefix(key, "submodule.")
		dot := strings.LastIndexByte(rest, '.')
		if !ok || dot < 0 {
			continue
		}
		name := rest[:dot]
		m := byName[name]
		if m == nil {
			m = &moduleSpec{name: name}
			byName[name], names = m, append(names, name)
		}
		switch rest[dot+1:] {
		case "path":
			m.path = strings.TrimRight(value, "/")
		case "url":
			m.url = value
		case "branch":
			m.branch = value
		case "update":
			m.skip = value == "none"
		case "shallow":
			m.shallow = !hasValue || value == "true"
		}
	}
	byPath := map[string]moduleSpec{}
	for _, n := range names {
		if m := byName[n]; m.path != "" {
			byPath[m.path] = *m
		}
	}
	return byPath
}

// checkModuleName: the name becomes a folder below .git/modules.
//
// Git: such names are refused since they led to other folders (CVE-2018-17456, CVE-2019-1387).
func checkModuleName(name string) error {
	bad := name == "" || len(name) > 1000 || strings.HasPrefix(name, "-") ||
		strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' })
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || part == "" || part == "." || part == ".." || len(part) > 255 || strings.EqualFold(part, ".git")
	}
	if bad {
		return scriptError("rename it in .gitmodules", "the submodule's name %.100q is not one that Git takes", name)
	}
	return nil
}

// checkNested: the folder of one submodule must not lie in that of another.
func checkNested(names []string) error {
	all := map[string]bool{}
	for _, n := range names {
		if all[n] {
			return scriptError("rename one of them in .gitmodules", "two submodules are named %.100q", n)
		}
		all[n] = true
	}
	for _, n := range names {
		for i := range len(n) {
			if n[i] == '/' && all[n[:i]] {
				return scriptError("rename one of them in .gitmodules", "the submodules %.100q and %.100q would share a folder below .git/modules", n[:i], n)
			}
		}
	}
	return nil
}

// bounded refuses to take more than limit bytes.
type bounded struct {
	bytes.Buffer
	limit int
}

var errTooMuch = errors.New("it is too long")

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("more than %d bytes: %w", b.limit, errTooMuch)
	}
	return b.Buffer.Write(p)
}

// gitlinks are the submodules in what git ls-tree -z prints: "160000 commit <oid>\t<path>".
func gitlinks(list string) map[string]bool {
	found := map[string]bool{}
	for entry := range strings.SplitSeq(list, "\x00") {
		if kind, path, ok := strings.Cut(entry, "\t"); ok && strings.HasPrefix(kind, "160000 ") {
			found[path] = true
		}
	}
	return found
}
