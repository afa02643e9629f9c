package runner

import (
	"context"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// queue is one runner's queue on a small GitLab of our own. With a hold it behaves as GitLab with long polling: a
// request that knows the state of the queue is held until that changes, is then answered with nothing, and the job
// goes to the next request. Without a hold every request is answered at once.
type queue struct {
	hold    time.Duration
	latency time.Duration           // of every answer
	direct  bool                    // unlike GitLab: a held request is answered with the job
	answer  func(n int) (err error) // of the n-th request, from 0; nil = all is well

	mu       sync.Mutex
	jobs     []*job.Spec
	state    int           // changes with every job that comes or goes
	told     int           // the state that the runner knows
	changed  chan struct{} // closed at the next change; made in the test's bubble
	asked    []time.Time   // of each request
	handed   map[int64]time.Time
	inFlight int
	most     int // requests in flight at once
	gaveUp   int // requests that the runner canceled
}

func (q *queue) push(jobs ...*job.Spec) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs = append(q.jobs, jobs...)
	q.change()
}

func (q *queue) change() {
	q.state++
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

func (q *queue) RequestJob(ctx context.Context) (*job.Spec, error) {
	q.mu.Lock()
	n := len(q.asked)
	q.asked = append(q.asked, time.Now())
	q.inFlight++
	q.most = max(q.most, q.inFlight)
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		q.inFlight--
		q.mu.Unlock()
	}()

	if err := q.pass(ctx, q.latency, nil); err != nil {
		return nil, err
	}
	if q.answer != nil {
		if err := q.answer(n); err != nil {
			return nil, err
		}
	}
	if held, err := q.held(ctx); err != nil || (held && !q.direct) {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told = q.state
	if len(q.jobs) == 0 {
		return nil, nil
	}
	spec := q.jobs[0]
	q.jobs = q.jobs[1:]
	if q.handed == nil {
		q.handed = map[int64]time.Time{}
	}
	q.handed[spec.ID] = time.Now()
	q.change()
	return spec, nil
}

// held waits while the runner knows the state of the queue.
func (q *queue) held(ctx context.Context) (held bool, err error) {
	q.mu.Lock()
	if q.hold == 0 || q.told != q.state {
		q.mu.Unlock()
		return false, nil
	}
	if q.changed == nil {
		q.changed = make(chan struct{})
	}
	changed := q.changed
	q.mu.Unlock()
	return true, q.pass(ctx, q.hold, changed)
}

func (q *queue) pass(ctx context.Context, d time.Duration, or <-chan struct{}) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
	case <-or:
	case <-ctx.Done():
		q.mu.Lock()
		q.gaveUp++
		q.mu.Unlock()
		return ctx.Err()
	}
	return nil
}

func (q *queue) requests() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.asked)
}

// askedAt returns the seconds since start of each request.
func (q *queue) askedAt(start time.Time) []float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	var at []float64
	for _, t := range q.asked {
		at = append(at, t.Sub(start).Seconds())
	}
	return at
}
