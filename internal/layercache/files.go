package layercache

import (
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
)

// File is one file, folder or link of a context.
type File struct {
	Mode   uint32 `json:"m,omitempty"`
	Size   int64  `json:"s,omitempty"` // bytes
	Time   int64  `json:"t,omitempty"` // of its last change, in ns; builders do not look at it
	Link   string `json:"l,omitempty"`
	Sum    uint32 `json:"c,omitempty"` // CRC-32C of its contents
	Summed bool   `json:"h,omitempty"` // Sum is known
}

// Files are those of a context, by their paths.
type Files map[string]File

// same reports whether a builder makes no difference between two versions of a file. Without sums of both it is a guess.
func (f File) same(other File) bool {
	if f.Mode != other.Mode || f.Link != other.Link || f.Size != other.Size {
		return false
	}
	return f.Summed && other.Summed && f.Sum == other.Sum || (!f.Summed || !other.Summed) && f.Time == other.Time
}

// Collector takes in the files of a context while they pass. Its methods may be called from several goroutines. A nil one takes in
// nothing.
type Collector struct {
	mu    sync.Mutex
	files Files
	names int  // bytes, of links too
	over  bool // there were too many
}

// Add takes in a file, or what is newly known of it. It reports whether more is of any use.
func (c *Collector) Add(name string, f File) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	name, f.Link = validName(name), validName(f.Link)
	before, ok := c.files[name]
	if !ok {
		c.names += len(name)
	}
	c.names += len(f.Link) - len(before.Link)
	if c.names > maxNames || !ok && len(c.files) >= maxFiles {
		c.files, c.over = nil, true
		return false
	}
	if c.files == nil {
		c.files = Files{}
	}
	c.files[name] = f
	return true
}

// Files are those that were taken in; nil if there were none, or too many.
func (c *Collector) Files() Files {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.files)
}

// recall takes over the sums of files that are still as they were: builders are not sent those again.
func (f Files) recall(last Files) {
	for name, now := range f {
		before, ok := last[name]
		if !now.Summed && ok && before.Summed && now.same(before) {
			now.Sum, now.Summed = before.Sum, true
			f[name] = now
		}
	}
}

// difference is what has become of the files that a step takes.
type difference struct{ changed, added, removed []string }

func (f Files) since(last Files, sources []string) difference {
	var d difference
	take := compile(sources)
	for name, now := range f {
		if !take.takes(name) {
			continue
		}
		if before, ok := last[name]; !ok {
			d.added = append(d.added, name)
		} else if !now.same(before) {
			d.changed = append(d.changed, name)
		}
	}
	for name := range last {
		if _, ok := f[name]; !ok && take.takes(name) {
			d.removed = append(d.removed, name)
		}
	}
	for _, list := range [][]string{d.changed, d.added, d.removed} {
		slices.Sort(list)
	}
	return d
}

func (d difference) any() bool { return len(d.changed)+len(d.added)+len(d.removed) > 0 }

// within reports whether all of it is in one folder.
func (d difference) within(folder string) bool {
	for _, name := range slices.Concat(d.changed, d.added, d.removed) {
		if name != folder && !strings.HasPrefix(name, folder+"/") {
			return false
		}
	}
	return d.any()
}

// compiled are the sources of an instruction, made so that many names can be looked up.
type compiled struct {
	all   bool
	paths map[string]bool
	globs map[int][]string // by how many parts they have
	deep  []int            // how many parts paths and globs have, each once
}

func isGlob(source string) bool { return strings.ContainsAny(source, `*?[\`) }

func compile(sources []string) compiled {
	c := compiled{paths: map[string]bool{}, globs: map[int][]string{}}
	for _, s := range sources {
		s = strings.TrimPrefix(path.Clean("/"+validName(s)), "/")
		if s == "" {
			return compiled{all: true}
		}
		c.paths[s] = true // a name may have such a character, too
		deep := strings.Count(s, "/") + 1
		if isGlob(s) {
			c.globs[deep] = append(c.globs[deep], s)
		}
		if !slices.Contains(c.deep, deep) {
			c.deep = append(c.deep, deep)
		}
	}
	slices.Sort(c.deep)
	return c
}

// takes reports whether COPY or ADD takes a file: a source is the file, a folder above it, or a pattern for either.
func (c compiled) takes(name string) bool {
	if c.all {
		return true
	}
	var ends []int // of the parts of the name
	for i := range len(name) {
		if name[i] == '/' {
			ends = append(ends, i)
		}
	}
	ends = append(ends, len(name))
	for _, deep := range c.deep {
		if deep > len(ends) {
			break // the name is not as deep
		}
		at := name[:ends[deep-1]]
		if c.paths[at] || slices.ContainsFunc(c.globs[deep], func(g string) bool { ok, err := path.Match(g, at); return ok && err == nil }) {
			return true
		}
	}
	return false
}
