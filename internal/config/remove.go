package config

import (
	"maps"
	"os"
	"slices"
	"strings"
)

// RemoveRunner takes out each [[runners]] with the address and token of r, with its sub-tables, the comment lines
// directly above it, and the empty lines that set it apart. Every other byte stays.
func RemoveRunner(path string, r *Runner) error {
	return rewrite(path, false, func(src []byte) ([]byte, error) { return removeRunner(path, src, r, os.Getenv) })
}

func removeRunner(file string, src []byte, r *Runner, getenv func(string) string) ([]byte, error) {
	f, err := find(file, src, r, getenv)
	if err != nil {
		return nil, err
	}
	var stay []map[string]any
	for i, m := range f.list {
		if !slices.Contains(f.at, i) {
			stay = append(stay, m)
		}
	}
	want := maps.Clone(f.tree)
	delete(want, f.name)
	if len(stay) > 0 {
		want[f.name] = stay
	}
	l := scan(string(src))
	gone := make(map[int]bool)
	for i, s := range l.sections {
		gone[i] = slices.ContainsFunc(f.at, func(n int) bool {
			p := element(f.name, n)
			return s.path == p || strings.HasPrefix(s.path, p+".")
		})
	}
	return proven(file, l.without(gone), want)
}

// without is the text without some sections.
func (l *layout) without(gone map[int]bool) string {
	var b strings.Builder
	kept := 0 // offset up to which the text is dealt with
	for i := 0; i < len(l.sections); i++ {
		if !gone[i] {
			continue
		}
		last := i
		for gone[last+1] {
			last++
		}
		from, to := l.extent(i, last)
		b.WriteString(l.src[kept:from])
		kept, i = to, last
	}
	b.WriteString(l.src[kept:])
	return b.String()
}

// extent is what belongs to the sections first to last: from the comment lines directly above to those directly
// below, which are not the next section's, and the empty lines after; at the end of the file one empty line before.
func (l *layout) extent(first, last int) (from, to int) {
	from, to = l.lead(first), l.sections[last].end
	limit := len(l.src)
	if last+1 < len(l.sections) {
		limit = l.lead(last + 1)
	}
	for to < limit && isComment(l.src[to:l.lineEnd(to)]) {
		to = l.lineEnd(to)
	}
	for to < limit && isBlank(l.src[to:l.lineEnd(to)]) {
		to = l.lineEnd(to)
	}
	if to == len(l.src) && from > 0 {
		if above := l.lineStart(from - 1); isBlank(l.src[above:from]) {
			from = above
		}
	}
	return from, to
}

// lead is where the comment lines directly above a header begin.
func (l *layout) lead(i int) int {
	from, floor := l.sections[i].head, l.top
	if i > 0 {
		floor = l.sections[i-1].end
	}
	for from > floor {
		above := l.lineStart(from - 1)
		if above < floor || !isComment(l.src[above:from]) {
			break
		}
		from = above
	}
	return max(from, floor)
}

func isComment(line string) bool { return strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") }
func isBlank(line string) bool   { return strings.TrimSpace(line) == "" }
