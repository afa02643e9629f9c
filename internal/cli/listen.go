package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/web"
)

// serveMonitor serves metrics and health at an address, until stop. Without an address it does nothing.
func serveMonitor(o *observer, address string, log *slog.Logger) (stop func(), err error) {
	address, err = config.ListenAddress(address)
	if err != nil {
		return nil, usagef("write 127.0.0.1:9252, or another host:port", "listen_address: %v", err)
	}
	if address == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, withHint(fmt.Errorf("serve metrics: %w", err), "choose another listen_address (--listen-address), or leave it out")
	}
	log.Info("serving metrics and health; everybody who gets there may read them", "address", l.Addr().String())
	return serveOn(l, o.Handler(), log), nil
}

// serveOn serves until stop.
func serveOn(l net.Listener, h http.Handler, log *slog.Logger) (stop func()) {
	srv := web.Server(h)
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("requests are not answered any more", "address", l.Addr().String(), "error", err)
		}
	}()
	return func() { _ = srv.Close() }
}
