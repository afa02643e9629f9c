package cli

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/state"
)

// TestSweptOnce: an Engine that two [[runners]] name in different ways is swept before the first job, and never again.
func TestSweptOnce(t *testing.T) {
	t.Parallel()
	var es engines
	var swept, early, tries atomic.Int64
	var all sync.WaitGroup
	for _, host := range []string{"", "unix:///var/run/docker.sock", "unix:///run/docker.sock", "tcp://127.0.0.1:2375"} {
		e := es.of(&config.Docker{Host: host})
		all.Go(func() {
			for e.swept.first("the Engine", func() error {
				if tries.Add(1) == 1 { // the Engine goes away meanwhile
					return errors.New("away")
				}
				swept.Add(1)
				return nil
			}) != nil {
				continue
			}
			if swept.Load() == 0 { // its jobs begin now
				early.Add(1)
			}
		})
	}
	all.Wait()
	_ = es.of(&config.Docker{}).swept.first("another", func() error { swept.Add(1); return nil })
	if swept.Load() != 2 || early.Load() != 0 {
		t.Errorf("swept %d times, %d too early", swept.Load(), early.Load())
	}
}

// TestLayersDir: images lie where the Engine or its containerd says; else in the usual places of containerd, if they are there.
func TestLayersDir(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	own := filepath.Join(root, "containerd", "daemon")
	if err := os.MkdirAll(filepath.Join(own, "io.containerd.snapshotter.v1.test"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		machine docker.Machine
		want    string
	}{
		{docker.Machine{DataRoot: root, LayersDir: root, StorageDriver: "overlay2"}, root},
		{docker.Machine{DataRoot: root, LayersDir: "/told", StorageDriver: "test", ContainerdImages: true}, "/told"},
		{docker.Machine{DataRoot: root, StorageDriver: "test", ContainerdImages: true, ContainerdSocket: "/var/run/docker/containerd/containerd.sock"}, own},
		{docker.Machine{DataRoot: root, StorageDriver: "other", ContainerdImages: true}, ""},
	} {
		if got := layersDir(c.machine); got != c.want {
			t.Errorf("%+v: %q, not %q", c.machine, got, c.want)
		}
	}
}

// TestDataOfEngines: folders of an Engine's data are looked for each time, and only for one that is on this machine.
func TestDataOfEngines(t *testing.T) {
	t.Parallel()
	pong := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("API-Version", "1.47") })
	connect := func(network, address string) *docker.Engine {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: pong}
		go func() { _ = srv.Serve(l) }()
		t.Cleanup(func() { srv.Close() })
		e, err := docker.Connect(t.Context(), docker.Options{Host: network + "://" + l.Addr().String()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		return e
	}
	socketDir, err := os.MkdirTemp("", "slipway")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socketDir) })
	root := t.TempDir()
	near := diskEngine{&known{Engine: connect("unix", filepath.Join(socketDir, "s")), machine: docker.Machine{DataRoot: root, StorageDriver: "test", ContainerdImages: true}}}
	if got := near.DataDir(); got != "" {
		t.Errorf("before there is an image: %q", got)
	}
	own := filepath.Join(root, "containerd", "daemon")
	if err := os.MkdirAll(filepath.Join(own, "io.containerd.snapshotter.v1.test"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := near.DataDir(); got != own {
		t.Errorf("%q, not %q", got, own)
	}
	far := &known{Engine: connect("tcp", "127.0.0.1:0"), machine: docker.Machine{DataRoot: root, LayersDir: root, StorageDriver: "overlay2"}}
	if got := (diskEngine{far}).DataDir(); got != "" {
		t.Errorf("of an Engine behind TCP: %q", got)
	}
	folder := &state.Folder{Path: t.TempDir()}
	apart := t.TempDir()
	if err := unix.Mount("tmpfs", apart, "tmpfs", 0, "size=1m"); err != nil && os.Geteuid() == 0 {
		t.Fatal(err)
	} else if err == nil {
		t.Cleanup(func() { _ = unix.Unmount(apart, unix.MNT_DETACH) })
	}
	told := func(archives string) *known {
		return &known{Engine: near.Engine, machine: docker.Machine{DataRoot: root, LayersDir: own, ArchivesDir: archives, ContainerdImages: true}}
	}
	for k, want := range map[*known]int{near.known: 3, far: 1, told(root): 3, told("/nowhere"): 3, told(apart): 4} {
		if k.machine.ArchivesDir == apart && os.Geteuid() != 0 {
			continue // it has no disk of its own then
		}
		es := &engines{folder: folder}
		es.of(&config.Docker{}).known.Store(k)
		if got := es.disks(); len(got) != want {
			t.Errorf("of %+v: %+v", k.machine, got)
		}
	}
}
