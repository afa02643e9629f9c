package runner

import "time"

const (
	// minWait is the shortest time between an empty answer and the next request to a server that does not hold
	// requests, and the average time between quick empty answers of one that does.
	minWait = time.Second
	// activeFor is how long a runner counts as active after it got a job or one of its jobs ended: the jobs of a
	// pipeline come in quick succession.
	activeFor = time.Minute
	// activeShare: while active, a runner waits for check_interval divided by this. An operator who set a long
	// interval to spare the server still gets a long one.
	activeShare = 3
	// longHold: an empty answer that took so long was held by the server, whatever check_interval is.
	longHold = 10 * time.Second
	// burst is how many quick empty answers in a row of a long-polling server are followed by a request at once.
	burst = 2
)

// pace decides when a runner asks again. The zero value is a runner that has not met long polling; newPace gives
// the server the benefit of the doubt.
type pace struct {
	longPoll bool             // the server is believed to hold requests while it has no job
	quick    [burst]time.Time // when its last quick empty answers came, oldest first
	active   time.Time        // when the runner last got a job or ended one
}

func newPace() pace { return pace{longPoll: true} }

// afterEmpty returns when to ask again after an answer without a job that took so long.
//
// GitLab: a held request is released with an empty answer both when its time is over and when the queue has changed;
// the job, if it is for this runner, comes with the next request. And the first answer after a job is empty and
// quick, because it only brings the new state of the queue that the next request is held for. So with long polling
// the next request follows at once, unless that happens too often.
func (p *pace) afterEmpty(now time.Time, took, interval time.Duration) time.Time {
	if took >= min(interval, longHold) {
		p.longPoll = true
		return now
	}
	if p.longPoll {
		oldest := p.quick[0]
		copy(p.quick[:], p.quick[1:])
		p.quick[burst-1] = now
		if now.Sub(oldest) >= burst*minWait {
			return now
		}
		p.longPoll = false
	}
	return now.Add(p.wait(now, interval))
}

// wait is the time between two requests to a server that does not hold them.
func (p *pace) wait(now time.Time, interval time.Duration) time.Duration {
	if now.Sub(p.active) < activeFor {
		return max(minWait, interval/activeShare)
	}
	return interval
}
