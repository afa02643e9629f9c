package source

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"
)

// sources is what the mirror has for a job.
type sources struct {
	past  history
	refs  map[string]string // those that the job gets to see
	loose int               // refs of the mirror that are in files of their own
	// complete: nothing is missing, the server need not be asked.
	complete bool
}

// plan is what a job asks of Git.
type plan struct {
	refspecs []refspec
	clean    cleanFlags
	fetch    fetchFlags
	depth    int // 0 = all
}

func (w *Workspace) plan() (plan, error) {
	var p plan
	var err error
	if p.clean, err = parseCleanFlags(w.req.CleanFlags); err != nil {
		return plan{}, err
	}
	if p.refspecs, err = jobRefspecs(w.req.Git); err != nil {
		return plan{}, err
	}
	p.fetch = parseFetchFlags(w.req.FetchFlags)
	p.depth = max(0, w.req.Git.Depth)
	if p.depth >= deepest {
		p.depth = 0
	}
	return p, nil
}

// look finds out what the mirror has.
func (w *Workspace) look(o *objects, p plan) (sources, error) {
	past, err := o.past(p.depth, w.req.Git.SHA)
	if err != nil {
		return sources{}, err
	}
	known, loose, err := readRefs(w.mirror.dir)
	if err != nil {
		return sources{}, err
	}
	cut, err := w.mirror.shallow()
	if err != nil {
		return sources{}, err
	}
	s := sources{past: past, loose: loose}
	if p.depth == 0 {
		slices.Sort(cut)
		s.past.boundary = cut
		s.past.short = len(cut) > 0
	}
	if err := peelTags(o, known); err != nil {
		return sources{}, err
	}
	var all bool
	s.refs, all = w.visible(p, known, past)
	s.complete = past.found && !s.past.short && all
	return s, nil
}

// peelTags finds the commits behind tags that packed-refs does not tell.
func peelTags(o *objects, known map[string]ref) error {
	var names, oids []string
	for name, r := range known {
		if strings.HasPrefix(name, "refs/tags/") && r.peeled == "" {
			names, oids = append(names, name), append(oids, r.oid)
		}
	}
	commits, err := o.commits(oids)
	if err != nil {
		return err
	}
	for i, name := range names {
		known[name] = ref{oid: known[name].oid, peeled: commits[i].oid}
	}
	return nil
}

// visible picks the refs that the job gets to see, and reports whether the mirror is known to have all of them. The
// job's own branch is where the job's commit is: where the branch is by now would need a question to the server, and
// would change what the job sees from one run to the next.
func (w *Workspace) visible(p plan, known map[string]ref, past history) (refs map[string]string, all bool) {
	refs, all = map[string]string{}, !p.fetch.allTags
	g := w.req.Git
	for _, r := range p.refspecs {
		switch k, ok := known[r.mirrorRef(g.Ref)]; {
		case r.glob:
			all = false
			for name, k := range known {
				if r.dst != "" && r.matches(name) {
					refs[name] = k.oid
				}
			}
		case r.dst == "", r.ofPipeline():
		case r.src == "refs/heads/"+g.Ref:
			refs[r.dst] = g.SHA
		case !ok:
			all = false
		default:
			refs[r.dst] = k.oid
			moved := r.src == "refs/tags/"+g.Ref && g.RefType == "tag" && k.peeled != g.SHA
			all = all && !moved
		}
	}
	if p.fetch.noTags {
		return refs, all
	}
	// As in every fetch of Git, tags come along with the commits that they name; git describe lives on them.
	for name, k := range known {
		if strings.HasPrefix(name, "refs/tags/") && (past.commits == nil || past.commits[k.peeled]) {
			refs[name] = k.oid
		}
	}
	return refs, all
}

// obtain makes sure that the mirror has what the job needs, without the network if it can.
func (w *Workspace) obtain(ctx context.Context, o *objects, p plan) (sources, error) {
	s, err := w.look(o, p)
	if err != nil || s.complete && !w.refetch {
		return s, err
	}
	l, err := acquire(ctx, filepath.Join(w.mirror.dir, fetchLock), exclusive)
	if err != nil {
		return sources{}, err
	}
	defer l.release()
	// Another job may have brought it, or mended the mirror, while this one waited.
	refetch := w.refetch
	if refetch {
		at, err := w.mirror.refetches()
		if err != nil {
			return sources{}, err
		}
		refetch = !lately(at[w.req.refetchName()])
	}
	if s, err = w.look(o, p); err != nil || s.complete && !refetch {
		return s, err
	}
	var lines []string
	for _, r := range p.refspecs {
		lines = append(lines, "+"+r.src+":"+r.mirrorRef(w.req.Git.Ref))
	}
	if refetch {
		p.fetch.args = append(slices.Clone(p.fetch.args), "--refetch")
	}
	if len(lines) > 0 {
		fetchErr := w.mirror.fetch(ctx, &w.req, p.fetch, lines, p.depth)
		if fetchErr != nil && !missingRef(fetchErr) {
			return sources{}, fetchErr
		}
		if s, err = w.look(o, p); err != nil {
			return sources{}, err
		}
	}
	if !s.past.found || len(lines) == 0 {
		if s, err = w.obtainCommit(ctx, o, p); err != nil {
			return sources{}, err
		}
	}
	if refetch {
		if err := w.mirror.noteRefetch(w.req.refetchName()); err != nil {
			return sources{}, err
		}
	}
	return s, w.mirror.packRefs(ctx, s.loose)
}

// obtainCommit fetches the job's commit by its hash. Its branch has moved on or is gone; the server may have it all the same.
func (w *Workspace) obtainCommit(ctx context.Context, o *objects, p plan) (sources, error) {
	sha := w.req.Git.SHA
	err := w.mirror.fetch(ctx, &w.req, p.fetch, []string{"+" + sha + ":" + hashedRef("commit of "+w.req.Git.Ref)}, p.depth)
	if missingRef(err) {
		err = noCommit(sha)
	}
	if err != nil {
		return sources{}, err
	}
	s, err := w.look(o, p)
	if err == nil && !s.past.found {
		err = noCommit(sha)
	}
	return s, err
}

// sortedRefs are the refs in the order of Git's packed-refs file.
func sortedRefs(refs map[string]string) [][2]string {
	var out [][2]string
	for name, oid := range refs {
		out = append(out, [2]string{name, oid})
	}
	slices.SortFunc(out, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	return out
}
