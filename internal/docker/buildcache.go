package docker

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/moby/client"
)

// Pruned says what was removed of a build cache.
type Pruned struct {
	Records int
	Bytes   int64
}

// BuildCacheSize is what the build cache takes, in bytes, without what it shares with images. An Engine that does not do it
// cheaply (see CheapBuildCacheSize) reads all its volumes and containers for that.
func (e *Engine) BuildCacheSize(ctx context.Context) (int64, error) {
	usage, err := e.api.DiskUsage(ctx, client.DiskUsageOptions{BuildCache: true})
	if err != nil {
		return 0, fmt.Errorf("ask for the size of the build cache: %w", err)
	}
	return usage.BuildCache.TotalSize, nil
}

// CheapBuildCacheSize reports whether the Engine can be asked about its build cache alone: since Engine 23.
func (e *Engine) CheapBuildCacheSize() bool { return !older(e.apiVersion, "1.42") }

// PruneUnusedBuildCache removes what of the build cache was not used for that long.
func (e *Engine) PruneUnusedBuildCache(ctx context.Context, unused time.Duration) (Pruned, error) {
	// Engine 20.10 knows no other form than a duration.
	return e.pruneBuildCache(ctx, client.BuildCachePruneOptions{Filters: make(client.Filters).Add("until", unused.String())})
}

// PruneBuildCacheTo removes what of the build cache was not used for the longest time, until it takes no more than keep bytes,
// which must be more than none. What an image shares with it does not count, and stays. It asks for no size: the Engine knows it.
func (e *Engine) PruneBuildCacheTo(ctx context.Context, keep int64) (Pruned, error) {
	// Nought would mean to an Engine that there is no such limit: all of it would go, at once.
	return e.pruneBuildCache(ctx, client.BuildCachePruneOptions{ReservedSpace: max(keep, 1)})
}

// pruneBuildCache never asks for All: what that adds takes no room, because images have it, or next to none. What is in use stays
// in any case.
func (e *Engine) pruneBuildCache(ctx context.Context, o client.BuildCachePruneOptions) (Pruned, error) {
	r, err := e.api.BuildCachePrune(ctx, o)
	if err != nil {
		return Pruned{}, fmt.Errorf("prune the build cache: %w", err)
	}
	return Pruned{Records: len(r.Report.CachesDeleted), Bytes: int64(r.Report.SpaceReclaimed)}, nil
}
