package runner

import "slices"

// slots counts the jobs that run on the machine, and queues those that were taken when no slot was free.
type slots struct {
	total   int
	running int
	waiting []chan struct{} // first come, first served
	open    bool            // nobody waits any more
}

// free is the number of jobs that could start now; below zero after `concurrent` was lowered.
func (s *slots) free() int { return s.total - s.running - len(s.waiting) }

// take books a slot for a job. The job may start when the channel is closed, which is at once if a slot is free.
func (s *slots) take() <-chan struct{} {
	c := make(chan struct{})
	s.waiting = append(s.waiting, c)
	s.grant()
	return c
}

// release gives a slot back.
func (s *slots) release() {
	s.running--
	s.grant()
}

// resize changes the number of slots. Running jobs keep theirs.
func (s *slots) resize(total int) {
	s.total = total
	s.grant()
}

// openAll lets every waiting job in, and all that come later: at shutdown a job starts only to be reported.
func (s *slots) openAll() {
	s.open = true
	s.grant()
}

func (s *slots) grant() {
	for len(s.waiting) > 0 && (s.open || s.running < s.total) {
		close(s.waiting[0])
		s.waiting = s.waiting[1:]
		s.running++
	}
}

// place is what tells one job of a runner from its others.
type place struct {
	id        int // lowest free among the jobs of the runner
	projectID int // lowest free among its jobs of that project
	project   int64
	left      bool // the job only reports its end: another may have the numbers
}

// places are those taken by the jobs of one runner.
type places []*place

func (ps *places) take(project int64) *place {
	p := &place{
		id: lowestFree(func(n int) bool {
			return slices.ContainsFunc(*ps, func(p *place) bool { return !p.left && p.id == n })
		}),
		projectID: lowestFree(func(n int) bool {
			return slices.ContainsFunc(*ps, func(p *place) bool { return !p.left && p.project == project && p.projectID == n })
		}),
		project: project,
	}
	*ps = append(*ps, p)
	return p
}

func (ps *places) release(p *place) {
	*ps = slices.DeleteFunc(*ps, func(q *place) bool { return q == p })
}

func lowestFree(taken func(int) bool) int {
	n := 0
	for taken(n) {
		n++
	}
	return n
}
