package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/archive"
	"github.com/slipway-ci/slipway/internal/objects"
	"github.com/slipway-ci/slipway/internal/trace"
)

// CacheSettings say where the archives of the cache keyword are kept beside this machine.
type CacheSettings struct {
	S3        *objects.Options // nil = nowhere
	Prefix    string           // what all names of objects begin with
	MaxUpload int64            // bytes of an archive; 0 = no limit
}

// caches are those of a project, while a job restores or saves some: on this machine, and in a bucket if there is one. What lies
// on this machine is then only a copy, whose tag is the object's ETag, so that it is not fetched again.
type caches struct {
	local   archive.Store
	project string
	bucket  *objects.Bucket // nil = only on this machine
	prefix  string
	limit   int64
	timeout time.Duration // of a transfer
}

// cachesOf opens the caches of a job's project.
func (e *Executor) cachesOf(p *plan) (*caches, error) {
	s := e.Settings
	c := &caches{local: CacheStore(s.StateDir), project: s.projectKey(p.spec), limit: s.Cache.MaxUpload, timeout: p.cacheTimeout()}
	if s.Cache.S3 == nil {
		return c, nil
	}
	// GitLab: the names of its runner, so that what it has saved is found.
	c.prefix = strings.TrimLeft(path.Join(s.Cache.Prefix, "project", strconv.FormatInt(p.spec.JobInfo.ProjectID, 10)), "/")
	options := *s.Cache.S3
	options.Within = c.prefix + "/"
	var err error
	c.bucket, err = objects.Open(options)
	return c, err
}

func (c *caches) close() {
	if c.bucket != nil {
		c.bucket.Close()
	}
}

// defaultCacheTimeout is how long a transfer may take, in minutes.
//
// GitLab: its runner's.
const defaultCacheTimeout = 10

// cacheTimeout is CACHE_REQUEST_TIMEOUT, in minutes.
func (p *plan) cacheTimeout() time.Duration {
	minutes, err := strconv.ParseInt(p.vars.Get("CACHE_REQUEST_TIMEOUT"), 10, 32)
	if err != nil || minutes <= 0 {
		minutes = defaultCacheTimeout
	}
	return time.Duration(minutes) * time.Minute
}

func (c *caches) object(key string) string { return path.Join(c.prefix, key) }

func (c *caches) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("it took longer than %s (CACHE_REQUEST_TIMEOUT, in minutes, allows more)", c.timeout))
}

// unfetchedError is that a cache cannot be had from the bucket.
type unfetchedError struct {
	key string
	err error
}

func (e *unfetchedError) Error() string {
	return fmt.Sprintf("the cache %s cannot be fetched: %v", e.key, e.err)
}

func (e *unfetchedError) Unwrap() error { return e.err }

// fetcher makes the copy on this machine what the bucket has, and reports whether that is something.
type fetcher func(ctx context.Context, tr *trace.Trace, key string) (bool, error)

// open opens the archive of a key; nil = there is none. What was fetched may be gone by then where the disk is short: it is fetched again.
func (c *caches) open(ctx context.Context, tr *trace.Trace, key string, fetch fetcher) (*archive.Stored, error) {
	const tries = 3
	for range tries {
		fetched := false
		if fetch != nil {
			var err error
			if fetched, err = fetch(ctx, tr, key); err != nil {
				return nil, err
			}
		}
		a, err := c.local.Open(c.project, key)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("the cache %s cannot be read: %w", key, err)
		}
		if !fetched {
			break
		}
	}
	return nil, nil
}

// fetch implements fetcher. On a machine without a bucket there is nothing to do.
func (c *caches) fetch(ctx context.Context, tr *trace.Trace, key string) (bool, error) {
	if c.bucket == nil {
		return false, nil
	}
	known := ""
	if have, err := c.local.Open(c.project, key); err == nil {
		known = have.Tag
		have.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	ctx, cancel := c.limited(ctx)
	defer cancel()
	meter := newMeter(tr, "Fetched")
	n, err := c.local.Put(c.project, key, func(f *os.File) (string, error) {
		return c.bucket.Get(ctx, c.object(key), known, f, meter.read)
	})
	took := meter.stop()
	switch {
	case errors.Is(err, objects.ErrUnchanged):
		tr.Printf("The cache %s has not changed since it was fetched.", key)
		return true, nil
	case errors.Is(err, objects.ErrNone):
		return false, c.local.Remove(c.project, key)
	case err != nil:
		return false, &unfetchedError{key, err}
	}
	tr.Printf("Fetched the cache %s: %s in %.2f s", key, size(n), took.Seconds())
	return true, nil
}

// send puts a packed archive into the bucket, and returns the tag of the copy on this machine.
func (c *caches) send(ctx context.Context, tr *trace.Trace, key string, f *os.File) (tag string, err error) {
	if c.bucket == nil {
		return "", nil
	}
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if c.limit > 0 && info.Size() > c.limit {
		return "", fmt.Errorf("its archive is too large: %s, and the runner uploads at most %s (MaxUploadedArchiveSize in [runners.cache])", size(info.Size()), size(c.limit))
	}
	ctx, cancel := c.limited(ctx)
	defer cancel()
	meter := newMeter(tr, "Sent")
	tag, err = c.bucket.Put(ctx, c.object(key), f, info.Size(), meter.read)
	took := meter.stop()
	if err != nil {
		return "", err
	}
	tr.Printf("Sent the cache %s: %s in %.2f s", key, size(info.Size()), took.Seconds())
	return tag, nil
}

// same reports whether the job has left what is in the cache already.
func (c *caches) same(ctx context.Context, key string, root *os.Root, names []string) bool {
	a, err := c.local.Open(c.project, key)
	if err != nil {
		return false
	}
	defer a.Close()
	if same, err := archive.Same(a, a.Size, root, names); err != nil || !same {
		return false // one that cannot be read is replaced
	}
	if c.bucket == nil {
		return true
	}
	ctx, cancel := c.limited(ctx)
	defer cancel()
	return c.bucket.Has(ctx, c.object(key), a.Tag) // another runner may have replaced it, or the bucket's rules removed it
}
