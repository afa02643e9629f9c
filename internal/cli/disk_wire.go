package cli

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/disk"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/executor"
	"github.com/slipway-ci/slipway/internal/layercache"
)

// limits are those of the configuration in effect.
type limits struct {
	atomic.Pointer[config.MachineLimits]
}

// ofDisks says what the disks are kept to.
func (l *limits) ofDisks() disk.Limits {
	now := l.Load()
	out := disk.Limits{BuildCache: int64(now.BuildCache)}
	if !now.MinFree.Off() {
		out.MinFree = now.MinFree.Of
	}
	return out
}

// limiting is a manager with which the limits of the configuration change.
type limiting struct {
	manager
	limits *limits
}

// Reload takes over a configuration from the file.
func (m limiting) Reload(cfg *config.Config) {
	m.limits.Store(&cfg.Slipway.Limits)
	m.manager.Reload(cfg)
}

// keeper makes what keeps the disks of this machine from filling up.
func (s *service) keeper(l *limits) *disk.Keeper {
	caches := executor.CacheStore(s.folder.Path)
	return disk.New(disk.Options{
		Limits: l.ofDisks, Look: disk.Look, Freed: s.observer.Freed, Log: s.log,
		Dirs: func() []string {
			dirs := []string{s.folder.Path}
			for _, k := range s.engines.known() {
				dirs = append(dirs, k.folders()...)
			}
			return dirs
		},
		Folders: []disk.Folder{
			{What: disk.Builds, Dir: s.folder.Builds(), Evict: func(ctx context.Context, need int64) (int, int64, error) {
				return layercache.Evict(ctx, s.folder.Builds(), need)
			}},
			{What: disk.Caches, Dir: caches.Dir, FewFiles: true, Evict: caches.Evict},
			{What: disk.Sources, Dir: s.folder.Sources(), Evict: s.store.Evict},
		},
		Engines: func() (out []disk.Engine) {
			for _, k := range s.engines.known() {
				out = append(out, diskEngine{k})
			}
			return out
		},
	})
}

// diskEngine is an Engine as the keeper of its disk sees it. It is asked for a sign of life first: one that hangs is found out
// sooner by that than by what takes its time anyway.
type diskEngine struct{ *known }

func (e diskEngine) cache() docker.BuildCache { return e.BuildCache(e.machine) }

// Name implements disk.Engine.
func (e diskEngine) Name() string { return e.Host() }

// DataDir implements disk.Engine.
func (e diskEngine) DataDir() string { return e.layers() }

// CheapSize implements disk.Engine.
func (e diskEngine) CheapSize() bool { return e.cache().CheapSize() }

// BuildCacheSize implements disk.Engine.
func (e diskEngine) BuildCacheSize(ctx context.Context) (int64, error) {
	if err := e.alive(ctx); err != nil {
		return 0, err
	}
	return e.cache().Size(ctx)
}

// PruneUnused implements disk.Engine.
func (e diskEngine) PruneUnused(ctx context.Context, unused time.Duration) (disk.Removed, error) {
	if err := e.alive(ctx); err != nil {
		return disk.Removed{}, err
	}
	return pruned(e.cache().PruneUnused(ctx, unused))
}

// PruneTo implements disk.Engine.
func (e diskEngine) PruneTo(ctx context.Context, keep int64) (disk.Removed, error) {
	if err := e.alive(ctx); err != nil {
		return disk.Removed{}, err
	}
	return pruned(e.cache().PruneTo(ctx, keep))
}

func pruned(p docker.Pruned, err error) (disk.Removed, error) {
	return disk.Removed{Count: p.Records, Bytes: p.Bytes}, err
}

// EvictImages implements disk.Engine.
func (e diskEngine) EvictImages(ctx context.Context, unused time.Duration, more func() bool) (int, error) {
	if err := e.alive(ctx); err != nil {
		return 0, err
	}
	return executor.EvictImages(ctx, e.Engine, e.images, unused, more)
}
