package cli

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/disk"
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

	found func() // is called when it is reached

	mu    sync.Mutex            // while it is being reached
	known atomic.Pointer[known] // nil = it was not reached; for who must not wait for an Engine that hangs, too
}

// known is an Engine that answered, what it said of its machine, and the record of its images.
type known struct {
	*docker.Engine
	machine docker.Machine
	images  *ledger.Ledger
}

// layers is the folder of this machine where an Engine's images and its build cache lie; "" = nobody knows. An Engine that is not
// reached through a socket may be on another machine, where such folders have the same names.
func (k *known) layers() string {
	if k.Socket() == "" {
		return ""
	}
	return layersDir(k.machine) // of an Engine without any images it may not be there yet
}

// folders are all of this machine where an Engine's data lies, as far as they are known.
func (k *known) folders() []string {
	if k.Socket() == "" {
		return nil
	}
	return dataDirs(k.machine)
}

// dataDirs are the folders of an Engine on this machine: of all its data, of its images and its build cache, and of what it pulled, if
// that has a disk of its own.
func dataDirs(m docker.Machine) []string {
	out := []string{m.DataRoot}
	layers := layersDir(m)
	if layers != "" && layers != m.DataRoot {
		out = append(out, layers)
	}
	if archives, err := disk.Look(m.ArchivesDir); err == nil {
		if space, err := disk.Look(layers); err == nil && space.Device != archives.Device {
			out = append(out, m.ArchivesDir)
		}
	}
	return out
}

// layersDir says where the images and the build cache of an Engine lie. If its containerd does not tell (its socket is root's, and may
// not be in Slipway's container), it is looked for where containerd has it by default, and where an Engine gives it to its own containerd.
func layersDir(m docker.Machine) string {
	if m.LayersDir != "" {
		return m.LayersDir
	}
	dirs := []string{"/var/lib/containerd", filepath.Join(m.DataRoot, "containerd", "daemon")}
	if strings.Contains(m.ContainerdSocket, "/docker/containerd/") {
		slices.Reverse(dirs)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "io.containerd.snapshotter.v1."+m.StorageDriver)); err == nil {
			return dir
		}
	}
	return ""
}

// reached gives an Engine that answers now, what it said of its machine, and the record of its images.
func (e *engine) reached(ctx context.Context) (*docker.Engine, docker.Machine, *ledger.Ledger, error) {
	conn, err := e.get(ctx)
	if err != nil {
		return nil, docker.Machine{}, nil, err
	}
	k := e.known.Load()
	return conn, k.machine, k.images, nil
}

func (e *engine) get(ctx context.Context) (*docker.Engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if k := e.known.Load(); k != nil {
		return k.Engine, k.alive(ctx)
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
	machine, err := conn.Machine(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	err = e.swept.first(machine.ID, func() error {
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
	images, err := ledger.Open(ledger.Folder(e.folder.Ledger(), machine.ID))
	if err != nil {
		conn.Close()
		return nil, err
	}
	if err := executor.RepairImages(ctx, conn, images); err != nil {
		e.log.Warn("some images do not have their names back", "error", err)
	}
	if conn.Socket() == "" {
		e.log.Warn("the Engine is not reached through a socket: it must be on this machine, where the jobs' folders are", "host", conn.Host())
	}
	e.log.Info("reached the Docker Engine", "host", conn.Host(), "version", version, "api", conn.APIVersion())
	e.known.Store(&known{conn, machine, images})
	e.found()
	return conn, nil
}

// signOfLife is how long an Engine may take to answer a ping.
const signOfLife = 20 * time.Second

// alive asks for that.
func (k *known) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, signOfLife)
	defer cancel()
	return k.Ping(ctx)
}

func (e *engine) connect(ctx context.Context) (*docker.Engine, error) {
	ctx, cancel := context.WithTimeout(ctx, signOfLife)
	defer cancel()
	return docker.Connect(ctx, e.options)
}

// engines are the Engines of a configuration, one connection each.
type engines struct {
	folder *state.Folder
	log    *slog.Logger
	found  func() // is called when one is reached

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
		es.by[o] = &engine{options: o, folder: es.folder, log: es.log, swept: &es.swept, found: es.found}
	}
	return es.by[o]
}

// known are the Engines that were reached.
func (es *engines) known() (out []*known) {
	es.mu.Lock()
	defer es.mu.Unlock()
	for _, e := range es.by {
		if k := e.known.Load(); k != nil {
			out = append(out, k)
		}
	}
	return out
}

// disks are those of the state folder, and of the data of the Engines that were reached.
func (es *engines) disks() []web.Disk {
	dirs := map[string]string{es.folder.Path: "state"}
	for _, k := range es.known() {
		for _, dir := range k.folders() {
			dirs[dir] = "engine"
		}
	}
	var out []web.Disk
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if space, err := disk.Look(dir); err == nil { // else it is not on this machine, or not ours to see
			out = append(out, web.Disk{Place: dirs[dir], Dir: dir, Free: space.Free, Size: space.Size})
		}
	}
	return out
}

// expireImages removes the names of images that jobs gave and none has used for a while, on the Engines that were reached.
func (es *engines) expireImages(ctx context.Context) error {
	var errs []error
	for _, k := range es.known() {
		errs = append(errs, executor.ExpireImages(ctx, k.Engine, k.images, es.log))
	}
	return errors.Join(errs...)
}
