package trace

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// Server is where a job's log and state go. Its calls come one after the other, never two at once.
type Server interface {
	// Update reports the state. An error means that the server said nothing about the job.
	Update(ctx context.Context, u job.Update) (job.Ack, error)
	// PatchTrace sends the piece of the log that begins at byte start.
	PatchTrace(ctx context.Context, start int64, chunk []byte, debug bool) (job.Ack, error)
}

const (
	startInterval = 3 * time.Second        // between two PATCHes, until the server says otherwise
	flushInterval = 200 * time.Millisecond // between two PATCHes at stage boundaries
	maxPatch      = 1 << 20                // bytes of one PATCH
	callTimeout   = 2 * time.Minute        // of one call; the client's own is an hour

	// While nothing is accepted, the state is sent again, for its answer says whether the job is still wanted.
	// GitLab: its runner does so after 30 s, whatever the interval. Asking sooner finds cancels sooner.
	minKeepAlive, maxKeepAlive = 5 * time.Second, 30 * time.Second

	// openLine is how old an open line must be to be shown as it is.
	openLine = time.Second
)

var (
	errGone     = errors.New("the server no longer wants the job")
	errNotFound = errors.New("the server does not find the job's log")
	errRange    = errors.New("the server refuses every range of the log")
)

// uploader brings the spool to the server: in the background while the job runs (run), then to the end (finish).
// The two are never at work at the same time.
type uploader struct {
	server Server
	spool  *spool
	dir    string // of the record, "" = none is kept
	log    *slog.Logger

	// Called by run; none may be nil then.
	aborted   func() // the server gave the job up
	canceling func() // the server asks for a graceful cancel; may be called often
	showLines func(begunBefore time.Time)

	recMu sync.Mutex
	rec   Record

	sent     int64 // bytes of the log that the server has
	interval time.Duration
	accepted time.Time // when the server last took something
	asked    time.Time // when it was last told that the job runs
	patched  time.Time // when it was last sent log
	gone     bool      // it gave the job up
	failing  bool      // the last call failed

	wake   chan struct{}
	asleep atomic.Bool // run waits for something to send
	hurry  atomic.Bool // run shall not wait for the interval
}

func newUploader(server Server, store *spool, dir string, rec Record, log *slog.Logger) *uploader {
	size, _ := store.sums()
	return &uploader{
		server: server, spool: store, dir: dir, rec: rec, log: log,
		sent: min(rec.Sent, size), interval: startInterval, wake: make(chan struct{}, 1),
	}
}

// poke tells run that there is something new. It is cheap.
func (u *uploader) poke() {
	if u.asleep.CompareAndSwap(true, false) {
		u.rouse()
	}
}

// flush tells run to send soon.
func (u *uploader) flush() {
	u.hurry.Store(true)
	u.rouse()
}

func (u *uploader) rouse() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// run sends what is new, and the sign of life, until stop is closed or the server gives the job up.
func (u *uploader) run(ctx context.Context, stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !u.gone {
		select {
		case <-stop:
			return
		default:
		}
		u.asleep.Store(true)
		patch, at := u.next(time.Now())
		if wait := time.Until(at); wait > 0 {
			timer.Reset(wait)
			select {
			case <-stop:
				return
			case <-u.wake:
			case <-timer.C:
			}
			continue
		}
		u.asleep.Store(false)
		if patch {
			u.hurry.Store(false)
			u.report(u.send(ctx))
		} else {
			u.report(u.keepAlive(ctx))
		}
	}
}

// next is what to do next, a PATCH or a sign of life, and when.
func (u *uploader) next(now time.Time) (patch bool, at time.Time) {
	if u.asked.IsZero() {
		return false, now // GitLab: before all else, the job is ours only then
	}
	u.showLines(now.Add(-openLine))
	hurry := u.hurry.Swap(false) // before size is read: what is flushed was written before
	at = u.accepted
	if u.asked.After(at) {
		at = u.asked
	}
	at = at.Add(min(max(u.interval, minKeepAlive), maxKeepAlive))
	if u.allSent() {
		return false, at
	}
	u.asleep.Store(false) // more does not change the time
	wait := u.interval
	if hurry {
		u.hurry.Store(true)
		wait = min(wait, flushInterval)
	}
	if p := u.patched.Add(wait); !p.After(at) {
		return true, p
	}
	return false, at
}

// keepAlive tells that the job runs, and hears whether it shall.
func (u *uploader) keepAlive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	size, sum := u.spool.sums()
	ack, err := u.server.Update(ctx, job.Update{State: job.Running, Checksum: sum, ByteSize: size})
	u.asked = time.Now()
	if err != nil {
		return err
	}
	u.heed(ack)
	switch ack.Verdict {
	case job.Forbidden, job.NotFound:
		u.abort()
		return nil
	case job.Resend:
		u.sent = 0
	}
	u.accepted = u.asked
	return nil
}

// send sends what there is now.
func (u *uploader) send(ctx context.Context) error {
	size, _ := u.spool.sums()
	refused := false
	for u.sent < size {
		taken, err := u.patch(ctx)
		switch {
		case err != nil:
			return err
		case !taken && refused:
			return errRange
		}
		refused = !taken
		u.save()
	}
	return nil
}

// patch sends one piece. It reports false if the server wants another.
func (u *uploader) patch(ctx context.Context) (taken bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer func() { u.patched = time.Now() }()
	chunk, err := u.spool.read(u.sent, maxPatch)
	if err != nil {
		return false, err
	}
	ack, err := u.server.PatchTrace(ctx, u.sent, chunk, u.rec.Debug)
	if err != nil {
		return false, err
	}
	u.heed(ack)
	switch {
	case u.gone:
		return false, errGone
	case ack.Verdict == job.Forbidden:
		u.abort()
		return false, errGone
	case ack.Verdict == job.NotFound:
		return false, errNotFound // GitLab: no reason to stop
	case ack.Verdict == job.OutOfRange:
		size, _ := u.spool.sums()
		u.sent = min(max(ack.Offset, 0), size)
		return false, nil
	}
	u.sent += int64(len(chunk))
	u.accepted = time.Now()
	return true, nil
}

// heed takes what every answer may carry.
func (u *uploader) heed(ack job.Ack) {
	if ack.Interval > 0 {
		u.interval = ack.Interval
	}
	switch ack.Standing {
	case job.Canceling:
		if u.canceling != nil {
			u.canceling()
		}
	case job.Aborted:
		u.abort()
	}
}

func (u *uploader) abort() {
	if u.gone {
		return
	}
	u.gone = true
	u.log.Info("the server no longer wants the job")
	if u.aborted != nil {
		u.aborted()
	}
}

// report logs the first of several failures in a row, and the recovery.
func (u *uploader) report(err error) {
	switch {
	case u.gone: // said already
	case err != nil && !u.failing:
		u.log.Warn("the job's log or state cannot be sent, trying on", "error", err)
	case err != nil:
		u.log.Debug("the job's log or state still cannot be sent", "error", err)
	case u.failing:
		u.log.Info("the job's log and state can be sent again")
	}
	u.failing = err != nil
}

// save keeps the record up to date, if there is one. A record that is behind costs a 416 after a crash, so its errors
// are no news.
func (u *uploader) save() {
	if u.dir == "" {
		return
	}
	u.recMu.Lock()
	defer u.recMu.Unlock()
	u.rec.Sent = u.sent
	u.rec.Size, u.rec.Checksum = u.spool.sums()
	if err := u.rec.save(u.dir); err != nil {
		u.log.Debug("the job's record is behind", "error", err)
	}
}
