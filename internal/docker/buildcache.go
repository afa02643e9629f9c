package docker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/client"
)

// BuildCache is the build cache of an Engine.
//
// BuildKit takes what images share with it out of its size, and keeps it unless all is to go. That is right where the Engine has a
// store of images of its own: such records take no room. With containerd's images it also takes what a step has written for shared,
// if it lies on the last layer of an image and was never exported itself, which is most of a cache; so all counts there, and may go.
type BuildCache struct {
	engine     *Engine
	containerd bool
}

// BuildCache gives the build cache; m is what the Engine said of its machine.
func (e *Engine) BuildCache(m Machine) BuildCache { return BuildCache{e, m.ContainerdImages} }

// Pruned says what was removed of a build cache.
type Pruned struct {
	Records int
	Bytes   int64
}

// CheapSize reports whether the Engine can be asked about its build cache alone: since Engine 23. An older one reads all its volumes
// and containers for its size.
func (c BuildCache) CheapSize() bool { return !older(c.engine.apiVersion, "1.42") }

// Size is what the build cache takes, in bytes: without what images share, except with containerd's images.
func (c BuildCache) Size(ctx context.Context) (int64, error) {
	records, err := c.records(ctx)
	return sizeOf(records), err
}

// PruneUnused removes what was not used for that long. What is in use stays.
func (c BuildCache) PruneUnused(ctx context.Context, unused time.Duration) (Pruned, error) {
	// Engine 20.10 knows no other form than a duration.
	return c.prune(ctx, client.BuildCachePruneOptions{All: c.containerd, Filters: make(client.Filters).Add("until", unused.String())})
}

// PruneTo removes what was not used for the longest time, until the build cache takes no more than keep bytes. What is in use stays.
// It asks for no size where that is not cheap.
func (c BuildCache) PruneTo(ctx context.Context, keep int64) (Pruned, error) {
	if !c.containerd {
		// Nought would mean that there is no such limit: all would go, at once.
		return c.prune(ctx, client.BuildCachePruneOptions{ReservedSpace: max(keep, 1)})
	}
	records, err := c.records(ctx)
	if err != nil {
		return Pruned{}, err
	}
	var all Pruned
	for ids := range slices.Chunk(toGo(records, sizeOf(records)-keep), maxIDs) {
		p, err := c.prune(ctx, client.BuildCachePruneOptions{All: true, Filters: make(client.Filters).Add("id", "^("+strings.Join(ids, "|")+")$")})
		if err != nil {
			return all, err
		}
		all.Records += p.Records
		all.Bytes += p.Bytes
	}
	return all, nil
}

// maxIDs bounds the length of a request's address.
const maxIDs = 200

func (c BuildCache) prune(ctx context.Context, o client.BuildCachePruneOptions) (Pruned, error) {
	r, err := c.engine.api.BuildCachePrune(ctx, o)
	if err != nil {
		return Pruned{}, fmt.Errorf("prune the build cache: %w", err)
	}
	return Pruned{Records: len(r.Report.CachesDeleted), Bytes: int64(r.Report.SpaceReclaimed)}, nil
}

// records are those that take room.
func (c BuildCache) records(ctx context.Context) ([]build.CacheRecord, error) {
	usage, err := c.engine.api.DiskUsage(ctx, client.DiskUsageOptions{BuildCache: true, Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("ask for the size of the build cache: %w", err)
	}
	return slices.DeleteFunc(usage.BuildCache.Items, func(r build.CacheRecord) bool { return r.Shared && !c.containerd }), nil
}

func sizeOf(records []build.CacheRecord) (n int64) {
	for _, r := range records {
		n += r.Size
	}
	return n
}

// toGo are the IDs of the records that must go so that so many bytes are free, if those that were not used for the longest time go
// first. A record cannot go before all that were made from it.
func toGo(records []build.CacheRecord, need int64) (ids []string) {
	parents := map[string][]string{}
	for _, r := range records {
		parents[r.ID] = r.Parents
	}
	used := map[string]time.Time{} // when the record or one that was made from it was used
	below := map[string]int{}      // how many records, one made from the other, were made from it
	var note func(id string, when time.Time, n int)
	note = func(id string, when time.Time, n int) {
		if !when.After(used[id]) && n <= below[id] {
			return
		}
		if when.After(used[id]) {
			used[id] = when
		}
		below[id] = max(below[id], n)
		for _, p := range parents[id] {
			note(p, when, n+1)
		}
	}
	for _, r := range records {
		when := r.CreatedAt
		if r.LastUsedAt != nil {
			when = *r.LastUsedAt
		}
		note(r.ID, when, 0)
	}
	slices.SortFunc(records, func(a, b build.CacheRecord) int {
		return cmp.Or(used[a.ID].Compare(used[b.ID]), cmp.Compare(below[a.ID], below[b.ID]), strings.Compare(a.ID, b.ID))
	})
	for _, r := range records {
		if need <= 0 {
			break
		}
		if !r.InUse {
			need -= r.Size
			ids = append(ids, r.ID)
		}
	}
	return ids
}
