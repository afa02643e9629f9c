package source

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ref is what a mirror's ref points to.
type ref struct {
	oid    string
	peeled string // the object behind an annotated tag, "" if not known
}

// readRefs reads the refs of a mirror from its files, which only our own Git writes: a process would take longer than
// all the rest of a warm job. loose is how many are not in packed-refs.
func readRefs(dir string) (refs map[string]ref, loose int, err error) {
	refs = map[string]ref{}
	if err := readPacked(filepath.Join(dir, "packed-refs"), refs); err != nil {
		return nil, 0, fmt.Errorf("read packed refs: %w", err)
	}
	err = filepath.WalkDir(filepath.Join(dir, "refs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".lock") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if oid := strings.TrimSpace(string(data)); isOID(oid) {
			refs[name] = ref{oid: oid}
			loose++
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read refs: %w", err)
	}
	return refs, loose, nil
}

func readPacked(path string, refs map[string]ref) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	last, allPeeled := "", false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			allPeeled = strings.Contains(line, " fully-peeled ")
			continue
		}
		if peeled, ok := strings.CutPrefix(line, "^"); ok && isOID(peeled) {
			r := refs[last]
			r.peeled = peeled
			refs[last] = r
			continue
		}
		oid, name, ok := strings.Cut(line, " ")
		if ok && isOID(oid) {
			refs[name] = ref{oid: oid}
			if allPeeled {
				refs[name] = ref{oid: oid, peeled: oid} // unless the next line says otherwise
			}
			last = name
		}
	}
	return lines.Err()
}

// isOID reports whether s is a whole object name, of SHA-1 or SHA-256.
func isOID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}
