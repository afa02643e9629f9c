package cli

import (
	"log/slog"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/terminal"
)

// serveTerminals serves the web terminals of jobs, if the configuration wants that; else it returns nil.
func serveTerminals(c config.SessionServer, log *slog.Logger) (*terminal.Server, error) {
	if c.ListenAddress == "" {
		return nil, nil
	}
	s, err := terminal.Listen(terminal.Options{
		Listen: c.ListenAddress, Advertise: c.AdvertiseAddress, Timeout: time.Duration(c.SessionTimeout) * time.Second, Log: log,
	})
	if err != nil {
		return nil, withHint(err, "correct listen_address in [session_server], or take it out")
	}
	log.Info("serving web terminals of jobs", "address", c.ListenAddress)
	return s, nil
}

// takeDoor is the door that GitLab was told of with the request that brought a job; nil if there is none.
func (s *service) takeDoor(spec *job.Spec) *terminal.Door {
	d, ok := s.doors.LoadAndDelete(spec.Token)
	if !ok {
		return nil
	}
	return d.(*terminal.Door)
}
