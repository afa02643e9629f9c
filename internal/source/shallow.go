package source

import "slices"

// deepest is the depth from which on a job gets the whole history: nobody looks back further, and to walk it costs more
// than to have it.
const deepest = 10_000

// history is what a mirror has of a commit's past.
type history struct {
	found    bool            // the commit itself is there
	short    bool            // the mirror does not reach back as far as was asked
	commits  map[string]bool // those a job sees; nil = everything there is
	boundary []string        // commits whose parents a job does not see, sorted: Git's "shallow" file
}

// past walks back from the commits as far as depth of them, all of them with depth 0. As in git fetch --depth, a commit
// counts by its shortest way. The result depends on nothing else while the mirror reaches back far enough.
func (o *objects) past(depth int, from ...string) (history, error) {
	slices.Sort(from)
	from = slices.Compact(from)
	level, err := o.commits(from)
	if err != nil {
		return history{}, err
	}
	h := history{found: true, commits: map[string]bool{}}
	for i, c := range level {
		if c.oid != from[i] { // a tag or a tree is not a commit
			return history{}, nil
		}
		h.commits[c.oid] = true
	}
	if depth <= 0 {
		h.commits = nil
		return h, nil
	}
	for n := 1; len(level) > 0; n++ {
		if n == depth {
			for _, c := range level {
				if len(c.parents) > 0 {
					h.boundary = append(h.boundary, c.oid)
				}
			}
			break
		}
		level, err = o.parents(level, &h)
		if err != nil {
			return history{}, err
		}
	}
	slices.Sort(h.boundary)
	return h, nil
}

// parents returns the next level, without what was seen before.
func (o *objects) parents(level []commit, h *history) ([]commit, error) {
	var names []string
	for _, c := range level {
		names = append(names, c.parents...)
	}
	found, err := o.commits(names)
	if err != nil {
		return nil, err
	}
	var next []commit
	for _, c := range level {
		of := found[:len(c.parents)]
		found = found[len(c.parents):]
		if slices.ContainsFunc(of, func(p commit) bool { return p.oid == "" }) {
			h.short = true
			h.boundary = append(h.boundary, c.oid)
			continue
		}
		for _, p := range of {
			if !h.commits[p.oid] {
				h.commits[p.oid] = true
				next = append(next, p)
			}
		}
	}
	return next, nil
}
