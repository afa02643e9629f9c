package cli

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// supervisor is the systemd that may have started this process; without one, all of it does nothing.
type supervisor struct{ log *slog.Logger }

// tell passes on a state of sd_notify(3).
func (s supervisor) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("systemd cannot be told how slipway does", "state", state, "error", err)
	}
}

// pet keeps systemd's watchdog quiet until ctx ends, as long as alive returns.
func (s supervisor) pet(ctx context.Context, alive func()) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("systemd's watchdog is not understood", "error", err)
	}
	if err != nil || every <= 0 {
		return
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		alive()
		s.tell(daemon.SdNotifyWatchdog)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
