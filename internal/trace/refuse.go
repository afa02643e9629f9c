package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/slipway-ci/slipway/internal/job"
)

var errNoSpool = errors.New("nothing is kept of a refused job")

// Refuse ends a job that the runner cannot even begin: all its log is why, and what the reader can do (hint, may be
// empty). Nothing of it is kept on disk. ctx bounds the delivery.
func Refuse(ctx context.Context, server Server, why error, hint string, log *slog.Logger) error {
	log = orDiscard(log)
	store := &spool{log: log, err: errNoSpool}
	r := job.Result{State: job.Failed, Reason: job.SystemFailure, Err: why, Hint: hint}
	for _, line := range ending(r) {
		store.runner([]byte(line + reset + "\n"))
	}
	u := newUploader(server, store, "", Record{Final: &Final{State: r.State, Reason: r.Reason}}, log)
	if err := u.finish(ctx, DefaultFinalTries); err != nil {
		return fmt.Errorf("refuse job: %w", err)
	}
	return nil
}
