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

// TestPullFailure: what the Engine lost itself is not told as a wrong name, whatever it says is not found.
func TestPullFailure(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]job.Reason{
		"manifest for x:1 not found: manifest unknown":      job.ConfigurationError,
		"lease does not exist: not found":                   job.ImagePullFailure,
		"NotFound: content digest sha256:c0ffee: not found": job.ImagePullFailure,
	} {
		err := pullFailure(&docker.PullError{Image: "x", Kind: docker.PullMisconfigured, Err: errors.New(message)})
		if r := job.ResultOf(err, nil); r.Reason != want || (r.Hint == "") != (want == job.ImagePullFailure) {
			t.Errorf("%s: %s, %q", message, r.Reason, r.Hint)
		}
	}
}
