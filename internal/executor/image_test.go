package executor

import (
	"errors"
	"testing"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

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
