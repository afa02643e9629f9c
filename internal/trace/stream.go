package trace

import "os"

// stream is one way into the log, with the chain behind it. The trace's mutex guards it.
type stream struct {
	trace  *Trace
	mask   *mask
	prefix *prefixer // nil = none
	lines  *stamper  // nil without timestamps
}

// newStream makes a stream. prefix is what stands before each line of it.
func (t *Trace) newStream(id string, isJob bool, prefix string) *stream {
	s := &stream{trace: t}
	store, join := sink(t.spool.runner), t.plain.runner
	if isJob {
		store, join = t.spool.job, t.plain.job
	}
	next := sink(func(p []byte) { join(p, store) })
	if t.timestamps {
		s.lines = &stamper{stream: id, next: store}
		next = s.lines.write
	}
	if prefix != "" {
		s.prefix = &prefixer{prefix: prefix, next: next}
		next = s.prefix.write
	}
	if isJob {
		text := next
		next = func(p []byte) { t.limit.write(p, text) }
	}
	s.mask = t.secrets.mask(next)
	return s
}

// Write takes what the job prints.
func (s *stream) Write(p []byte) (int, error) {
	t := s.trace
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, os.ErrClosed
	}
	if !t.limit.full {
		s.mask.write(p)
		t.stored()
	}
	return len(p), nil
}

// end passes on all that is held back; what comes next begins a new line.
func (s *stream) end() {
	s.mask.release()
	if s.prefix != nil {
		s.prefix.end()
	}
	if s.lines != nil {
		s.lines.end()
	}
}
