package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const gib = 1 << 30

// machine is what a Keeper sees of a machine in a test, by folder: its disks, and what is on them.
type machine struct {
	t       *testing.T
	mu      sync.Mutex
	disks   map[string]*Space // by the folders on them
	engines []Engine
	folders []Folder
	limits  Limits
	did     []string // in order
	freed   map[string]int64
	log     bytes.Buffer
}

// newMachine has one disk of 1000 GiB, of which 50 shall stay free.
func newMachine(t *testing.T, free uint64) *machine {
	one := &Space{Device: 1, Free: free * gib, Size: 1000 * gib}
	return &machine{
		t: t, disks: map[string]*Space{"/state": one, "/caches": one, "/sources": one, "/engine": one}, freed: map[string]int64{},
		limits: Limits{MinFree: func(uint64) uint64 { return 50 * gib }},
	}
}

func (m *machine) keeper() *Keeper {
	return New(Options{
		Limits: func() Limits { return m.limits }, Engines: func() []Engine { return m.engines }, Dirs: func() []string { return []string{"/state"} }, Folders: m.folders,
		Look: func(dir string) (Space, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.disks[dir] == nil {
				return Space{}, errors.New("not here")
			}
			return *m.disks[dir], nil
		},
		Freed: func(what string, bytes int64) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.freed[what] += bytes
		},
		Log: slog.New(slog.NewTextHandler(&m.log, nil)),
	})
}

// once looks one time, to the end.
func (m *machine) once(k *Keeper) {
	var work sync.WaitGroup
	k.look(m.t.Context(), &work)
	work.Wait()
}

// note notes what was asked, and what the disk has back; all in GiB.
func (m *machine) note(dir string, n int64, format string, args ...any) Removed {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.did = append(m.did, fmt.Sprintf(format, args...))
	m.disks[dir].Free += uint64(n) * gib
	return Removed{Count: int(min(n, 1)), Bytes: n * gib}
}

// took gives what was done since it was asked last.
func (m *machine) took() []string {
	did := m.did
	m.did = nil
	return did
}

// folder has things of one GiB each.
func (m *machine) folder(what, dir string, things int64) {
	m.folders = append(m.folders, Folder{What: what, Dir: dir, FewFiles: what == Caches, Evict: func(_ context.Context, need int64) (int, int64, error) {
		n := min((need+gib-1)/gib, things)
		things -= n
		if what == Sources {
			m.disks[dir].FreeInodes += uint64(n)
		}
		r := m.note(dir, n, "%s %d", what, n)
		return int(n), r.Bytes, nil
	}})
}

// engine is an Engine of a test. Sizes are in GiB.
type engine struct {
	*machine
	name, dir       string
	weekOld, dayOld int64 // of the build cache, unused for so long
	cache           int64 // all of the build cache
	images          []int64
	costly          bool
	fails           error
	hangs           atomic.Bool
}

func (m *machine) engine(e *engine) *engine {
	e.machine = m
	if e.dir == "" {
		e.dir = "/engine"
	}
	m.engines = append(m.engines, e)
	return e
}

func (e *engine) Name() string    { return e.name }
func (e *engine) DataDir() string { return e.dir }
func (e *engine) CheapSize() bool { return !e.costly }

func (e *engine) BuildCacheSize(context.Context) (int64, error) {
	e.note(e.dir, 0, "%ssize", e.name)
	return e.cache * gib, e.fails
}

func (e *engine) PruneUnused(ctx context.Context, unused time.Duration) (Removed, error) {
	if e.hangs.Load() {
		<-ctx.Done()
		return Removed{}, ctx.Err()
	}
	old := &e.dayOld
	if unused > day {
		old = &e.weekOld
	}
	n := *old
	*old = 0
	e.cache -= n
	return e.note(e.dir, n, "%sunused for %d days: %d", e.name, unused/day, n), e.fails
}

func (e *engine) PruneTo(_ context.Context, keep int64) (Removed, error) {
	n := max(e.cache-keep/gib, 0)
	e.cache -= n
	dir := e.dir
	if e.machine.disks[dir] == nil {
		dir = "/state"
	}
	return e.note(dir, n, "%skeep %d: %d", e.name, keep/gib, n), e.fails
}

func (e *engine) EvictImages(_ context.Context, unused time.Duration, more func() bool) (n int, err error) {
	for len(e.images) > 0 && more() {
		e.note(e.dir, e.images[0], "%simage: %d", e.name, e.images[0])
		e.images = e.images[1:]
		n++
	}
	return n, e.fails
}

// TestOrder: what is cheapest to make again goes first, and no more than the disk lacks.
func TestOrder(t *testing.T) {
	t.Parallel()
	week, two, keep, image := "unused for 7 days: 5", "unused for 1 days: 5", "keep 25: 5", "image: 5"
	for _, c := range []struct {
		free uint64
		want []string
	}{
		{50, nil},
		{49, []string{week}},
		{45, []string{week}},
		{44, []string{week, two}},
		{40, []string{week, two}},
		{35, []string{week, two, "size", keep}},
		{10, []string{week, two, "size", "keep 0: 30"}},
		{5, []string{week, two, "size", "keep 0: 30", image}},
		{0, []string{week, two, "size", "keep 0: 30", image, "size", "caches 5"}},
	} {
		m := newMachine(t, c.free)
		m.engine(&engine{weekOld: 5, dayOld: 5, cache: 40, images: []int64{5}})
		m.folder(Caches, "/caches", 5)
		m.folder(Sources, "/sources", 5)
		m.once(m.keeper())
		if diff := cmp.Diff(c.want, m.took()); diff != "" {
			t.Errorf("%d GiB are free:\n%s", c.free, diff)
		}
		if short := strings.Contains(m.log.String(), "there is nothing more"); short {
			t.Errorf("%d GiB are free, and now the log has:\n%s", c.free, &m.log)
		}
	}
}

// TestImagesOnlyUntilEnough: one name after the other, and the build cache once more when images are gone.
func TestImagesOnlyUntilEnough(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 45)
	m.engine(&engine{images: []int64{3, 3, 3}})
	m.folder(Caches, "/caches", 5)
	m.once(m.keeper())
	want := []string{"unused for 7 days: 0", "unused for 1 days: 0", "size", "image: 3", "image: 3"}
	if diff := cmp.Diff(want, m.took()); diff != "" {
		t.Error(diff)
	}
	if m.freed[Images] != 6*gib {
		t.Errorf("%v", m.freed)
	}
	m = newMachine(t, 45)
	m.engine(&engine{images: []int64{1}})
	m.folder(Caches, "/caches", 5)
	m.once(m.keeper())
	want = []string{"unused for 7 days: 0", "unused for 1 days: 0", "size", "image: 1", "size", "caches 4"}
	if diff := cmp.Diff(want, m.took()); diff != "" {
		t.Error(diff)
	}
}

// TestOnlyTheShortDisk: what lies on another disk stays.
func TestOnlyTheShortDisk(t *testing.T) {
	t.Parallel()
	build := func(state, engines uint64) *machine {
		m := newMachine(t, state)
		m.disks["/engine"] = &Space{Device: 2, Free: engines * gib, Size: 1000 * gib}
		m.engine(&engine{cache: 20})
		m.engine(&engine{name: "other's ", cache: 20, dir: "/state"})
		m.folder(Caches, "/caches", 50)
		m.once(m.keeper())
		return m
	}
	if got := build(60, 60).took(); got != nil {
		t.Error(got)
	}
	if diff := cmp.Diff([]string{"unused for 7 days: 0", "unused for 1 days: 0", "size", "keep 10: 10"}, build(60, 40).took()); diff != "" {
		t.Error(diff)
	}
	want := []string{"other's unused for 7 days: 0", "other's unused for 1 days: 0", "other's size", "other's keep 0: 20", "caches 20"}
	if diff := cmp.Diff(want, build(10, 60).took()); diff != "" {
		t.Error(diff)
	}
}

// TestBound: a build cache is kept within its bound whatever is free, also where nobody can see what is free.
func TestBound(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 500)
	m.limits.BuildCache = 30 * gib
	m.engine(&engine{cache: 40})
	m.engine(&engine{name: "far ", cache: 20, dir: "/elsewhere"})
	k := m.keeper()
	m.once(k)
	m.once(k)
	got := m.took()
	slices.Sort(got) // they are asked at the same time
	if diff := cmp.Diff([]string{"far keep 30: 0", "far keep 30: 0", "keep 30: 0", "keep 30: 10"}, got); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(m.log.String(), "the disk of the Engine's images and build cache cannot be seen from here"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &m.log)
	}
	if !strings.Contains(m.log.String(), `msg="removed what can be made again" what=build_cache of="" count=1 freed=10GiB why="it may take 30GiB (build_cache)"`) || m.freed[BuildCache] != 10*gib {
		t.Errorf("%v:\n%s", m.freed, &m.log)
	}
}

// TestOff: without min_free nothing is removed, however full the disk is.
func TestOff(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 0)
	m.limits.MinFree = nil
	m.engine(&engine{cache: 40, weekOld: 5})
	m.folder(Caches, "/caches", 50)
	if m.once(m.keeper()); m.took() != nil || m.log.Len() > 0 {
		t.Error(m.did, &m.log)
	}
}

// TestTellsOnce: that nothing more can be done is said once until that changes, and so is an error.
func TestTellsOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 10)
	e := m.engine(&engine{name: "e", fails: errors.New("on holiday")})
	k := m.keeper()
	told := func(text string, times int) {
		t.Helper()
		if n := strings.Count(m.log.String(), text); n != times {
			t.Errorf("%q is there %d times, not %d:\n%s", text, n, times, &m.log)
		}
	}
	const nothing = `level=WARN msg="a disk is short, and there is nothing more on it that slipway may remove" disk=/engine why="10GiB are free, and 50GiB shall stay free (min_free)" hint="docker system df`
	for range 3 {
		m.once(k)
	}
	told(nothing, 1)
	told(`level=WARN msg="cannot remove build_cache; trying again" of=e error="on holiday"`, 1)
	if diff := cmp.Diff([]string{"eunused for 7 days: 0"}, m.took()[2:]); diff != "" {
		t.Errorf("an Engine that fails is asked on:\n%s", diff)
	}
	m.disks["/state"].Free = 60 * gib
	m.once(k)
	told(`msg="the disk has enough again"`, 1)
	m.disks["/state"].Free = 10 * gib
	e.fails = nil
	m.once(k)
	told(nothing, 2)
	e.fails = errors.New("on holiday")
	m.once(k)
	told("on holiday", 2)
}

// TestCostlySizes: an Engine that reads all it has for a size is asked every ten minutes only; in between, what was removed counts.
func TestCostlySizes(t *testing.T) {
	t.Parallel()
	for costly, want := range map[bool]int{true: 2, false: 13} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine(t, 49)
			m.engine(&engine{cache: 100, costly: costly})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { m.keeper().Run(ctx); close(done) }()
			time.Sleep(Every - time.Second)
			for range 12 {
				m.mu.Lock()
				m.disks["/engine"].Free -= gib
				m.mu.Unlock()
				time.Sleep(Every)
			}
			cancel()
			<-done
			sizes, keeps := 0, ""
			for _, what := range m.did {
				if what == "size" {
					sizes++
				} else if strings.HasPrefix(what, "keep") {
					keeps += what + "\n"
				}
			}
			if sizes != want || !strings.HasPrefix(keeps, "keep 99: 1\nkeep 98: 1\nkeep 97: 1\n") {
				t.Errorf("costly: %t: asked %d times, not %d; %s", costly, sizes, want, keeps)
			}
		})
	}
}

// TestHangingEngine: an Engine that does not answer holds up nothing but its own disk, is asked again later, and does not keep
// slipway from ending.
func TestHangingEngine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, 40)
		m.disks["/engine"] = &Space{Device: 2, Size: 1000 * gib}
		e := m.engine(&engine{weekOld: 70})
		e.hangs.Store(true)
		m.folder(Caches, "/caches", 50)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { m.keeper().Run(ctx); close(done) }()
		took := func() []string {
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.took()
		}
		if diff := cmp.Diff([]string{"caches 10"}, took()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(callTimeout)
		synctest.Wait()
		if !strings.Contains(m.log.String(), "cannot remove build_cache; trying again") {
			t.Errorf("the log has\n%s", &m.log)
		}
		time.Sleep(Every) // it hangs again
		if got := took(); got != nil {
			t.Error(got)
		}
		e.hangs.Store(false)
		time.Sleep(callTimeout + Every)
		if diff := cmp.Diff([]string{"unused for 7 days: 70"}, took()); diff != "" {
			t.Error(diff)
		}
		e.hangs.Store(true)
		m.note("/engine", -70, "filled")
		time.Sleep(Every)
		cancel()
		<-done
	})
}

// TestWake: after a job it is looked at once, but not all the time.
func TestWake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, 500)
		m.limits.BuildCache = 10 * gib
		m.engine(&engine{})
		k := m.keeper()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { k.Run(ctx); close(done) }()
		looks := func(after time.Duration, want int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			if got := len(m.took()); got != want {
				t.Errorf("%d looks, not %d", got, want)
			}
		}
		looks(pause+time.Second, 1)
		k.Wake()
		looks(0, 1)
		for range 5 {
			k.Wake()
		}
		looks(pause-time.Second, 0)
		looks(time.Second, 1)
		looks(Every-time.Second, 0)
		looks(time.Second, 1)
		cancel()
		<-done
	})
}

// TestInodes: where inodes lack, what has many files goes, and what has few stays.
func TestInodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		free, inodes uint64 // 50 of each shall be free, and a file takes a GiB
		sources      int64
		want         []string
		short        bool
	}{
		{1050, 40, 20, []string{"sources 10"}, false},
		{1050, 40, 5, []string{"sources 5"}, true},
		{45, 50, 20, []string{"caches 5"}, false},
		{45, 40, 20, []string{"caches 5", "sources 5"}, false},
	} {
		m := newMachine(t, 0)
		*m.disks["/state"] = Space{Device: 1, Free: c.free * gib, Size: (c.free + 1000 - c.inodes) * gib, Inodes: 1000, FreeInodes: c.inodes}
		m.folder(Caches, "/caches", 100)
		m.folder(Sources, "/sources", c.sources)
		m.once(m.keeper())
		if diff := cmp.Diff(c.want, m.took()); diff != "" {
			t.Errorf("%d GiB and %d inodes are free:\n%s", c.free, c.inodes, diff)
		}
		if short := strings.Contains(m.log.String(), "there is nothing more"); short != c.short {
			t.Errorf("%d GiB and %d inodes are free, and now the log has:\n%s", c.free, c.inodes, &m.log)
		}
	}
}

func TestLacks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		space   Space
		minFree uint64
		want    int64
	}{
		{Space{Free: 100, Size: 200}, 100, 0},
		{Space{Free: 40, Size: 200}, 100, 60},
		{Space{Free: 300, Size: 200}, 100, 0},
		// 20 of 400 inodes shall be free, and each file takes some 10 bytes.
		{Space{Free: 100, Size: 4100, Inodes: 400, FreeInodes: 20}, 100, 0},
		{Space{Free: 100, Size: 4100, Inodes: 400, FreeInodes: 10}, 100, 100},
		{Space{Free: 0, Size: 4100, Inodes: 400, FreeInodes: 10}, 1000, 1000},
		{Space{Free: 100, Size: 100, Inodes: 400, FreeInodes: 10}, 0, 10},
		{Space{Free: 100, Size: 100, Inodes: 0, FreeInodes: 0}, 0, 0},
	} {
		if got := c.space.lacks(c.minFree); got != c.want {
			t.Errorf("%+v lacks %d, not %d", c.space, got, c.want)
		}
	}
	space, err := Look(t.TempDir())
	if err != nil || space.Size == 0 || space.Free > space.Size {
		t.Errorf("%+v %v", space, err)
	}
	if _, err := Look("/nowhere/at/all"); err == nil {
		t.Error("a disk of nothing")
	}
}
