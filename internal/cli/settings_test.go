package cli

import (
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
)

// TestServiceSettings: what a key for services stands for that is not a key of the Engine's, too.
func TestServiceSettings(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for _, c := range []struct {
		docker     config.Docker
		privileged bool
		wait       time.Duration
	}{
		{config.Docker{WaitForServicesTimeout: 30}, false, 30 * time.Second},
		{config.Docker{WaitForServicesTimeout: -1}, false, 0},
		{config.Docker{Privileged: true}, true, 0},
		{config.Docker{Privileged: true, ServicesPrivileged: &no}, false, 0},
		{config.Docker{ServicesPrivileged: &yes}, true, 0},
	} {
		s := serviceSettings(&c.docker)
		if s.Container.Security.Privileged != c.privileged || s.Wait != c.wait {
			t.Errorf("%+v: privileged %t, wait %s", c.docker, s.Container.Security.Privileged, s.Wait)
		}
	}
}
