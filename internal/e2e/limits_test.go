package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/disk"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

const mib = 1 << 20

// ownSocket gives jobs a guarded socket of that Engine.
func ownSocket(d *dockerd) option {
	return dockerKeys(fmt.Sprintf(`volumes = ["%s:/var/run/docker.sock", "/cache", "/builds"]`, d.path("docker.sock")))
}

// withClient brings the image with the docker client there.
func (d *dockerd) withClient(e *docker.Engine) *docker.Engine {
	d.t.Helper()
	if err := load(e, dockerClient, demo.DockerClient()); err != nil {
		d.t.Fatal(err)
	}
	return e
}

// stages is a job that builds an image of some stages of so many MiB each, which are in the build cache and in no image.
func stages(size int, names ...string) *job.Spec {
	dockerfile, last := "", "FROM "+alpine+"\\n"
	for _, name := range names {
		dockerfile += fmt.Sprintf("FROM %s AS %s\\nRUN head -c %d /dev/urandom >/%s && echo %s >/name\\n", alpine, name, size<<20, name, name)
		last += "COPY --from=" + name + " /name /" + name + "\\n"
	}
	return withDocker("printf '"+dockerfile+last+"' >Dockerfile", "docker build .")
}

// buildCache is the size of an Engine's build cache in bytes.
func buildCache(t *testing.T, e *docker.Engine) int64 {
	t.Helper()
	n, err := cacheOf(t, e).Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func cacheOf(t *testing.T, e *docker.Engine) docker.BuildCache {
	t.Helper()
	m, err := e.Machine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e.BuildCache(m)
}

// TestBuildCacheCalls: what the Engine makes of the calls that prune its build cache.
func TestBuildCacheCalls(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	e := d.withClient(d.engine())
	r := newRig(t, onEngine(d, e), ownSocket(d))
	r.must(job.Success, stages(3, "a", "b", "c"))
	size := buildCache(t, e)
	if size < 9*mib || size > 20*mib {
		t.Fatalf("the build cache takes %d bytes", size)
	}
	if p, err := cacheOf(t, e).PruneUnused(t.Context(), time.Hour); err != nil || p.Records != 0 || buildCache(t, e) != size {
		t.Errorf("what was used just now: %+v, %v", p, err)
	}
	if p, err := cacheOf(t, e).PruneTo(t.Context(), size+mib); err != nil || p.Records != 0 || buildCache(t, e) != size {
		t.Errorf("to more than it takes: %+v, %v", p, err)
	}
	p, err := cacheOf(t, e).PruneTo(t.Context(), size-mib)
	left := buildCache(t, e)
	if err != nil || p.Records == 0 || p.Bytes < mib || left > size-mib || left < size-8*mib {
		t.Errorf("by a MiB: %+v, %v, %d of %d bytes are left", p, err, left, size)
	}
	if p, err := cacheOf(t, e).PruneUnused(t.Context(), time.Nanosecond); err != nil || p.Bytes < left-mib || buildCache(t, e) > mib {
		t.Errorf("all that is not in use: %+v, %v", p, err)
	}
	if p, err := cacheOf(t, e).PruneTo(t.Context(), 0); err != nil {
		t.Errorf("to nothing: %+v, %v", p, err)
	}
	if _, err := e.InspectImage(t.Context(), alpine); err != nil {
		t.Error(err)
	}
}

// TestBuildCacheBound: after a job that built more than build_cache allows, the build cache is within it, and what was used last is
// still there.
func TestBuildCacheBound(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	e := d.withClient(d.engine())
	r := newRig(t, onEngine(d, e), ownSocket(d), limitKeys("min_free = \"0\"\n  build_cache = \"10MB\""))
	r.must(job.Success, stages(3, "a"))
	r.must(job.Success, stages(3, "b", "c", "d", "e"))
	r.logged("removed what can be made again", "what=build_cache", `why="it may take 10MiB (build_cache)"`)
	if size := buildCache(t, e); size > 10*mib || size < 4*mib {
		t.Errorf("the build cache takes %d bytes", size)
	}
	// Another bound, without a restart.
	r.writeOwn(strings.Replace(r.readOwn(), "10MB", "5MB", 1))
	r.logged("read the config again")
	r.must(job.Success, spec("true"))
	r.eventually("the build cache is within the new bound", func() bool { return buildCache(t, e) <= 5*mib })
}

// fill leaves so many bytes free on the disk of a folder.
func fill(t *testing.T, dir string, free uint64) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	_ = os.Remove(name)
	space, err := disk.Look(dir)
	if err != nil || space.Free < free {
		t.Fatalf("%+v are free, not %d, %v", space, free, err)
	}
	if err := os.WriteFile(name, make([]byte, space.Free-free), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestShortDiskOfTheEngine: when the disk of the Engine's data gets short, its build cache gets smaller by that, and images stay.
func TestShortDiskOfTheEngine(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	m, err := d.engine().Machine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.stop(syscall.SIGTERM)
	data := d.path("data")
	if m.ContainerdImages {
		d.stopContainerd()
		data = d.path("containerd/root") // of which the Engine says nothing
	}
	if err := syscall.Mount("slipway-test", data, "tmpfs", 0, "mode=0710,size=512m"); err != nil {
		t.Fatal(err)
	}
	d.start()
	e := d.withClient(d.engine())
	r := newRig(t, onEngine(d, e), ownSocket(d), limitKeys(`min_free = "100MB"`))
	r.must(job.Success, stages(10, "a"))
	r.must(job.Success, stages(10, "b", "c", "d"))
	before := buildCache(t, e)
	fill(t, data, 92*mib)
	r.must(job.Success, spec("true"))
	r.logged("removed what can be made again", "what=build_cache", "shall stay free (min_free)")
	// It may have been looked at while the disk was being filled, too.
	r.eventually("the build cache has made room", func() bool { return buildCache(t, e) <= before-8*mib })
	if after := buildCache(t, e); after < before-24*mib {
		t.Errorf("the build cache took %d bytes, and takes %d", before, after)
	}
	lacks(t, r.log.String(), "a disk is short")

	// With nothing left to remove, people are told, once.
	fill(t, data, 20*mib)
	r.must(job.Success, spec("true"))
	r.logged("WARN  a disk is short, and there is nothing more on it that slipway may remove", "disk="+data)
	r.eventually("nothing of the build cache is left", func() bool { return buildCache(t, e) <= mib })
	r.must(job.Success, spec("true"))
	once(t, r.log.String(), "a disk is short")
}

// TestShortDiskOfTheState: when the disk of the state folder gets short, records of builds go, then caches, then mirrors and workspaces, the longest unused
// first and no more than needed; what a job uses stays.
func TestShortDiskOfTheState(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	r := newRig(t, onEngine(d, d.engine()), smallDisk(t, "", "64m"), limitKeys(`min_free = "16MB"`))
	random := func(n int) map[string]string {
		b := make([]byte, n)
		_, _ = rand.Read(b)
		return map[string]string{"random": string(b)}
	}
	caching := func(key string) *job.Spec {
		return withCache(spec("head -c 3145728 /dev/urandom >file"), job.Cache{Key: key, Paths: []string{"file"}})
	}
	project := func(path string) *repository { return r.repository(path, random(3*mib)) }
	idle, busy := project("group/idle"), project("group/busy")
	builds := filepath.Join(r.stateDir(), "builds", "p1")
	if err := os.MkdirAll(builds, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"new": 0, "old": time.Hour} {
		file, when := filepath.Join(builds, name+".json.gz"), time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(file, make([]byte, mib), 0o600), os.Chtimes(file, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	r.must(job.Success, withImage(idle.spec("main", "true"), alpine))
	for _, key := range []string{"older", "newer"} {
		r.must(job.Success, caching(key))
	}
	j := r.enqueue(withImage(busy.spec("main", "echo begun", untilTold, "test $(wc -c <random) = 3145728", "git rev-parse HEAD || true"), alpine))
	r.until(j, "\nbegun\n")
	count := func(pattern string) int {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(r.stateDir(), pattern))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	left := func(want string) {
		t.Helper()
		got := func() string {
			return fmt.Sprintf("%d records, %d caches, %d mirrors, %d workspaces", count("builds/*/*"), count("caches/*/*.zip"), count("sources/mirrors/*/objects/pack/*.pack"), count("sources/workspaces/*/*/project/random"))
		}
		r.eventually("there are "+want+", not "+got(), func() bool { return got() == want })
	}
	left("2 records, 2 caches, 2 mirrors, 2 workspaces")
	next := spec("true")
	next.Variables = append(next.Variables, job.Variable{Key: "GIT_STRATEGY", Value: "none"})

	fill(t, r.stateDir(), 15*mib+mib/2)
	r.must(job.Success, next)
	left("1 records, 2 caches, 2 mirrors, 2 workspaces")
	if _, err := os.Stat(filepath.Join(builds, "new.json.gz")); err != nil {
		t.Error(err)
	}

	fill(t, r.stateDir(), 14*mib)
	r.must(job.Success, next)
	left("0 records, 1 caches, 2 mirrors, 2 workspaces")
	wants(t, r.must(job.Success, caching("newer")), "Restored the cache newer")

	fill(t, r.stateDir(), 11*mib)
	r.must(job.Success, next)
	left("0 records, 0 caches, 2 mirrors, 1 workspaces")

	fill(t, r.stateDir(), 2*mib)
	r.must(job.Success, next)
	r.logged("a disk is short, and there is nothing more on it that slipway may remove")
	left("0 records, 0 caches, 1 mirrors, 1 workspaces")
	_ = os.Remove(filepath.Join(r.stateDir(), "filler"))
	r.tell(j)
	r.succeeds(j)
	r.logged("what=builds", "what=caches", "what=sources", "the disk has enough again")
	r.must(job.Success, withImage(idle.spec("main", "test $(wc -c <random) = 3145728"), alpine))
}
