package executor

import (
	"errors"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestHintsOfPulls: who cannot pull is told what may help.
func TestHintsOfPulls(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind     docker.PullKind
		message  string
		hintPart string
	}{
		{docker.PullUnreachable, "dial tcp: lookup regsitry.example.com on 10.0.0.1:53: no such host", "check the image's name"},
		{docker.PullUnreachable, "dial tcp 10.0.0.1:443: connect: connection refused", "does not answer; try again later"},
		{docker.PullMisconfigured, "manifest unknown", "DOCKER_AUTH_CONFIG"},
		{docker.PullLimited, "toomanyrequests", "use a mirror"},
	} {
		r := job.ResultOf(pullFailure(&docker.PullError{Image: "x", Kind: c.kind, Err: errors.New(c.message)}), nil)
		if !strings.Contains(r.Hint, c.hintPart) {
			t.Errorf("%s: the hint is %q", c.message, r.Hint)
		}
	}
}
