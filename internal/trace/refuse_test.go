package trace

import (
	"errors"
	"os"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/slipway-ci/slipway/internal/job"
)

func TestRefuse(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.onUpdate = finalTurn(errDown, job.Ack{Verdict: job.Resend})
		if err := Refuse(t.Context(), s, errors.New("no Engine"), "start it", nil); err != nil {
			t.Fatal(err)
		}
		want := "\x1b[31;1mERROR: Job failed (system failure): no Engine\x1b[0;m\n\x1b[0KHint: start it\x1b[0;m\n"
		if got := s.text(); got != want {
			t.Errorf("log %q, want %q", got, want)
		}
		if s.final == nil || s.final.State != job.Failed || s.final.Reason != job.SystemFailure {
			t.Errorf("final state %+v", s.final)
		}
		// Told that the log is not ours, it sends all of it again; the server of this test has it, though.
		calls := []string{"0s PATCH", "0s PUT failed", "1s PUT failed", "1s PATCH", "1s PUT failed"}
		if got := s.took(); !slices.Equal(got, calls) {
			t.Errorf("calls %q, want %q", got, calls)
		}
	})
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left on disk: %v", left)
	}
}
