package executor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/archive"
	"github.com/slipway-ci/slipway/internal/objects"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// CacheUnused is how long an archive of the cache keyword stays on the machine that no job asks for.
const CacheUnused = 30 * 24 * time.Hour

// CacheStore is where the archives of a state folder lie: out of reach of jobs, unlike cache_dir.
func CacheStore(stateDir string) archive.Store {
	return archive.Store{Dir: filepath.Join(stateDir, "caches")}
}

// cachePlan is one entry of the cache keyword.
type cachePlan struct {
	key       string
	fallbacks []string
	selection archive.Selection
	untracked bool
	pull      bool
	push      bool
	when      string
	level     archive.Level
	cleanUp   bool // what a broken archive has left
	zip       bool // in the form that all programs read; in a bucket by default, where others may fetch it
}

// planCaches reads the cache keyword. What is wrong with it is a warning: a job does without.
//
// GitLab: variables are expanded in keys, paths and policies; the key is the job's name and its ref if there is none. A key that is
// not taken as it is written is a warning.
func (s Settings) planCaches(p *plan) (out []cachePlan) {
	if len(p.spec.Cache) == 0 {
		return nil
	}
	onS3 := s.Cache.S3 != nil
	if s.DisableCache && !onS3 { // GitLab: the key is about caches on the machine
		p.warnings = append(p.warnings, "cache: this runner keeps none (disable_cache in [runners.docker]); the job runs without it")
		return nil
	}
	last, format := p.fallbackKey(), p.vars.Get("CACHE_COMPRESSION_FORMAT")
	for _, c := range p.spec.Cache {
		if len(c.Paths) == 0 && !c.Untracked {
			continue
		}
		key := c.Key
		if key == "" {
			key = p.spec.JobInfo.Name + "/" + p.spec.GitInfo.Ref
		}
		to := cachePlan{
			key: s.cacheKey(p, key), selection: p.selection(c.Paths, nil), untracked: c.Untracked, when: c.When,
			cleanUp: s.flag("FF_CLEAN_UP_FAILED_CACHE_EXTRACT", p.vars), level: archive.Level(p.vars.Get("CACHE_COMPRESSION_LEVEL")), zip: format == "zip" || onS3 && format != "zipzstd",
		}
		if to.key == "" {
			p.warnings = append(p.warnings, fmt.Sprintf("cache: the key %q stands for nothing; the job runs without this cache", c.Key))
			continue
		}
		if written := p.vars.Expand(key); !s.flag("FF_HASH_CACHE_KEYS", p.vars) && to.key != written {
			p.warnings = append(p.warnings, fmt.Sprintf("cache: the key %q is taken for %q", written, to.key))
		}
		switch policy := p.vars.Expand(c.Policy); policy {
		case "", "pull-push":
			to.pull, to.push = true, true
		case "pull":
			to.pull = true
		case "push":
			to.push = true
		default:
			p.warnings = append(p.warnings, fmt.Sprintf("cache: the policy %q is none of pull-push, pull and push; the job runs without this cache", policy))
			continue
		}
		for _, key := range append(slices.Clone(c.FallbackKeys), last) {
			if key = s.cacheKey(p, key); key != "" {
				to.fallbacks = append(to.fallbacks, key)
			}
		}
		out = append(out, to)
	}
	return out
}

// fallbackKey is the one that a variable gives.
//
// GitLab: it may not name the cache of protected refs, whose keys end so; those of the payload have their ending from the server.
// Here neither by another spelling.
func (p *plan) fallbackKey() string {
	key := p.vars.Get("CACHE_FALLBACK_KEY")
	if strings.HasSuffix(strings.TrimRight(cleanKey(p.vars.Expand(key)), ". "), "-protected") {
		p.warnings = append(p.warnings, fmt.Sprintf("CACHE_FALLBACK_KEY is %q, which is a cache of protected refs; it is ignored", key))
		return ""
	}
	return key
}

var escaped = regexp.MustCompile(`(?i)%2[ef]`)

// cacheKey is a key as GitLab's runner stores it: a clean relative path, or with FF_HASH_CACHE_KEYS a hash.
func (s Settings) cacheKey(p *plan, key string) string {
	key = p.vars.Expand(key)
	if s.flag("FF_HASH_CACHE_KEYS", p.vars) && key != "" {
		sum := sha256.Sum256([]byte(key))
		return hex.EncodeToString(sum[:])
	}
	return cleanKey(key)
}

// cleanKey makes a key a clean relative path.
func cleanKey(key string) string {
	key = escaped.ReplaceAllStringFunc(key, func(e string) string {
		if strings.EqualFold(e, "%2f") {
			return "/"
		}
		return "."
	})
	key = path.Clean("/" + strings.ReplaceAll(key, `\`, "/"))[1:]
	return strings.TrimRight(key, " ")
}

// restoreCaches unpacks the caches that the job wants, at the moment when downloadArtifacts may too. A job does without a cache that
// cannot be had.
func (e *Executor) restoreCaches(ctx context.Context, tr *trace.Trace, p *plan, w *source.Workspace) error {
	if !slices.ContainsFunc(p.caches, func(c cachePlan) bool { return c.pull }) {
		return nil
	}
	defer tr.Flush()
	defer p.section(tr, "restore_cache", "Restoring cache")()
	f, err := openFolder(tr, p, w)
	if err != nil {
		return err
	}
	defer f.close()
	from, err := e.cachesOf(p)
	if err != nil {
		tr.Warnf("caches are taken from this machine only: %v", err)
	}
	defer from.close()
	for _, c := range p.caches {
		if !c.pull {
			continue
		}
		err := e.attempt(ctx, p, "RESTORE_CACHE_ATTEMPTS", func() error { return f.restore(ctx, from, c, from.fetch) },
			func(err error, _ time.Duration) bool { tr.Warnf("%v; trying again", err); return true })
		if unfetched := (*unfetchedError)(nil); errors.As(err, &unfetched) && ctx.Err() == nil {
			tr.Warnf("%v; the copy on this machine is used, if there is one", err)
			err = f.restore(ctx, from, c, nil)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			tr.Warnf("%v; the job goes on without it", err)
		}
	}
	return nil
}

// restore unpacks the first of a cache's keys that there is an archive for. fetch brings it to this machine; nil = it does
// not, and what lies there is taken.
func (f *folder) restore(ctx context.Context, from *caches, c cachePlan, fetch fetcher) error {
	for _, key := range append([]string{c.key}, c.fallbacks...) {
		a, err := from.open(ctx, f.tr, key, fetch)
		if errors.Is(err, objects.ErrDenied) { // it may just not be there
			f.tr.Warnf("%v", err)
			continue
		}
		if err != nil {
			return err
		}
		if a == nil {
			f.tr.Printf("There is no cache for %s.", key)
			continue
		}
		defer a.Close()
		_, text, err := f.unzip(ctx, a.File, a.Size)
		if err != nil && c.cleanUp && ctx.Err() == nil {
			err = errors.Join(err, f.remove(ctx, c.selection))
		}
		if err != nil {
			if fetch != nil { // a copy that is broken is fetched again
				err = errors.Join(err, from.local.Remove(from.project, key))
			}
			return fmt.Errorf("the cache %s: %w", key, err)
		}
		f.tr.Printf("Restored the cache %s: %s", key, text)
		return nil
	}
	return nil
}

// saveCaches packs the caches that the job leaves. The job does not fail for them. The end of cancelable stops it, unless that has
// ended already: caches may be wanted of a job that was canceled.
func (e *Executor) saveCaches(ctx, cancelable context.Context, tr *trace.Trace, p *plan, w *source.Workspace, s *session, failure error) {
	var todo []cachePlan
	for _, c := range p.caches {
		if c.push && wanted(c.when, failure) {
			todo = append(todo, c)
		}
	}
	if len(todo) == 0 {
		return
	}
	name, headline := "archive_cache", "Saving cache for successful job"
	if failure != nil {
		name, headline = "archive_cache_on_failure", "Saving cache for failed job"
	}
	defer tr.Flush()
	defer p.section(tr, name, headline)()
	e.readable(ctx, tr, p, s)
	to, err := e.cachesOf(p)
	if err != nil {
		tr.Warnf("caches are not saved: %v", err)
		return
	}
	defer to.close()
	f, err := openFolder(tr, p, w)
	if err != nil {
		tr.Warnf("caches are not saved: %v", err)
		return
	}
	defer f.close()
	saving := ctx
	if cancelable.Err() == nil {
		saving = cancelable
	}
	for _, c := range todo {
		if err := f.save(saving, to, c); err != nil && ctx.Err() == nil {
			tr.Warnf("the cache %s was not saved: %v", c.key, err)
		}
	}
}

// save packs what the job has left of a cache.
func (f *folder) save(ctx context.Context, to *caches, c cachePlan) error {
	f.tr.Printf("Saving the cache %s...", c.key)
	names, err := f.find(ctx, c.selection, c.untracked)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		f.tr.Warnf("there are no files to save")
		return nil
	}
	if to.same(ctx, c.key, f.root, names) {
		f.tr.Printf("The cache %s is up to date.", c.key)
		return nil
	}
	var sum archive.Summary
	var took time.Duration
	packed, err := to.local.Put(to.project, c.key, func(out *os.File) (tag string, err error) {
		meter := newMeter(f.tr, "Packed")
		contents := archive.Contents{Root: f.root, Names: names, Level: c.level, Progress: meter.read}
		if c.zip {
			sum, err = contents.WriteZip(ctx, out)
		} else {
			sum, err = contents.WriteFastZip(ctx, out)
		}
		took = meter.stop()
		if err != nil {
			return "", err
		}
		for _, skipped := range sum.Skipped {
			f.tr.Warnf("%s", skipped)
		}
		return to.send(ctx, f.tr, c.key, out)
	})
	if err != nil {
		return err
	}
	f.tr.Printf("Saved the cache %s: %s", c.key, described(sum, packed, took))
	return nil
}
