package cli

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/executor"
	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/state"
	"github.com/slipway-ci/slipway/internal/web"
)

// engine is one Docker Engine that comes and goes: it is reached when it is first needed, swept once of what killed
// runners left, and asked for a sign of life before each request for a job, so that no job is taken that cannot run.
type engine struct {
	options docker.Options
	folder  *state.Folder
	log     *slog.Logger
	swept   *once

	mu      sync.Mutex
	conn    *docker.Engine
	machine docker.Machine // of conn
	images  *ledger.Ledger // of conn

	dataRoot atomic.Pointer[string] // for who must not wait for an Engine that hangs
}

// reached gives an Engine that answered before, what it said of its machine, and the record of its images.
func (e *engine) reached(ctx context.Context) (*docker.Engine, docker.Machine, *ledger.Ledger, error) {
	conn, err := e.get(ctx)
	if err != nil {
		return nil, docker.Machine{}, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return conn, e.machine, e.images, nil
}

func (e *engine) get(ctx context.Context) (*docker.Engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		ctx, cancel := context.WithTimeout(ctx, signOfLife)
		defer cancel()
		return e.conn, e.conn.Ping(ctx)
	}
	conn, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	version, err := conn.Version(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if e.machine, err = conn.Machine(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	root := e.machine.DataRoot
	e.dataRoot.Store(&root)
	err = e.swept.first(e.machine.ID, func() error {
		free := func(dir, instance string) bool { return instance == e.folder.Instance || state.Free(dir, instance) }
		err := executor.Sweep(ctx, conn, free, e.log)
		if err != nil && conn.Ping(ctx) == nil { // else it went away meanwhile, and is swept when it is back
			e.log.Warn("some leftovers of killed runners stay", "error", err)
			return nil
		}
		return err
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	if e.images, err = ledger.Open(ledger.Folder(e.folder.Ledger(), e.machine.ID)); err != nil {
		conn.Close()
		return nil, err
	}
	if err := executor.RepairImages(ctx, conn, e.images); err != nil {
		e.log.Warn("some images do not have their names back", "error", err)
	}
	if conn.Socket() == "" {
		e.log.Warn("the Engine is not reached through a socket: it must be on this machine, where the jobs' folders are", "host", conn.Host())
	}
	e.log.Info("reached the Docker Engine", "host", conn.Host(), "version", version, "api", conn.APIVersion())
	e.conn = conn
	return conn, nil
}

// signOfLife is how long an Engine may take to answer a ping.
const signOfLife = 20 * time.Second

func (e *engine) connect(ctx context.Context) (*docker.Engine, error) {
	ctx, cancel := context.WithTimeout(ctx, signOfLife)
	defer cancel()
	return docker.Connect(ctx, e.options)
}

// engines are the Engines of a configuration, one connection each.
type engines struct {
	folder *state.Folder
	log    *slog.Logger

	mu    sync.Mutex
	by    map[docker.Options]*engine
	swept once
}

// once does something for each key until it has succeeded; who comes meanwhile waits. An Engine that the configuration names in two
// ways is swept once: the second time, our own containers there are those of running jobs.
type once struct{ by sync.Map }

func (o *once) first(key string, do func() error) error {
	v, _ := o.by.LoadOrStore(key, &oneTime{})
	t := v.(*oneTime)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		return nil
	}
	err := do()
	t.done = err == nil
	return err
}

type oneTime struct {
	mu   sync.Mutex
	done bool
}

// engineOptions say which Engine a runner's jobs run on.
func engineOptions(d *config.Docker) docker.Options {
	return docker.Options{Host: d.Host, TLSCertPath: d.TLSCertPath, TLSVerify: d.TLSVerify}
}

func (es *engines) of(d *config.Docker) *engine {
	o := engineOptions(d)
	es.mu.Lock()
	defer es.mu.Unlock()
	if es.by == nil {
		es.by = map[docker.Options]*engine{}
	}
	if es.by[o] == nil {
		es.by[o] = &engine{options: o, folder: es.folder, log: es.log, swept: &es.swept}
	}
	return es.by[o]
}

// disks are those of the state folder, and of the data of the Engines that were reached.
func (es *engines) disks() []web.Disk {
	dirs := map[string]string{es.folder.Path: "state"}
	es.mu.Lock()
	all := slices.Collect(maps.Values(es.by))
	es.mu.Unlock()
	for _, e := range all {
		if root := e.dataRoot.Load(); root != nil {
			dirs[*root] = "engine"
		}
	}
	var out []web.Disk
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil { // else it is not on this machine, or not ours to see
			out = append(out, web.Disk{Place: dirs[dir], Dir: dir, Free: st.Bavail * uint64(st.Bsize), Size: st.Blocks * uint64(st.Bsize)})
		}
	}
	return out
}

// expireImages removes the names of images that jobs gave and none has used for a while, on the Engines that were reached.
func (es *engines) expireImages(ctx context.Context) error {
	es.mu.Lock()
	all := slices.Collect(maps.Values(es.by))
	es.mu.Unlock()
	var errs []error
	for _, e := range all {
		e.mu.Lock()
		conn, images := e.conn, e.images
		e.mu.Unlock()
		if conn != nil {
			errs = append(errs, executor.ExpireImages(ctx, conn, images, e.log))
		}
	}
	return errors.Join(errs...)
}
