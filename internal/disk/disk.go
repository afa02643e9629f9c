// Package disk keeps the disks of a build machine from filling up: it decides what goes of all that can be made again, in which
// order, and when there is enough. It knows neither jobs nor the Docker Engine; who has them is asked to remove.
package disk

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Every is how often the disks are looked at.
	Every = time.Minute
	// pause is the least time between two looks, however many jobs end.
	pause = 10 * time.Second
	// callTimeout bounds one call of an Engine: pruning a large cache takes its time, but one that hangs is not waited for.
	callTimeout = 5 * time.Minute
	// sizeEvery is how often an Engine is asked for a size that it finds out by reading all that it has.
	sizeEvery = 10 * time.Minute
)

// Limits are what the disks are kept to.
type Limits struct {
	MinFree    func(size uint64) uint64 // bytes that stay free of a disk of so many; nil = nothing is removed for room
	BuildCache int64                    // bytes that an Engine's build cache may take; 0 = no bound
}

// Engine is a Docker Engine, as far as its disk goes. What is in use it never removes. Its methods may take as long as the context
// lets them, and are not called at the same time.
type Engine interface {
	// Name tells Engines apart, for people too.
	Name() string
	// DataDir is where its images and its build cache lie; "" = nobody knows.
	DataDir() string
	// BuildCacheSize is what its build cache takes, in bytes, as PruneTo counts it.
	BuildCacheSize(ctx context.Context) (int64, error)
	// CheapSize reports whether BuildCacheSize is quick.
	CheapSize() bool
	// PruneUnused removes what of the build cache was not used for that long.
	PruneUnused(ctx context.Context, unused time.Duration) (Removed, error)
	// PruneTo removes what of the build cache was not used for the longest time, until it takes no more than keep bytes.
	PruneTo(ctx context.Context, keep int64) (Removed, error)
	// EvictImages removes names that jobs gave to images and none has used for that long, the longest unused first, while more says
	// so, and says how many.
	EvictImages(ctx context.Context, unused time.Duration, more func() bool) (int, error)
}

// Folder is a folder of things that can be made again.
type Folder struct {
	What string // they are: see the constants
	Dir  string
	// FewFiles says that they are large: to remove them is of no use where inodes lack.
	FewFiles bool
	// Evict removes what no job uses, the longest unused first, until about need bytes are free again.
	Evict func(ctx context.Context, need int64) (n int, freed int64, err error)
}

// What can be removed.
const (
	BuildCache = "build_cache"
	Images     = "images"
	Builds     = "builds" // what is remembered of them
	Caches     = "caches"
	Sources    = "sources"
)

// Removed says what is gone.
type Removed struct {
	Count int
	Bytes int64
}

// Options are what a Keeper is made of. All are required.
type Options struct {
	Limits  func() Limits                   // in effect now
	Engines func() []Engine                 // that are known so far; must not wait for one
	Dirs    func() []string                 // on disks that must not fill up, whatever is there to be removed
	Folders []Folder                        // in the order in which they are emptied
	Look    func(dir string) (Space, error) // Look, but in tests
	Freed   func(what string, bytes int64)  // is told of all that was removed
	Log     *slog.Logger
}

// Keeper keeps the disks to their limits.
type Keeper struct {
	o      Options
	woken  chan struct{} // has room for one
	states map[string]*state
	unseen map[string]bool // Engines whose data cannot be seen, which was told; of Run alone
}

// New makes a Keeper, which does nothing before Run.
func New(o Options) *Keeper {
	return &Keeper{o: o, woken: make(chan struct{}, 1), states: map[string]*state{}, unseen: map[string]bool{}}
}

// Wake makes Run look soon: a job has ended, or an Engine was found.
func (k *Keeper) Wake() {
	select {
	case k.woken <- struct{}{}:
	default:
	}
}

// Run looks at the disks every minute until ctx ends, and returns when nothing is at work any more.
func (k *Keeper) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for {
		k.look(ctx, &work)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		select {
		case <-ctx.Done():
			return
		case <-k.woken:
		case <-time.After(Every - pause):
		}
	}
}

// look looks at each disk. An Engine that hangs holds up its own disk only.
func (k *Keeper) look(ctx context.Context, work *sync.WaitGroup) {
	limits := k.o.Limits()
	for _, p := range k.places() {
		s := k.states[p.key]
		if s == nil {
			s = &state{sizes: map[string]*sized{}, complaints: map[string]string{}}
			k.states[p.key] = s
		}
		if s.busy.Swap(true) {
			continue
		}
		work.Go(func() {
			defer s.busy.Store(false)
			(&pass{Keeper: k, place: p, state: s, limits: limits}).run(ctx)
		})
	}
}

// state is what is remembered of a disk from one look to the next.
type state struct {
	busy       atomic.Bool
	short      bool              // and people were told that there is nothing more to remove
	sizes      map[string]*sized // of build caches, by the Engine's name
	complaints map[string]string // the last error, by what could not be done
}

// sized is what an Engine said of its build cache, less what was removed since.
type sized struct {
	bytes int64
	at    time.Time
}

// place is a disk with what can be removed from it.
type place struct {
	key     string
	dir     string // one on it
	seen    bool   // false: it is not known what is free
	engines []Engine
	folders []Folder
}

// places are the disks. Engines whose data cannot be seen from here have one each.
func (k *Keeper) places() []*place {
	by := map[string]*place{}
	var all []*place
	of := func(key, dir string, seen bool) *place {
		if by[key] == nil {
			by[key] = &place{key: key, dir: dir, seen: seen}
			all = append(all, by[key])
		}
		return by[key]
	}
	at := func(dir string) *place {
		space, err := k.o.Look(dir)
		if err != nil {
			return nil
		}
		return of(fmt.Sprint("device ", space.Device), dir, true)
	}
	for _, e := range k.o.Engines() {
		p := at(e.DataDir())
		if p == nil {
			k.tellUnseen(e)
			p = of("engine "+e.Name(), e.Name(), false)
		}
		p.engines = append(p.engines, e)
	}
	for _, dir := range k.o.Dirs() {
		at(dir)
	}
	for _, f := range k.o.Folders {
		if p := at(f.Dir); p != nil { // else there is nothing in it yet
			p.folders = append(p.folders, f)
		}
	}
	return all
}

func (k *Keeper) tellUnseen(e Engine) {
	if k.unseen[e.Name()] || k.o.Limits().MinFree == nil {
		return
	}
	k.unseen[e.Name()] = true
	k.o.Log.Warn("the disk of the Engine's images and build cache cannot be seen from here, so nothing is removed when it gets full", "engine", e.Name(), "dir", e.DataDir(),
		"hint", "reach the Engine through its socket; in a container, mount that folder at the same path, read-only; or set build_cache in [slipway.limits]; slipway doctor says why it cannot")
}
