package executor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/netns"
)

// The pace of the probes.
const (
	probePause   = 20 * time.Millisecond
	probeTimeout = time.Second
)

// answers waits until a port of a service takes a connection. The error says why none does: the service has ended, or the
// time is over.
func (sv *services) answers(ctx context.Context, s *service) error {
	// What cannot be probed is only watched.
	if len(s.ports) == 0 || sv.e.Engine.Socket() == "" { // on another machine, its addresses lead nowhere
		return nil
	}
	began := time.Now()
	for {
		found, err := sv.e.Engine.Find(ctx, s.id)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			return err
		case !found.Running:
			return ended(found.Exit)
		case sv.dialAny(ctx, s, found):
			return nil
		}
		select {
		case <-time.After(probePause):
		case <-ctx.Done():
			return fmt.Errorf("none of its ports %v answers after %s", s.ports, time.Since(began).Round(100*time.Millisecond))
		}
	}
}

func ended(how docker.Exit) error {
	if how.OOMKilled {
		return errors.New("it was killed for want of memory (service_memory in [runners.docker] limits it)")
	}
	return fmt.Errorf("it ended with exit code %d", how.Code)
}

// dialAny reports whether one of the ports takes a connection now.
func (sv *services) dialAny(ctx context.Context, s *service, f docker.Found) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	address, ok := f.Addresses[s.container.Network]
	if !ok { // it shares the machine's network
		address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	var ns *netns.Namespace // from within: there, no firewall and no container that we may run in stands between
	if IsAdmin() {
		if in, err := netns.Open(f.PID); err == nil {
			ns = in
			defer ns.Close()
		}
	}
	answered := make(chan bool, len(s.ports))
	for _, port := range s.ports {
		go func() {
			to := netip.AddrPortFrom(address, port)
			conn, err := ns.Dial(ctx, "tcp", to)
			if err != nil && ns != nil { // its process may have another number where the Engine is
				conn, err = (*netns.Namespace)(nil).Dial(ctx, "tcp", to)
			}
			if err == nil {
				conn.Close()
			}
			answered <- err == nil
		}()
	}
	any := false
	for range s.ports {
		if <-answered {
			any = true
			cancel() // the others are of no interest
		}
	}
	return any
}
