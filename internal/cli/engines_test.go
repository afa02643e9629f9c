package cli

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/slipway-ci/slipway/internal/config"
)

// TestSweptOnce: an Engine that two [[runners]] name in different ways is swept before the first job, and never again.
func TestSweptOnce(t *testing.T) {
	t.Parallel()
	var es engines
	var swept, early atomic.Int64
	var all sync.WaitGroup
	for _, host := range []string{"", "unix:///var/run/docker.sock", "unix:///run/docker.sock", "tcp://127.0.0.1:2375"} {
		e := es.of(&config.Docker{Host: host})
		all.Go(func() {
			e.swept.first("the Engine", func() { swept.Add(1) })
			if swept.Load() == 0 { // its jobs begin now
				early.Add(1)
			}
		})
	}
	all.Wait()
	es.of(&config.Docker{}).swept.first("another", func() { swept.Add(1) })
	if swept.Load() != 2 || early.Load() != 0 {
		t.Errorf("swept %d times, %d too early", swept.Load(), early.Load())
	}
}
