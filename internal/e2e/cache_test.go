package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// withCache is a job of a project folder that is empty at first.
func withCache(s *job.Spec, caches ...job.Cache) *job.Spec {
	s.Cache = caches
	return withVariables(s, "GIT_STRATEGY", "empty")
}

func TestCache(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	modules := job.Cache{Key: "modules-$NAME", Paths: []string{"node_modules/", "none"}, Policy: "pull-push", When: "on_success"}
	make := "test -e node_modules/a || { mkdir -p node_modules/.bin; echo first >node_modules/a; ln -s ../a node_modules/.bin/tool; chown 1234:2345 node_modules/a; }; cat node_modules/.bin/tool"
	log := r.must(job.Success, withVariables(withCache(spec(make), modules), "NAME", "x"))
	wants(t, log, "There is no cache for modules-x.", "Saving cache for successful job", "node_modules/: found 4 files and folders", "Saved the cache modules-x: 4 files")
	log = r.must(job.Success, withVariables(withCache(spec("cat node_modules/.bin/tool; stat -c '%u:%g' node_modules/a"), modules), "NAME", "x"))
	wants(t, log, "Restoring cache", "Restored the cache modules-x: 4 files", "\nfirst\n", "1234:2345\n", "The cache modules-x is up to date.")
	lacks(t, log, "Saved the cache")

	t.Run("another slot", func(t *testing.T) {
		r := r.in(t)
		j, release := r.waiting()
		wants(t, r.must(job.Success, withVariables(withCache(spec("echo slot $CI_CONCURRENT_PROJECT_ID; cat node_modules/a"), modules), "NAME", "x")), "\nslot 1\n", "\nfirst\n")
		release()
		r.succeeds(j)
	})
	t.Run("changed", func(t *testing.T) {
		r := r.in(t)
		wants(t, r.must(job.Success, withVariables(withCache(spec("echo other >node_modules/a"), modules), "NAME", "x")), "Saved the cache modules-x")
		wants(t, r.must(job.Success, withVariables(withCache(spec("cat node_modules/a"), modules), "NAME", "x")), "\nother\n")
	})
	t.Run("policies", func(t *testing.T) {
		r := r.in(t)
		pull, push := modules, modules
		pull.Policy, push.Policy = "$POLICY", "push"
		log := r.must(job.Success, withVariables(withCache(spec("cat node_modules/a; echo ignored >node_modules/a"), pull), "NAME", "x", "POLICY", "pull"))
		wants(t, log, "\nother\n")
		lacks(t, log, "Saving cache")
		log = r.must(job.Success, withVariables(withCache(spec("test ! -e node_modules; mkdir node_modules; echo pushed >node_modules/a"), push), "NAME", "x"))
		wants(t, log, "Saved the cache modules-x")
		lacks(t, log, "Restoring cache")
		wants(t, r.must(job.Success, withVariables(withCache(spec("cat node_modules/a"), modules), "NAME", "x")), "\npushed\n")
	})
	t.Run("when", func(t *testing.T) {
		r := r.in(t)
		failure, success, always := job.Cache{Key: "f", Paths: []string{"f"}, When: "on_failure"}, job.Cache{Key: "s", Paths: []string{"f"}}, job.Cache{Key: "a", Paths: []string{"f"}, When: "always"}
		log := r.fails(job.ScriptFailure, 3, withCache(spec("echo x >f; exit 3"), failure, success, always))
		wants(t, log, "Saving cache for failed job", "Saved the cache f", "Saved the cache a")
		lacks(t, log, "Saved the cache s")
	})
	t.Run("fallback keys", func(t *testing.T) {
		r := r.in(t)
		c := job.Cache{Key: "branch", Paths: []string{"f"}, FallbackKeys: []string{"none", "a"}}
		wants(t, r.must(job.Success, withCache(spec("cat f"), c)), "There is no cache for none.", "Restored the cache a", "\nx\n", "Saved the cache branch")
		last := job.Cache{Key: "branch-2", Paths: []string{"f"}}
		wants(t, r.must(job.Success, withVariables(withCache(spec("cat f"), last), "CACHE_FALLBACK_KEY", "a")), "Restored the cache a")
		log := r.must(job.Success, withVariables(withCache(spec("test ! -e f"), job.Cache{Key: "branch-3", Paths: []string{"f"}}), "CACHE_FALLBACK_KEY", "a-protected"))
		wants(t, log, "WARNING: CACHE_FALLBACK_KEY is \"a-protected\", which is a cache of protected refs")
	})
	t.Run("another project", func(t *testing.T) {
		r := r.in(t)
		wants(t, r.must(job.Success, ofProject(withVariables(withCache(spec("test ! -e node_modules"), modules), "NAME", "x"), 8, "group/other")), "There is no cache for modules-x.")
	})
}

// TestCacheIsOutOfReach: a job cannot write to the archives, a broken one stops no job, and hostile paths find nothing.
func TestCacheIsOutOfReach(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := job.Cache{Key: "../../up/%2e%2e/x", Paths: []string{"f", "../../../etc/passwd", "/etc", "link/**"}}
	log := r.must(job.Success, withCache(spec("echo x >f; ln -s /etc link"), c))
	wants(t, log, "Saved the cache x: 1 file,", "WARNING: /etc: it is not in the project folder", "WARNING: ../../../etc/passwd: it is not in the project folder")
	found, err := filepath.Glob(filepath.Join(r.stateDir(), "caches", "*", "*.zip"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v %v", found, err)
	}
	wants(t, r.must(job.Success, spec("test -z \"$(find / -name '*.zip' -not -path '/proc/*' 2>/dev/null)\" && echo none")), "\nnone\n")
	if err := os.WriteFile(found[0], []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, r.must(job.Success, withCache(spec("test ! -e f; echo again >f"), c)), "WARNING: the cache x: read the archive", "; the job goes on without it", "Saved the cache x")
	wants(t, r.must(job.Success, withCache(spec("cat f"), c)), "\nagain\n")
	log = r.must(job.Success, withCache(spec("true"), job.Cache{Key: "..", Paths: []string{"f"}}, job.Cache{Key: "k", Policy: "odd", Paths: []string{"f"}}))
	wants(t, log, `the key ".." stands for nothing`, `the policy "odd" is none of`)
	off := newRig(t, dockerKeys("disable_cache = true"))
	wants(t, off.must(job.Success, withCache(spec("true"), c)), "WARNING: cache: this runner keeps none (disable_cache in [runners.docker])")
}

// TestHalfACache: with FF_CLEAN_UP_FAILED_CACHE_EXTRACT nothing is left of an archive that breaks off.
func TestHalfACache(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := job.Cache{Key: "k", Paths: []string{"f", "d"}}
	r.must(job.Success, withCache(spec("head -c 300000 /dev/urandom >f; mkdir d; head -c 300000 /dev/urandom >d/g"), c))
	found, err := filepath.Glob(filepath.Join(r.stateDir(), "caches", "*", "*.zip"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v %v", found, err)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/4] ^= 0xff // in one of the two
	c.Policy = "pull"
	for value, want := range map[string]string{"true": "\nleft: 0\n", "false": "\nleft: "} {
		if err := os.WriteFile(found[0], data, 0o600); err != nil { // a broken one does not stay
			t.Fatal(err)
		}
		log := r.must(job.Success, withVariables(withCache(spec("echo left: $(find . -type f | wc -l)"), c), "FF_CLEAN_UP_FAILED_CACHE_EXTRACT", value))
		wants(t, log, "WARNING: the cache k: ", "; the job goes on without it", want)
		if value == "false" {
			lacks(t, log, "left: 0")
		}
	}
}

// TestUntrackedCache keeps what Git does not know.
func TestUntrackedCache(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	repo := r.repository("group/demo", map[string]string{"kept.txt": "1", ".gitignore": "ignored\n"})
	s := repo.spec("main", "echo x >ignored; echo y >new")
	s.Cache = []job.Cache{{Key: "$CI_COMMIT_REF_SLUG-k", Untracked: true}}
	wants(t, r.must(job.Success, s), "untracked: found 2 files and folders", "Saved the cache main-k")
}
