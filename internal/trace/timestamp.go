package trace

import (
	"bytes"
	"time"
)

// maxLine is how much of a line waits for its end, in bytes. A longer line becomes several entries.
const maxLine = 8 << 10

// stampFormat is the time of an entry, always in UTC.
const stampFormat = "2006-01-02T15:04:05.000000Z"

// stamper turns text into GitLab's entries, each a line of its own:
//
//	2026-11-23T09:34:56.845929Z 01O text
//
// time, stream, then ' ', or '+' for what continues the line that the stream's last entry began. An entry ends with
// the line, or with a write that has a carriage return and leaves the line open (progress bars), or when the line is
// too long. Streams interleave by entries.
type stamper struct {
	stream string // two hex digits and O or E
	next   sink
	line   []byte    // begun, not yet an entry
	began  time.Time // when line got its first byte
	plus   bool      // the next entry continues
	out    []byte
}

func (s *stamper) write(p []byte) {
	now := time.Now()
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end >= 0 && len(s.line)+end <= maxLine {
			s.entry(now, p[:end])
			s.plus = false
			p = p[end+1:]
			continue
		}
		part := p
		if end >= 0 {
			part = p[:end]
		}
		part = part[:min(len(part), maxLine-len(s.line))]
		if len(s.line) == 0 {
			s.began = now
		}
		s.line = append(s.line, part...)
		p = p[len(part):]
		if len(p) > 0 || (end < 0 && bytes.IndexByte(part, '\r') >= 0) {
			s.entry(now, nil)
			s.plus = true
		}
	}
	s.pass()
}

// entry writes what is begun, and text.
func (s *stamper) entry(now time.Time, text []byte) {
	s.out = now.UTC().AppendFormat(s.out, stampFormat)
	s.out = append(s.out, ' ')
	s.out = append(s.out, s.stream...)
	if s.plus {
		s.out = append(s.out, '+')
	} else {
		s.out = append(s.out, ' ')
	}
	s.out = append(s.out, s.line...)
	s.out = append(s.out, text...)
	s.out = append(s.out, '\n')
	s.line = s.line[:0]
}

// show makes an entry of a line that was begun before t and is still open: a prompt, or dots that show progress. It
// reports whether there was one.
func (s *stamper) show(t time.Time) bool {
	if len(s.line) == 0 || !s.began.Before(t) {
		return false
	}
	s.entry(time.Now(), nil)
	s.plus = true
	s.pass()
	return true
}

// end makes an entry of an open line and lets the next text begin a new one.
func (s *stamper) end() {
	if len(s.line) > 0 {
		s.entry(time.Now(), nil)
	}
	s.plus = false
	s.pass()
}

func (s *stamper) pass() {
	if len(s.out) > 0 {
		s.next(s.out)
		s.out = s.out[:0]
	}
}

// plain is the log without timestamps: the job's bytes as they are. Only when the job left its line open does the
// runner begin a new one.
type plain struct{ open bool }

func (l *plain) job(p []byte, next sink) {
	if len(p) > 0 {
		l.open = p[len(p)-1] != '\n'
		next(p)
	}
}

func (l *plain) runner(p []byte, next sink) {
	if l.open {
		l.open = false
		next([]byte("\n"))
	}
	next(p)
}
