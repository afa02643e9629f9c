package cli

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/docker"
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

// TestLayersDir: images lie in the Engine's folder, or in that of its containerd.
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
		{docker.Machine{DataRoot: root, StorageDriver: "overlay2"}, root},
		{docker.Machine{DataRoot: root, StorageDriver: "test", ContainerdImages: true, ContainerdSocket: "/var/run/docker/containerd/containerd.sock"}, own},
		{docker.Machine{DataRoot: root, StorageDriver: "other", ContainerdImages: true}, ""},
	} {
		if got := layersDir(c.machine); got != c.want {
			t.Errorf("%+v: %q, not %q", c.machine, got, c.want)
		}
	}
}
