package disk

import (
	"context"
	"time"
)

const day = 24 * time.Hour

// imagesUnused is how long no job has used a name of an image that goes when the disk is short.
const imagesUnused = day

// pass is one look at one disk, with what follows from it.
type pass struct {
	*Keeper
	*place
	*state
	limits Limits

	why  string          // something is removed
	lack int64           // bytes that are still to go
	away map[string]bool // Engines that failed in this pass
}

// run keeps build caches within their bound, and makes room if the disk is short.
func (p *pass) run(ctx context.Context) {
	p.away = map[string]bool{}
	if p.limits.BuildCache > 0 {
		p.bound(ctx)
	}
	if p.limits.MinFree == nil || !p.seen {
		return
	}
	space, err := p.o.Look(p.dir)
	p.complain(ctx, "look at the disk", p.dir, err)
	if err != nil {
		return
	}
	minFree := p.limits.MinFree(space.Size)
	if p.lack = space.lacks(minFree); p.lack == 0 {
		if p.short {
			p.short = false
			p.o.Log.Info("the disk has enough again", "disk", p.dir, "free", size(int64(space.Free)))
		}
		return
	}
	p.why = space.describe(minFree)
	p.makeRoom(ctx)
	if p.lack <= 0 || p.short || ctx.Err() != nil {
		return // whether that was enough is seen at the next look
	}
	p.short = true
	p.o.Log.Warn("a disk is short, and there is nothing more on it that slipway may remove", "disk", p.dir, "why", p.why,
		"hint", "docker system df, du and (of inodes) du --inodes show what takes the room: remove what is not needed, or make the disk larger; until then jobs find next to nothing cached")
}

// bound keeps each build cache to what it may take. The Engine itself knows whether it takes more.
func (p *pass) bound(ctx context.Context) {
	p.why = "it may take " + size(p.limits.BuildCache) + " (build_cache)"
	for _, e := range p.engines {
		p.prune(ctx, e, func(ctx context.Context) (Removed, error) { return e.PruneTo(ctx, p.limits.BuildCache) })
	}
}

// makeRoom removes what is cheapest to make again first, until the disk has enough.
func (p *pass) makeRoom(ctx context.Context) {
	for _, unused := range []time.Duration{7 * day, day} {
		p.each(ctx, func(e Engine) {
			p.prune(ctx, e, func(ctx context.Context) (Removed, error) { return e.PruneUnused(ctx, unused) })
		})
	}
	p.each(ctx, func(e Engine) { p.shrink(ctx, e) })
	p.each(ctx, func(e Engine) {
		if p.evictImages(ctx, e) > 0 && p.lack > 0 {
			// What the build cache shared with them takes room for itself now.
			delete(p.sizes, e.Name())
			p.shrink(ctx, e)
		}
	})
	for _, f := range p.folders {
		if p.lack <= 0 || ctx.Err() != nil {
			return
		}
		need := p.lack
		if f.FewFiles {
			need = p.lackOfRoom()
		}
		if need <= 0 {
			continue
		}
		n, freed, err := f.Evict(ctx, need)
		p.removed(ctx, f.What, f.Dir, Removed{n, freed}, err)
	}
}

// lackOfRoom is what the disk lacks, but for inodes.
func (p *pass) lackOfRoom() int64 {
	now, err := p.o.Look(p.dir)
	if err != nil {
		return 0
	}
	return min(p.lack, now.lacksRoom(p.limits.MinFree(now.Size)))
}

// each asks the Engines on the disk that answer, while it is short.
func (p *pass) each(ctx context.Context, do func(Engine)) {
	for _, e := range p.engines {
		if p.lack > 0 && ctx.Err() == nil && !p.away[e.Name()] {
			do(e)
		}
	}
}

// prune removes something of an Engine's build cache.
func (p *pass) prune(ctx context.Context, e Engine, do func(ctx context.Context) (Removed, error)) {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := do(limited)
	p.away[e.Name()] = err != nil
	if s := p.sizes[e.Name()]; s != nil {
		s.bytes -= r.Bytes
	}
	p.removed(ctx, BuildCache, e.Name(), r, err)
}

// shrink makes an Engine's build cache smaller by what the disk lacks.
func (p *pass) shrink(ctx context.Context, e Engine) {
	have, err := p.buildCacheSize(ctx, e)
	p.complain(ctx, "ask for the size of the build cache", e.Name(), err)
	if err != nil {
		p.away[e.Name()] = true
		return
	}
	if have <= 0 {
		return
	}
	keep := max(have-p.lack, 1)
	p.prune(ctx, e, func(ctx context.Context) (Removed, error) { return e.PruneTo(ctx, keep) })
}

// buildCacheSize asks an Engine, unless that makes it read all it has and it was asked a short time ago. What has come since is
// then not counted, so that more goes than must: better than a full disk.
func (p *pass) buildCacheSize(ctx context.Context, e Engine) (int64, error) {
	s := p.sizes[e.Name()]
	if s != nil && !e.CheapSize() && time.Since(s.at) < sizeEvery {
		return s.bytes, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := e.BuildCacheSize(ctx)
	p.sizes[e.Name()] = &sized{max(n, 0), time.Now()} // of one that cannot say, nothing is pruned for a while
	return n, err
}

// evictImages removes names of images. What that gives back is seen on the disk: layers may have other users.
func (p *pass) evictImages(ctx context.Context, e Engine) int {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	before, err := p.o.Look(p.dir)
	if err != nil {
		return 0
	}
	after := before
	n, err := e.EvictImages(limited, imagesUnused, func() bool {
		if now, err := p.o.Look(p.dir); err == nil {
			after = now
		}
		return after.lacks(p.limits.MinFree(after.Size)) > 0
	})
	p.away[e.Name()] = err != nil
	if now, err := p.o.Look(p.dir); err == nil {
		after = now
	}
	p.removed(ctx, Images, e.Name(), Removed{n, int64(max(before.Free, after.Free) - before.Free)}, err)
	return n
}

// removed notes what is gone. What was said to be free counts even if the disk does not show it yet: some Engines remove a little
// later, and more must not go for that.
func (p *pass) removed(ctx context.Context, what, from string, r Removed, err error) {
	p.complain(ctx, "remove "+what, from, err)
	if r.Count > 0 {
		p.o.Log.Info("removed what can be made again", "what", what, "of", from, "count", r.Count, "freed", size(r.Bytes), "why", p.why)
	}
	if r.Bytes > 0 {
		p.o.Freed(what, r.Bytes)
	}
	p.lack -= r.Bytes
	if now, err := p.o.Look(p.dir); err == nil && p.limits.MinFree != nil {
		p.lack = min(p.lack, now.lacks(p.limits.MinFree(now.Size)))
	}
}

// complain logs an error, once until it is another one or has not been there. It is tried again at the next look.
func (p *pass) complain(ctx context.Context, what, of string, err error) {
	key := what + " " + of
	switch {
	case err == nil:
		delete(p.complaints, key)
	case ctx.Err() != nil: // told to stop
	case p.complaints[key] != err.Error():
		p.complaints[key] = err.Error()
		p.o.Log.Warn("cannot "+what+"; trying again", "of", of, "error", err)
	}
}
