package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestTokenRotation: a token near its end is replaced in the file and in the running Slipway, while a job runs.
func TestTokenRotation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	running := r.enqueue(spec("echo begun", untilTold))
	r.until(running, "\nbegun\n")
	old := r.AddRunner(coordinator.Runner{Description: "expiring", Tags: []string{"expiring"}, TokenLifetime: time.Hour}).Token
	text := r.readOwn()
	// A runner of its own, three quarters of whose life are over.
	more := fmt.Sprintf(`
# keep me
[[runners]]
  name = "expiring"
  url = %q
  token = %q
  token_obtained_at = %s
  token_expires_at = %s
  executor = "docker"
  [runners.docker]
    image = %q
    pull_policy = "never"
`, r.url, old.Reveal(), time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), time.Now().Add(10*time.Minute).UTC().Format(time.RFC3339), alpine)
	r.writeOwn(text + more)
	r.eventually("the token is replaced", func() bool {
		text, err := os.ReadFile(r.configPath())
		return err == nil && !strings.Contains(string(text), old.Reveal()) && strings.Contains(string(text), "# keep me")
	})
	if o, log := r.end(r.Enqueue(spec("echo with the new token"), "expiring")); o.State != job.Success {
		t.Errorf("a job for the new token ended as %+v\n%s", o, log)
	}
	lacks(t, r.log.String(), old.Reveal())
	r.tell(running)
	if o, log := r.end(running); o.State != job.Success {
		t.Errorf("the job that ran meanwhile ended as %+v\n%s", o, log)
	}
}
